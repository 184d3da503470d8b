"""Measures two short runs on solar cells (ELPV): corrupted images, and images of other kinds.

Command:
    python -m experiments.robustness

One run trains the whole network, as `make demo` does, and the baseline its head alone. The
corruptions are those of `tl_jax.robustness` at all severities; the foreign images are digits, and
with `--foreign digits:test fashion_mnist:test` clothes too. Takes some minutes of a core. The
photographs are under CC-BY-NC-SA-4.0.
"""

import argparse
import json
import re
import shutil
import time
from pathlib import Path

import tl_jax

RESULTS = Path(__file__).parent / "results" / "robustness"


def config(*, trained: str, shots: int | None, epochs: int, side: int) -> tl_jax.Config:
    """Returns a short run on ELPV that trains all of the network, or its head."""
    is_all = trained == "all"
    return tl_jax.Config(
        data=tl_jax.DataConfig(source="elpv", test_split="test", image_size=side, shots=shots),
        augment=tl_jax.AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
        optim=tl_jax.OptimConfig() if is_all else tl_jax.OptimConfig(learning_rate=3e-3),
        transfer=tl_jax.TransferConfig(trained=trained),
        train=tl_jax.TrainConfig(head_epochs=int(is_all), epochs=epochs - int(is_all)),
    )


def main() -> None:
    """Trains both runs, measures them, and writes robustness.json and robustness.png."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/robustness"))
    parser.add_argument("--foreign", nargs="*", default=["digits:test"])
    parser.add_argument("--most", type=int, default=300, help="test images that are measured")
    parser.add_argument("--shots", type=int, help="training images of each class; all unless given")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--side", type=int, default=96)
    arguments = parser.parse_args()
    seconds, runs = {}, {}
    for trained in ("all", "head"):
        start = time.monotonic()
        runs[trained] = arguments.workdir / trained
        chosen = config(
            trained=trained,
            shots=arguments.shots,
            epochs=arguments.epochs,
            side=arguments.side,
        )
        tl_jax.fit(chosen, runs[trained])
        seconds[f"training {trained}"] = round(time.monotonic() - start, 1)
    start = time.monotonic()
    folder = arguments.workdir / "measured"
    found = tl_jax.robustness(
        runs["all"],
        split="test",
        most=arguments.most,
        baseline=runs["head"],
        foreign=arguments.foreign,
        to=folder,
        say=print,
    )
    seconds["measuring"] = round(time.monotonic() - start, 1)
    # The place of a set on this machine is of no interest to others.
    found["foreign"] = {
        re.sub(":[^:]*/[^:]*", "", name): told for name, told in found["foreign"].items()
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**found, "seconds": seconds}, indent=1)
    (RESULTS / "robustness.json").write_text(text + "\n")
    shutil.copy(folder / "robustness.png", RESULTS / "robustness.png")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
