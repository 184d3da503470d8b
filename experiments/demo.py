"""Shows the gain of transfer: the demo's configuration beside the same budget from random weights.

python -m experiments.demo [--workdir DIR] [--epochs N]
"""

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from configs import demo
from tl_jax.cli import streams
from tl_jax.config import RANDOM_WEIGHTS, Config, changes
from tl_jax.run.fit import fit


def main() -> None:
    """Trains both, prints the table and the paths of the pictures."""
    streams.prepare()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/demo"))
    parser.add_argument("--epochs", type=int, help="epochs of all layers, instead of the demo's")
    arguments = parser.parse_args()
    config = demo.get_config()
    if arguments.epochs is not None:
        config = changes.with_values(config, {"train.epochs": arguments.epochs})

    runs = {
        "pretrained on ImageNet": (config, "pretrained"),
        "random weights": (from_scratch(config), "random"),
    }
    reports: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    for name, (run_config, folder) in runs.items():
        print(f"\n== {name} ==", file=sys.stderr)
        start_time = time.monotonic()
        report = fit(run_config, arguments.workdir / folder)
        assert report is not None  # fit returns None only with stop_after_epoch.
        reports[name] = report
        seconds[name] = time.monotonic() - start_time
    table = comparison(reports, seconds)
    (arguments.workdir / "table.json").write_text(
        json.dumps({"reports": reports, "seconds": seconds}, indent=2) + "\n"
    )
    print(f"\nDefective or functional solar cells (ELPV), test split\n\n{table}\n")
    pretrained = arguments.workdir / "pretrained"
    print(f"learning curves   {pretrained / 'curves.png'}")
    print(f"confusion matrix  {pretrained / 'confusion.png'}")
    workdir, run = (shlex.quote(str(path)) for path in (arguments.workdir, pretrained))
    print(f"TensorBoard       tensorboard --logdir {workdir}")
    print(f"predict           {shlex.quote(sys.executable)} -m tl_jax predict {run} IMAGE...")
    print(f"in a browser      {shlex.quote(sys.executable)} -m tl_jax demo {run}")


def from_scratch(config: Config) -> Config:
    """Returns the same experiment with random weights.

    It has the same number of epochs, but trains all layers in all of them: a head on random
    features learns next to nothing, which would make the comparison unfair. Nor would the default
    rate do, which is for pretrained weights: it has the one that `experiments.strategies` chose.
    """
    return changes.with_values(
        config,
        {
            "model.weights": RANDOM_WEIGHTS,
            "optim.learning_rate": 2e-3,
            "train.head_epochs": 0,
            "train.epochs": config.train.head_epochs + config.train.epochs,
        },
    )


def comparison(reports: dict[str, dict[str, Any]], seconds: dict[str, float]) -> str:
    """Returns the table of both runs' test metrics."""
    lines = [
        f"{'start':<24}{'accuracy':>9}{'95% interval':>17}{'balanced':>10}{'macro F1':>10}"
        f"{'seconds':>9}"
    ]
    for name, report in reports.items():
        metrics = report["metrics"]["test"]
        low, high = metrics["accuracy_interval"]
        lines.append(
            f"{name:<24}{metrics['accuracy']:>9.3f}{f'{low:.3f} to {high:.3f}':>17}"
            f"{metrics['balanced_accuracy']:>10.3f}{metrics['macro_f1']:>10.3f}"
            f"{seconds[name]:>9.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
