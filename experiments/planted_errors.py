"""Plants wrong labels and copied images in real sets, and counts how many the analysis finds.

Command:
    python -m experiments.planted_errors --sets digits fashion_mnist elpv

Of each set some hundred images are taken. 5% of the labels, in the training and in the test split,
are replaced by another class drawn evenly; some test images are replaced by changed copies of
training images. A run is trained on these data for a few epochs, and `tl_jax.errors` is asked which
labels and which images stand out. Takes a few minutes of a core.
"""

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

import tl_jax
from tl_jax.analysis import neighbours
from tl_jax.data.sources.open import open_source

RESULTS = Path(__file__).parent / "results" / "planted_errors"
WRONG = 0.05
COUNTS = {"digits": (1000, 400), "fashion_mnist": (1500, 500), "elpv": (1200, 390)}
SIDES = {"digits": 32, "fashion_mnist": 64, "elpv": 96}
EACH = 8  # Copies of each kind.


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Returns an image as it is after JPEG compression."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def resized(image: np.ndarray, share: float) -> np.ndarray:
    """Returns an image at a share of its size, and back at its own."""
    whole = Image.fromarray(image)
    small = whole.resize((round(whole.width * share), round(whole.height * share)))
    return np.asarray(small.resize(whole.size))


def cropped(image: np.ndarray, share: float) -> np.ndarray:
    """Returns the middle of an image, enlarged to its size."""
    whole = Image.fromarray(image)
    margins = [side * (1 - share) / 2 for side in whole.size]
    box = (*margins, whole.width - margins[0], whole.height - margins[1])
    return np.asarray(whole.resize(whole.size, box=box))


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda image: image,
    "JPEG, quality 50": lambda image: jpeg(image, 50),
    "half the size": lambda image: resized(image, 0.5),
    "brighter by 30%": lambda image: np.asarray(
        ImageEnhance.Brightness(Image.fromarray(image)).enhance(1.3)
    ),
    "mirrored": lambda image: image[:, ::-1],
    "rotated by 90 degrees": lambda image: np.rot90(image),
    "cropped to 96%": lambda image: cropped(image, 0.96),
    "cropped to 90%": lambda image: cropped(image, 0.90),
}


def main() -> None:
    """Runs the sets that are named, and writes a JSON file for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(COUNTS), choices=list(COUNTS))
    parser.add_argument("--fashion-mnist", default="fashion_mnist", help="its specification")
    parser.add_argument("--workdir", type=Path, default=Path("runs/planted_errors"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in arguments.sets:
        spec = arguments.fashion_mnist if name == "fashion_mnist" else name
        found = measure(name, spec, arguments.workdir / name, arguments.epochs, arguments.seed)
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))


def measure(name: str, spec: str, folder: Path, epochs: int, seed: int) -> dict[str, Any]:
    """Plants, trains and counts; returns JSON values."""
    planted = plant(name, spec, folder, seed)
    config = tl_jax.Config(
        data=tl_jax.DataConfig(
            source=f"npz:{folder / 'planted.npz'}",
            eval_split=None,
            test_split="test",
            image_size=SIDES[name],
            batch_size=32,
        ),
        augment=tl_jax.AugmentConfig(scale=(0.8, 1.0), horizontal_flip=name == "elpv"),
        train=tl_jax.TrainConfig(epochs=epochs, seed=seed),
    )
    start = time.monotonic()
    tl_jax.fit(config, folder / "run")
    seconds = {"training": round(time.monotonic() - start, 1)}
    result: dict[str, Any] = {"set": name, "epochs": epochs, "train": {}, "seconds": seconds}
    for on in ("start", "run"):
        start = time.monotonic()
        found = tl_jax.errors(folder / "run", split="test", probe_on=on, to=folder / f"errors-{on}")
        seconds[f"errors, probe on {on}"] = round(time.monotonic() - start, 1)
        task = found["tasks"]["label"]
        result["train"][on] = counted(task["train_label_issues"], planted["train"])
    result["test"] = counted(task["label_issues"], planted["test"])
    result["test_accuracy"] = task["metrics"]["accuracy"]
    result["duplicates"] = duplicates_counted(found["duplicates"], planted["copies"])
    return result


def plant(name: str, spec: str, folder: Path, seed: int) -> dict[str, Any]:
    """Writes `planted.npz`, and returns the places of wrong labels and of copies."""
    rng, arrays, planted = np.random.default_rng(seed), {}, {}
    for split, count in zip(("train", "test"), COUNTS[name], strict=True):
        source = open_source(spec, split)
        chosen = rng.permutation(len(source))[:count]
        labels = source.labels()[chosen].astype(np.int64)
        wrong = rng.choice(len(chosen), round(WRONG * len(chosen)), replace=False)
        moves = rng.integers(1, len(source.class_names), len(wrong))
        labels[wrong] = (labels[wrong] + moves) % len(source.class_names)
        arrays[f"x_{split}"] = np.stack([source[int(index)]["image"] for index in chosen])
        arrays[f"y_{split}"] = labels
        planted[split] = wrong.tolist()
    copies: dict[str, dict[int, int]] = {}
    places = rng.permutation(len(arrays["y_test"]))[: EACH * len(COPIES)].reshape(len(COPIES), -1)
    for (kind, change), targets in zip(COPIES.items(), places, strict=True):
        originals = rng.choice(len(arrays["y_train"]), len(targets), replace=False)
        for target, original in zip(targets, originals, strict=True):
            arrays["x_test"][target] = change(arrays["x_train"][original])
            arrays["y_test"][target] = arrays["y_train"][original]
        copies[kind] = dict(zip(targets.tolist(), originals.tolist(), strict=True))
    # A copy has its original's label, whatever it is: it is no label that was planted here.
    copied = {target for each in copies.values() for target in each}
    planted["test"] = [place for place in planted["test"] if place not in copied]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "planted.npz", **arrays, class_names=np.array(source.class_names, dtype=str))
    return {**planted, "copies": copies}


def counted(issues: dict[str, Any], wrong: list[int]) -> dict[str, Any]:
    """Returns how many of the planted labels are among the suspected ones."""
    listed = [example["index"] for example in issues["examples"]]
    hits = len(set(listed) & set(wrong))
    first = len(set(listed[: len(wrong)]) & set(wrong))
    return {
        "planted": len(wrong),
        "of": issues["checked"],
        "suspected": len(listed),
        "estimated": round(issues["estimated"], 1),
        "found": hits,
        "precision": hits / max(len(listed), 1),
        "recall": hits / len(wrong),
        f"found_among_the_first_{len(wrong)}": first,
    }


def duplicates_counted(
    pairs: list[dict[str, Any]], copies: dict[str, dict[int, int]]
) -> dict[str, Any]:
    """Returns how many of the planted copies were found, by kind, and how many other pairs."""
    found = {pair["index"]: pair["other"] for pair in pairs}
    all_copies = {target: original for each in copies.values() for target, original in each.items()}
    return {
        "threshold": neighbours.SAME,
        "found": {
            kind: f"{sum(found.get(target) == each[target] for target in each)} of {len(each)}"
            for kind, each in copies.items()
        },
        "other_pairs": sum(all_copies.get(target) != other for target, other in found.items()),
    }


if __name__ == "__main__":
    main()
