"""The candidates of the comparison of rankings, their weights, the sets, and the fine-tunings."""

import argparse
import dataclasses
import sys
from pathlib import Path

from experiments import strategies_stamps as stamps
from experiments.strategies_run import Run
from tl_jax.config import (
    RANDOM_WEIGHTS,
    AugmentConfig,
    Config,
    DataConfig,
    InputsConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)
from tl_jax.models.registry import architecture

SETS = ("digits", "fashion_mnist", "elpv", "stamps")  # The first two share compiled programs.
USUAL_SETS = SETS[:3]
RATES, EPOCHS, BATCH_SIZE = (5e-4, 2e-3), 6, 20
START = "start"  # The set of the runs that make weights.


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A network, its weights and the size of its images.

    Attributes:
      name: in tables.
      network: timm's name.
      side: of the images, in pixels.
      weights: "package" for those of ImageNet, or a name of `starts`.
      stage: number of the last stage that is used; None for the whole network.
      imagenet: its place among the networks by their published accuracy on ImageNet, larger is
        better; 0 without such weights.
    """

    name: str
    network: str
    side: int
    weights: str = "package"
    stage: int | None = None
    imagenet: int = 0


def _imagenet(number: int, side: int, stage: int | None = None) -> Candidate:
    name = f"lite{number}@{side}" + ("" if stage is None else f":stage{stage}")
    return Candidate(name, f"tf_efficientnet_lite{number}", side, stage=stage, imagenet=number + 1)


CANDIDATES = (
    _imagenet(0, 48),
    _imagenet(0, 80),
    _imagenet(1, 80),
    _imagenet(2, 48),
    _imagenet(2, 80),
    _imagenet(0, 80, 2),
    _imagenet(0, 80, 3),
    Candidate("lite0-clothes@48", "tf_efficientnet_lite0", 48, "lite0-clothes"),
    Candidate("resnet18-clothes@32", "resnet18", 32, "resnet18-clothes"),
    Candidate("simple_cnn-clothes@32", "simple_cnn", 32, "simple_cnn-clothes"),
    Candidate("simple_cnn-digits@32", "simple_cnn", 32, "simple_cnn-digits"),
    Candidate("lite0-random@48", "tf_efficientnet_lite0", 48, "lite0-random"),
    Candidate("simple_cnn-random@32", "simple_cnn", 32, "simple_cnn-random"),
)


@dataclasses.dataclass(frozen=True)
class Set:
    """Images to be told apart.

    Attributes:
      data: which are trained on, validated and tested.
      augment: of the training images.
    """

    data: DataConfig
    augment: AugmentConfig


def sets_of(arguments: argparse.Namespace) -> dict[str, Set]:
    """Returns the sets by name; writes the stamps.

    Args:
      arguments: of the command: "sets", "quick", "fashion", "stamps" and "workdir".
    """
    quick = arguments.quick
    test = "test[:10%]" if quick else "test"
    found = {}
    for name in arguments.sets:
        augment = AugmentConfig(scale=(0.7, 1.0), horizontal_flip=False)
        if name == "digits":
            data = DataConfig("digits", train_split="train[:50%]", test_split=test, shots=20)
        elif name == "elpv":
            data = DataConfig("elpv", test_split=test, shots=100)
            augment = AugmentConfig(scale=(0.7, 1.0), vertical_flip=True)
        elif name == "fashion_mnist":
            data = DataConfig(
                arguments.fashion,
                train_split="train[:40%]",
                eval_split="train[90%:91%]",
                test_split="test[:1%]" if quick else "test[:10%]",
                shots=20,
            )
        else:
            folder = stamps.write_pictures(arguments.stamps, arguments.workdir / "stamps")
            print(stamps.describe(folder), file=sys.stderr)
            data = DataConfig(f"folder:{folder}", test_split="test")
            augment = AugmentConfig(scale=(0.7, 1.0))
        data = dataclasses.replace(data, batch_size=BATCH_SIZE, shots=3 if quick else data.shots)
        found[name] = Set(data, augment)
    return found


def starts(arguments: argparse.Namespace) -> list[Run]:
    """Returns the runs that make weights, of images that no set trains or tests on."""
    clothes = DataConfig(
        arguments.fashion,
        train_split="train[40%:40.5%]" if arguments.quick else "train[40%:50%]",
        eval_split=None,
        test_split="train[50%:51%]",
        batch_size=50,
    )
    digits = DataConfig(
        "digits", train_split="train[50%:]", eval_split=None, test_split="validation", batch_size=50
    )
    epochs = (1, 1) if arguments.quick else (3, 30)
    return [
        _start("lite0-clothes", "tf_efficientnet_lite0", 48, clothes, epochs[0]),
        _start("resnet18-clothes", "resnet18", 32, clothes, epochs[0]),
        _start("simple_cnn-clothes", "simple_cnn", 32, clothes, max(1, epochs[1] // 6)),
        _start("simple_cnn-digits", "simple_cnn", 32, digits, epochs[1]),
        _start("lite0-random", "tf_efficientnet_lite0", 48, digits, 1, rate=0.0),
        _start("simple_cnn-random", "simple_cnn", 32, digits, 1, rate=0.0),
    ]


def _start(
    name: str, network: str, side: int, data: DataConfig, epochs: int, *, rate: float = 2e-3
) -> Run:
    # Random weights get statistics of real images, so that their features are no constants.
    batch_norm = TransferConfig(batch_norm="update" if rate else "recalibrate")
    config = Config(
        model=ModelConfig(network, weights=RANDOM_WEIGHTS),
        data=dataclasses.replace(data, image_size=side),
        augment=AugmentConfig(scale=(0.7, 1.0), horizontal_flip=False),
        optim=OptimConfig(learning_rate=rate),
        transfer=batch_norm,
        train=TrainConfig(epochs=epochs, log_every=1000),
    )
    return Run(START, name, rate, 0, config)


def weights_folder(candidate: Candidate, workdir: Path) -> Path:
    """Returns the folder of the weights that a start wrote."""
    return (workdir / "weights" / candidate.weights).absolute()


def model_of(candidate: Candidate, workdir: Path) -> str:
    """Returns what `rank` calls the network of a candidate: a name of timm's, or a folder."""
    if candidate.weights == "package":
        return candidate.network
    return str(weights_folder(candidate, workdir))


def run_of(
    chosen: Set, name: str, candidate: Candidate, rate: float, arguments: argparse.Namespace
) -> Run:
    """Returns the fine-tuning of a candidate on a set, at a rate."""
    stages: tuple[str, ...] = ()
    if candidate.stage is not None:
        stages = (architecture(candidate.network).stages[candidate.stage],)
    weights = "package"
    if candidate.weights != "package":
        weights = str(weights_folder(candidate, arguments.workdir))
    config = Config(
        model=ModelConfig(candidate.network, weights=weights),
        data=dataclasses.replace(chosen.data, image_size=candidate.side),
        augment=chosen.augment,
        optim=OptimConfig(learning_rate=rate),
        transfer=TransferConfig(batch_norm="update"),
        inputs=InputsConfig(stages=stages),
        train=TrainConfig(epochs=1 if arguments.quick else EPOCHS, log_every=1000),
    )
    return Run(name, candidate.name, rate, 0, config)
