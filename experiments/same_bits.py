"""Checks that a code change keeps training bit-equal: hashes of short runs of every method.

Command, before the change and after it:
    python -m experiments.same_bits --out before.json
    python -m experiments.same_bits --against before.json

Each run trains a ResNet-18 or a small CNN for a few steps on random pictures in labelled folders,
through the public interface only, so that the same file runs on two versions of the library. Two
versions agree if the hashes of the final parameters and statistics, and of the metrics, agree.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from flax import traverse_util
from PIL import Image
from safetensors.numpy import save_file

import tl_jax
from tl_jax import (
    AugmentConfig,
    Config,
    DataConfig,
    GroupConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
)

CLASSES = ("red ones", "green ones", "blue ones")
_COLOURS = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "grayscale": 0.2}
# Runs that cover the options that change the computation: the fields that differ from the defaults
# below, by name of the run and section of the configuration.
RUNS: dict[str, dict[str, dict[str, Any]]] = {
    "head": {"transfer": {"trained": "head"}, "model": {"head_dropout": 0.2}},
    "full": {
        "optim": {"warmup_epochs": 0.5, "clip_norm": 1.0, "weight_decay": 0.05},
        "model": {"drop_path": 0.1},
        "augment": {**_COLOURS, "rotation": 10.0, "blur": 0.5, "erase": 0.5},
    },
    "scratch": {
        "model": {"name": "simple_cnn", "weights": "random"},
        "optim": {"name": "sgd", "learning_rate": 0.05},
    },
    "phases": {
        "transfer": {
            "phases": (
                PhaseConfig(1, "head", learning_rate=1e-2),
                PhaseConfig(1, "head+last:2"),
                PhaseConfig(1, "all", optimizer="sgd"),
            ),
            "groups": (GroupConfig("stage1", learning_rate=1e-4, batch_norm="frozen"),),
        },
        "optim": {"layer_decay": 0.7},
    },
    "lora": {"transfer": {"adaptation": "lora", "trained": "head+added", "lora_rank": 2}},
    "ssf": {
        "transfer": {"adaptation": "ssf", "trained": "head+added", "batch_norm": "affine_only"}
    },
    "adapters": {"transfer": {"adaptation": "adapters", "trained": "head+added"}},
    "fuse": {"transfer": {"classifier": "fuse", "class_mapping": ("red ones=3|5", "blue ones=7")}},
    "load": {
        "transfer": {
            "classifier": "load",
            "class_mapping": ("red ones=3|5", "green ones=4", "blue ones=7"),
        }
    },
    "ema_mixup": {
        "train": {"ema": 0.9, "label_smoothing": 0.1},
        "augment": {"mixup": 0.4, "cutmix": 0.5},
    },
    "recalibrate": {"transfer": {"batch_norm": "recalibrate", "recalibrate": "after"}},
    "few_shot": {
        "data": {"shots": 3, "batch_size": 4, "sampling": "balanced"},
        "transfer": {"head_init": "class_means", "trained": "head"},
    },
    "carve_cosine": {
        "data": {"carve": 0.25, "eval_split": "validation", "cache": "none"},
        "model": {"head": "cosine"},
        "transfer": {"trained": "head+last:1"},
    },
    "mlp_policy": {
        "model": {"head": "mlp", "hidden": (16,)},
        "augment": {"policy": "randaugment"},
        "transfer": {"trained": "head"},
        "data": {"cache": "device"},
    },
    "l2_sp_bitfit": {
        "optim": {"l2_sp": 0.01},
        "transfer": {"trained": "head+biases", "batch_norm": "affine_only"},
        "augment": {"policy": "trivialaugment"},
    },
    "bfloat16": {"model": {"dtype": "bfloat16"}, "transfer": {"trained": "head+norms"}},
}


def write_photos(root: Path) -> Path:
    """Writes train, val and test folders of noisy pictures of three classes."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 8, "val": 4, "test": 5}.items():
        for channel, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count + channel):
                pixels = rng.integers(0, 160, (40 + 3 * i, 48, 3), np.uint8)
                pixels[..., channel] += 70
                Image.fromarray(pixels).save(folder / f"{i}.{'png' if i % 2 else 'jpg'}")
    return root


def write_weights(path: Path) -> Path:
    """Writes random weights of a ResNet-18 with 1000 classes, as a pretrained file has them."""
    model = tl_jax.create_model("resnet18", num_classes=1000)
    images = np.zeros((1, 32, 32, 3), np.float32)
    variables = jax.jit(model.init)(jax.random.key(3), images)
    state_dict = {k: np.asarray(v) for k, v in tl_jax.to_state_dict(variables).items()}
    rng = np.random.default_rng(5)
    for name, value in state_dict.items():
        if value.ndim == 1:
            state_dict[name] = (value + rng.uniform(0, 0.2, value.shape)).astype(np.float32)
    save_file(state_dict, path)
    return path


def configurations(photos: Path, weights: Path) -> dict[str, Config]:
    """Returns the runs by name, on these pictures and from these weights of a ResNet-18."""
    defaults: dict[str, dict[str, Any]] = {
        "model": {"name": "resnet18", "weights": str(weights)},
        "data": {
            "source": f"folder:{photos}",
            "eval_split": "val",
            "test_split": "test",
            "batch_size": 8,
            "image_size": 32,
            "workers": 1,
        },
        "augment": {"scale": (0.5, 1.0)},
        # Explicit, so that a change of the defaults does not change the runs.
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "head_learning_rate": None,
            "warmup_epochs": 0.0,
        },
        "transfer": {"batch_norm": "update"},
        "train": {"epochs": 2, "log_every": 1},
    }
    sections = {
        "model": ModelConfig,
        "data": DataConfig,
        "augment": AugmentConfig,
        "optim": OptimConfig,
        "transfer": TransferConfig,
        "train": TrainConfig,
    }
    return {
        run: Config(**{
            name: section(**{**defaults[name], **fields.get(name, {})})
            for name, section in sections.items()
        })
        for run, fields in RUNS.items()
    }  # fmt: skip


def hash_arrays(tree: Any) -> str:
    """Returns a SHA-256 over the names, types and values of a tree's arrays."""
    total = hashlib.sha256()
    for path, leaf in sorted(traverse_util.flatten_dict(tree).items()):
        value = np.asarray(leaf)
        total.update(f"{'.'.join(path)} {value.dtype} {value.shape}".encode())
        total.update(value.tobytes())
    return total.hexdigest()[:16]


def run_once(config: Config, workdir: Path) -> dict[str, str]:
    """Trains one run, interrupted once, and returns hashes of its variables and metrics."""
    tl_jax.fit(config, workdir, stop_after_epoch=1)
    report = tl_jax.fit(config, workdir)
    run = tl_jax.load_run(workdir)
    compared = {name: report[name] for name in ("metrics", "confusion", "best_epoch")}
    numbers = json.dumps(compared, sort_keys=True)
    return {
        "variables": hash_arrays(run.variables),
        "metrics": hashlib.sha256(numbers.encode()).hexdigest()[:16],
        "accuracy": f"{report['metrics']['test']['accuracy']:.4f}",
        "loss": repr(report["metrics"]["test"]["loss"]),
    }


def main() -> int:
    """Runs the configurations, prints a table, and compares with an earlier one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the hashes to this JSON file")
    parser.add_argument("--against", type=Path, help="compare with the hashes in this JSON file")
    parser.add_argument("--only", nargs="+", help="names of runs; the default is all")
    parser.add_argument("--keep", type=Path, help="keep the runs' folders here")
    options = parser.parse_args()
    before = json.loads(options.against.read_text()) if options.against else {}
    results: dict[str, dict[str, str]] = {}
    different = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(options.keep or scratch).resolve()
        work.mkdir(parents=True, exist_ok=True)
        photos, weights = work / "photos", work / "weights.safetensors"
        if not photos.exists():
            write_photos(photos)
            write_weights(weights)
        for name, config in configurations(photos, weights).items():
            if options.only and name not in options.only:
                continue
            result = results[name] = run_once(config, work / "runs" / name)
            verdict = ""
            if name in before:
                verdict = "same" if before[name] == result else "DIFFERS"
            if verdict == "DIFFERS":
                different.append(name)
            print(
                f"{name:14} {result['variables']} {result['metrics']} {result['accuracy']} "
                f"{result['loss']:22} {verdict}",
                flush=True,
            )
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n")
    if options.against:
        print(f"{len(results) - len(different)} of {len(results)} runs have the same bits")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
