"""Runs that take seconds: tiny networks under real names, pictures, weights, configurations."""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from tl_jax import trees
from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
    changes,
)
from tl_jax.models import registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import resnet, vgg
from tl_jax.models.model import Model
from tl_jax.models.variables import abstract_variables
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import write_run
from tl_jax.weights.state_dict import to_state_dict

_RESNET_STAGES = ("act1", "layer1", "layer2")
_BASIC = resnet.ResNet(block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16))
_BOTTLENECK = resnet.ResNet(block=resnet.Bottleneck, depths=(1, 1), widths=(8, 16))
_VGG = vgg.VGG(depths=(1, 1), widths=(8, 16))
_TINY = {
    "resnet18": Architecture(_BASIC, stem="conv1", stages=_RESNET_STAGES),
    "resnet50": Architecture(_BOTTLENECK, stem="conv1", stages=_RESNET_STAGES),
    "vgg16": Architecture(_VGG, stem="features.0", stages=("features.2", "features.5")),
    "tf_efficientnet_lite0": Architecture(_BASIC, stem="conv1", stages=_RESNET_STAGES),
}
CLASS_NAMES = ("grüne", "red ones")


@contextlib.contextmanager
def tiny_networks() -> Iterator[None]:
    """Replaces some architectures by tiny networks."""
    with mock.patch.dict(registry.ARCHITECTURES, _TINY):
        yield


def write_weights(path: Path) -> Path:
    """Writes random weights of the tiny ResNet-18, with a classifier of 1000 classes."""
    with tiny_networks():
        return save_random(registry.create_model("resnet18", num_classes=1000), path)


def save_random(model: Model, path: Path) -> Path:
    """Writes random weights of a network as a safetensors file."""
    shapes = trees.flatten(abstract_variables(model)).items()
    rng = np.random.default_rng(7)
    flat = {path: np.full(leaf.shape, path[-1] in ("scale", "var"), "f4") for path, leaf in shapes}
    for name, leaf in flat.items():
        if name[-1] == "kernel":
            leaf += rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
    save_file(to_state_dict(trees.unflatten(flat)), path)
    return path


def write_photos(root: Path) -> Path:
    """Writes `train/`, `val/` and `test/` with pictures of two classes that differ in colour."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 13, "val": 5, "test": 7}.items():
        for channel, name in enumerate(reversed(CLASS_NAMES)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30 + i, 36, 3), np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def make_config(photos: Path, weights: Path) -> Config:
    """Returns a run of four short epochs with all random parts: crops, flips, dropout, drop path.

    Runs that keep optimizer, schedule and epochs share its compiled steps.
    """
    return Config(
        model=ModelConfig("resnet18", weights=str(weights), head_dropout=0.3, drop_path=0.2),
        data=DataConfig(
            source=f"folder:{photos}",
            eval_split="val",
            test_split="test",
            batch_size=8,
            image_size=32,
        ),
        augment=AugmentConfig(scale=(0.5, 1.0)),
        optim=OptimConfig(
            name="adam",
            learning_rate=1e-2,
            head_learning_rate=None,
            warmup_epochs=0.5,
            clip_norm=1.0,
        ),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(head_epochs=2, epochs=2, log_every=2),
    )


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run, its report, and what it printed on standard error."""

    config: Config
    workdir: Path
    report: dict[str, Any]
    log: str


def finish_run(config: Config, workdir: Path) -> FinishedRun:
    """Trains a run to its end."""
    with tiny_networks(), contextlib.redirect_stderr(io.StringIO()) as stderr:
        report = fit(config, workdir)
    assert report is not None
    return FinishedRun(config, workdir, report, stderr.getvalue())


def write_untrained(
    config: Config, folder: Path, *, calibration: Mapping[str, Any] | None = None
) -> Path:
    """Writes a run of random weights, as if it had been trained."""
    with tiny_networks():
        experiment = Experiment.from_config(config)
        rng = np.random.default_rng(0)
        variables = jax.device_get(experiment.initial.variables)
        moved = jax.tree.map(
            lambda x: x + rng.normal(0, 0.1, x.shape).astype(x.dtype), variables["params"]
        )
        variables = {**variables, "params": moved}
        chosen = dict(calibration or {})
        write_run(folder, experiment.config, experiment.info, variables, calibration=chosen)
    return folder


def change(config: Config, section: str, **fields: Any) -> Config:
    """Returns a configuration with some fields of a section changed."""
    return changes.with_values(
        config, {f"{section}.{field}": value for field, value in fields.items()}
    )


def leaves(workdir: Path) -> list[Any]:
    """Returns the arrays of the newest checkpoint: variables, then the optimizer's state."""
    import orbax.checkpoint as ocp

    newest = max((workdir / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    restored = [
        ocp.StandardCheckpointer().restore(newest / item) for item in ("variables", "optimizer")
    ]
    return jax.tree.leaves(restored)


def without_speed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns records of the journal without the speed, which differs from run to run."""
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in records]
