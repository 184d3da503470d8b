"""How the defaults were found: options changed one at a time, on small subsets, with one seed.

    python -m experiments.defaults_search [--results DIR] [--workdir DIR] [--report]

Lite0 is trained by `experiments.defaults_torch`, which does what tl_jax does and compiles nothing,
on subsets that take 10 to 60 seconds. A setting differs from `BASE` in a few options; its name says
in which. One row of one seed says little, because the epoch is chosen by 106 or 200 pictures: two
seeds of tl_jax's defaults differ by three points on stamps-20. So the mean over the subsets
decides. The rows are in `search/` of the folder of results, the table in `search.md`.
The rows that are there took the epoch of the smallest loss of those with the best accuracy; the
script now takes the first, as tl_jax does.

`BASE` has label smoothing 0.1 and, like all settings, weight decay 0.05, which are timm's. The
defaults have neither: the first gained nothing, and the second is 0.1% of the weights in the
longest of these runs.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import defaults, defaults_torch
from experiments import defaults_data as pictures
from tl_jax import files
from tl_jax.config import (
    AugmentConfig,
    BatchNormMode,
    Config,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)

SMALL = (("stamps", 20), ("fashion", 20), ("elpv", 100), ("fashion", 100))
LARGE = (("elpv", 1000), ("fashion", 1000))


@dataclasses.dataclass(frozen=True)
class Setting:
    """Options of a training.

    Attributes:
      batch_norm, recalibrate: as in `TransferConfig`; "before" also with "update".
      rate: peak rate of the backbone.
      head_factor: the head's rate over it.
      head_epochs: epochs of the head alone, of those of the subset.
      warmup: epochs.
      scale: smallest share of the crop's area.
      jitter: of brightness, contrast and saturation.
      smoothing: of labels.
      batch: size.
      large: whether it is tried on the large subsets too.
    """

    batch_norm: BatchNormMode = "affine_only"
    recalibrate: Literal["before", "after"] = "after"
    rate: float = 3e-4
    head_factor: float = 3.0
    head_epochs: int = 0
    warmup: float = 0.5
    scale: float = 0.35
    jitter: float = 0.0
    smoothing: float = 0.1
    batch: int = 32
    large: bool = dataclasses.field(default=False, compare=False)

    @property
    def name(self) -> str:
        """The options in which it differs from `BASE`."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.compare and getattr(self, field.name) != field.default
        ]
        return ",".join(changed) or "base"


BASE = Setting(large=True)
SETTINGS = (
    BASE,
    Setting("update", large=True),
    Setting(head_epochs=1),
    Setting(rate=1e-3, head_factor=1.0, large=True),
    Setting(smoothing=0.0),
    Setting("frozen", large=True),
    Setting(head_factor=1.0),
    Setting(batch=128),
    Setting(batch=128, rate=6e-4),
    Setting(batch=16),
    Setting(scale=0.6),
    Setting(scale=0.08, jitter=0.4),
    Setting("update", "before"),
    Setting("recalibrate", "before"),
    Setting("recalibrate"),
    Setting(head_epochs=2),
    Setting(head_factor=10.0),
    Setting(rate=1e-4, head_factor=10.0),
    Setting(warmup=0.0),
)


def configured(subset: tuple[str, int], setting: Setting, workdir: Path) -> Config:
    """Returns the configuration of a setting on a subset."""
    cell = pictures.Cell(*subset, batch_size=setting.batch)
    epochs = pictures.EPOCHS[subset]
    return Config(
        model=ModelConfig(defaults.NETWORKS[cell.network], weights="package"),
        data=defaults.data_of(cell, workdir),
        augment=AugmentConfig(
            scale=(setting.scale, 1.0),
            brightness=setting.jitter,
            contrast=setting.jitter,
            saturation=setting.jitter,
        ),
        optim=OptimConfig(
            learning_rate=setting.rate,
            head_learning_rate=setting.rate * setting.head_factor,
            weight_decay=0.05,
            warmup_epochs=setting.warmup,
        ),
        transfer=TransferConfig(batch_norm=setting.batch_norm, recalibrate=setting.recalibrate),
        train=TrainConfig(
            head_epochs=setting.head_epochs,
            epochs=epochs - setting.head_epochs,
            label_smoothing=setting.smoothing,
        ),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Makes the missing rows and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=defaults.RESULTS)
    parser.add_argument("--workdir", type=Path, default=defaults.WORKDIR)
    parser.add_argument("--report", action="store_true", help="only write the table")
    arguments = parser.parse_args(argv)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for setting in SETTINGS:
        for subset in SMALL + (LARGE if setting.large else ()):
            name = f"{subset[0]}-{subset[1]}"
            path = arguments.results / "search" / f"{name}--{setting.name}.json"
            if not path.exists() and not arguments.report:
                pictures.write(*subset, arguments.workdir / "data", {})
                row = trained(subset, setting, arguments.workdir)
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write_text(path, json.dumps(row, indent=2) + "\n")
                print(f"{path.stem}: {row['test']['accuracy']:.3f}", file=sys.stderr, flush=True)
            if path.exists():
                rows[name, setting.name] = json.loads(path.read_text())
    text = table(rows)
    arguments.results.mkdir(parents=True, exist_ok=True)
    files.write_text(arguments.results / "search.md", text)
    print(text)


def trained(subset: tuple[str, int], setting: Setting, workdir: Path) -> dict[str, Any]:
    """Trains a setting on a subset and returns its row."""
    import torch

    torch.set_num_threads(1)
    config = configured(subset, setting, workdir)
    measured = defaults_torch.measured_run(config, zero_head=True)
    kept = ("validation", "test", "best_epoch", "seconds_in_all")
    return dataclasses.asdict(setting) | {key: measured[key] for key in kept}


def table(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """Returns validation and test accuracy by setting and subset, and the mean difference to base.

    Args:
      rows: by subset and name of the setting.
    """
    subsets = [f"{name}-{size}" for name, size in SMALL + LARGE]
    lines = [
        f"| setting | {' | '.join(subsets)} | against base |",
        f"| --- |{' ---: |' * (len(subsets) + 1)}",
    ]
    for setting in SETTINGS:
        found = {subset: rows.get((subset, setting.name)) for subset in subsets}
        cells = [_pair(row) for row in found.values()]
        if any(found.values()):
            lines.append(f"| {setting.name} | {' | '.join(cells)} | {_gain(rows, found)} |")
    lines += ["", "Validation / test accuracy; the last column is the mean difference of both."]
    return "\n".join(lines) + "\n"


def _pair(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['validation']['accuracy']:.3f} / {row['test']['accuracy']:.3f}"


def _gain(
    rows: Mapping[tuple[str, str], Mapping[str, Any]], found: Mapping[str, Mapping[str, Any] | None]
) -> str:
    """Returns the mean difference to base over the subsets that both have."""
    pairs = [
        (row, rows[subset, BASE.name])
        for subset, row in found.items()
        if row is not None and (subset, BASE.name) in rows
    ]
    if not pairs:
        return ""
    gains = [
        np.mean([one[split]["accuracy"] - other[split]["accuracy"] for one, other in pairs])
        for split in ("validation", "test")
    ]
    return " / ".join(f"{gain:+.3f}" for gain in gains)


if __name__ == "__main__":
    main()
