"""Compares strategies of transfer on small sets of pictures: accuracy, parameters, time, memory.

    python -m experiments.strategies [--sets elpv stamps] [--methods full lora ...] [--seeds 3]
        [--stamps FOLDER_OR_DEB] [--jobs 2] [--results DIR] [--workdir DIR] [--quick]

Every method trains `tf_efficientnet_lite0`, from the same weights (except "scratch"), for the same
number of epochs. Its rate is chosen once, from two, by the validation accuracy of seed 0 on the
first of the sets, and kept for the others. Each run is a separate process and writes one row to
`runs/` in the folder of results; the same command continues where it was stopped, and repeats
failed runs. With `--jobs N`, N runs go on in parallel, each on its own core.

`strategies.json`, `.md` and `.png` in that folder hold the result, and the tables go into
`docs/strategies.md`.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import strategies_report as report
from experiments import strategies_stamps as stamps
from experiments.strategies_run import Bench, Run
from tl_jax.config import (
    RANDOM_WEIGHTS,
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
)
from tl_jax.models.registry import architecture
from tl_jax.run import phases

MODEL, IMAGE_SIZE, BATCH_SIZE, EPOCHS = "tf_efficientnet_lite0", 64, 32, 6
HEAD_RATE = 5e-3
SETS = ("elpv", "stamps")
DOCS = Path(__file__).parents[1] / "docs" / "strategies.md"
RESULTS = Path("experiments/results/strategies")

# Rates for all layers, for added or few kinds of parameters, and for the head alone.
_LAYERS, _FEW, _HEAD = (3e-4, 1e-3), (2e-3, 1e-2), (2e-3, 1e-2)

_PLAIN = TransferConfig()


@dataclasses.dataclass(frozen=True)
class Method:
    """One way of transfer, without its rate.

    Attributes:
      name: name on the command line and in the rows.
      title: title in tables.
      rates: the rates to choose from.
      transfer: what is trained, and how the network is initialized.
      layer_decay, l2_sp: as in `OptimConfig`.
      phases: returns the phases for epochs and rate; None for a single one.
      head_follows: whether the head has the searched rate instead of `HEAD_RATE`.
      scratch: whether it starts from random weights.
    """

    name: str
    title: str
    rates: tuple[float, ...] = _LAYERS
    transfer: TransferConfig = _PLAIN
    layer_decay: float = 1.0
    l2_sp: float = 0.0
    phases: Callable[[int, float], tuple[PhaseConfig, ...]] | None = None
    head_follows: bool = False
    scratch: bool = False


def _gradual(epochs: int, rate: float) -> tuple[PhaseConfig, ...]:
    every = max(1, epochs // 3)
    stages = len(architecture(MODEL).stages)
    return tuple(
        dataclasses.replace(phase, learning_rate=rate, head_learning_rate=HEAD_RATE)
        for phase in phases.gradual(stages, every=every, epochs=epochs)
    )


def _lp_ft(epochs: int, rate: float) -> tuple[PhaseConfig, ...]:
    head_epochs = max(1, epochs // 3)
    return phases.lp_ft(head_epochs, max(1, epochs - head_epochs), head_rate=HEAD_RATE, rate=rate)


def _added(kind: str) -> TransferConfig:
    # The network and its statistics are frozen; added parameters and the head are trained.
    return TransferConfig(trained="head+added", adaptation=kind, batch_norm="affine_only")


METHODS = {
    method.name: method
    for method in (
        Method("full", "full (replace)"),
        Method(
            "full_kept",
            "full, BatchNorm statistics kept",
            transfer=TransferConfig(batch_norm="affine_only"),
        ),
        Method("load", "load", transfer=TransferConfig(classifier="load")),
        Method("fuse", "fuse", transfer=TransferConfig(classifier="fuse")),
        Method(
            "head", "head only", _HEAD, TransferConfig(trained="head"), head_follows=True
        ),
        Method("last_1", "partial: last stage", transfer=TransferConfig(trained="head+last:1")),
        Method("last_2", "partial: last 2 stages", transfer=TransferConfig(trained="head+last:2")),
        Method("gradual", "gradual unfreezing", phases=_gradual),
        Method("lp_ft", "LP-FT", phases=_lp_ft),
        Method("llrd", "layer-wise decay 0.65", layer_decay=0.65),
        Method("l2_sp", "L2-SP 0.01", l2_sp=0.01),
        Method("lora", "LoRA, rank 8", _FEW, _added("lora")),
        Method("ssf", "SSF", _FEW, _added("ssf")),
        Method("adapters", "residual adapters", _FEW, _added("adapters")),
        Method(
            "bitfit",
            "BitFit",
            _FEW,
            TransferConfig(trained="head+biases", batch_norm="affine_only"),
        ),
        Method("bn_only", "BatchNorm only", _FEW, TransferConfig(trained="head+batch_norm")),
        Method("scratch", "from scratch", _FEW, head_follows=True, scratch=True),
    )
}  # fmt: skip
# No class of ELPV is one of ImageNet's, so nothing is carried over: "load" would be "full" again.
LEFT_OUT = {("elpv", "load"): "none of its classes is one of ImageNet's: load equals replace"}


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the missing runs and writes the tables."""
    arguments = _parse(argv)
    chosen = {name: METHODS[name] for name in arguments.methods}
    sets = data_of(arguments)
    bench = Bench(arguments.results / "runs", arguments.workdir, arguments.jobs)
    cells = [(s, m) for s in sets for m in chosen if (s, m) not in LEFT_OUT]
    search = [
        run_of(sets[s], s, chosen[m], rate, 0, arguments)
        for s, m in searched(cells)
        for rate in chosen[m].rates[: 1 if arguments.quick else None]
    ]
    best = best_rates(bench.rows(search))
    rest = [
        run_of(sets[s], s, chosen[m], best[m], seed, arguments)
        for s, m in cells
        if m in best
        for seed in range(arguments.seeds)
    ]
    rows = bench.rows(rest)
    summary = {
        "protocol": _protocol(arguments),
        "left_out": {f"{s}/{m}": reason for (s, m), reason in LEFT_OUT.items() if s in sets},
        "methods": report.summarize(rows, {name: m.title for name, m in chosen.items()}),
        "search": [_search_row(row) for row in bench.finished_rows(search)],
        "failures": bench.failures([*search, *rest]),
    }
    report.write(summary, arguments.results, None if arguments.quick else DOCS)
    print((arguments.results / "strategies.md").read_text())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stamps", type=Path, default=stamps.INSTALLED, help="folder or .deb")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on its core")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--quick", action="store_true", help="a dry run: two epochs, few images")
    arguments = parser.parse_args(argv)
    if min(arguments.seeds, arguments.jobs) < 1:
        parser.error("--seeds and --jobs must be at least 1")
    runs = Path("runs/strategies-quick" if arguments.quick else "runs/strategies")
    arguments.workdir = arguments.workdir or runs
    arguments.results = arguments.results or (runs / "results" if arguments.quick else RESULTS)
    return arguments


def data_of(arguments: argparse.Namespace) -> dict[str, tuple[DataConfig, AugmentConfig]]:
    """Returns data and augmentation by set; writes the stamps."""
    sets = {}
    for name in arguments.sets:
        if name == "elpv":
            shares = (7, 30, 10) if arguments.quick else (20, 50, 60)
            train, validation, test = (
                f"{split}[:{share}%]"
                for split, share in zip(("train", "validation", "test"), shares, strict=True)
            )
            data = DataConfig("elpv", None, train, validation, test)
            augment = AugmentConfig(scale=(0.6, 1.0), vertical_flip=True)
        else:
            folder = stamps.write_pictures(arguments.stamps, arguments.workdir / "stamps")
            print(stamps.describe(folder), file=sys.stderr)
            data = DataConfig(f"folder:{folder}", test_split="test")
            augment = AugmentConfig(scale=(0.6, 1.0))
        data = dataclasses.replace(data, batch_size=BATCH_SIZE, image_size=IMAGE_SIZE)
        sets[name] = (data, augment)
    return sets


def run_of(
    data: tuple[DataConfig, AugmentConfig],
    set_name: str,
    method: Method,
    rate: float,
    seed: int,
    arguments: argparse.Namespace,
) -> Run:
    """Returns a run of a method on a set, at a rate."""
    epochs = 2 if arguments.quick else EPOCHS
    config = configured(method, data, rate=rate, seed=seed, epochs=epochs)
    return Run(set_name, method.name, rate, seed, config)


def configured(
    method: Method,
    data: tuple[DataConfig, AugmentConfig],
    *,
    rate: float,
    seed: int,
    epochs: int = EPOCHS,
) -> Config:
    """Returns the configuration of a method.

    Args:
      method: the strategy.
      data: images and their augmentation.
      rate: peak rate of the parameters other than the head (of the head, for "head").
      seed: of the run.
      epochs: of all phases together.
    """
    transfer = method.transfer
    if transfer.batch_norm == "auto":  # The strategies are compared with statistics updated.
        transfer = dataclasses.replace(transfer, batch_norm="update")
    if transfer.classifier != "replace" and data[0].source != "elpv":
        transfer = dataclasses.replace(transfer, class_mapping=stamps.class_mapping(_folder(data)))
    if method.phases is not None:
        transfer = dataclasses.replace(transfer, phases=method.phases(epochs, rate))
    return Config(
        model=ModelConfig(name=MODEL, weights=RANDOM_WEIGHTS if method.scratch else "package"),
        data=data[0],
        augment=data[1],
        optim=OptimConfig(
            name="adamw",
            learning_rate=rate,
            head_learning_rate=rate if method.head_follows else HEAD_RATE,
            weight_decay=0.05,
            layer_decay=method.layer_decay,
            l2_sp=method.l2_sp,
            warmup_epochs=0.5,
        ),
        transfer=transfer,
        train=TrainConfig(epochs=epochs, seed=seed, log_every=1000),
    )


def _folder(data: tuple[DataConfig, AugmentConfig]) -> Path:
    return Path(data[0].source.removeprefix("folder:"))


def searched(cells: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Returns the cells in which rates are searched: each method's first."""
    first: dict[str, str] = {}
    for set_name, method in cells:
        first.setdefault(method, set_name)
    return [(set_name, method) for method, set_name in first.items()]


def best_rates(rows: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Returns each method's rate with the best validation accuracy; the loss breaks ties."""
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        previous = best.get(row["method"])
        if previous is None or _merit(row) > _merit(previous):
            best[row["method"]] = row
    return {method: row["rate"] for method, row in best.items()}


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    return row["validation"]["accuracy"], -row["validation"]["loss"]


def _search_row(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = row["validation"]["accuracy"]
    return {name: row[name] for name in ("set", "method", "rate")} | {"validation": accuracy}


def _protocol(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "model": MODEL,
        "image_size": IMAGE_SIZE,
        "batch_size": BATCH_SIZE,
        "epochs": 2 if arguments.quick else EPOCHS,
        "seeds": arguments.seeds,
        "jobs": arguments.jobs,
        "head_rate": HEAD_RATE,
        "rates": {name: METHODS[name].rates for name in arguments.methods},
    }


if __name__ == "__main__":
    main()
