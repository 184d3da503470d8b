"""A table of small objects with labels of every kind and inputs of every kind, and runs on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    InputsConfig,
    ModelConfig,
    OptimConfig,
    TaskConfig,
    TrainConfig,
    TransferConfig,
)

LEVELS = ("low", "middle", "high")
COUNTS = {"train": 24, "validation": 9}

TASKS: dict[str, TaskConfig] = {
    "multi_class": TaskConfig("kind", balance="effective_number"),
    "multi_label": TaskConfig("tags", balance="positive_weights"),
    "ordinal": TaskConfig("grade", kind="ordinal", levels=LEVELS),
    "regression": TaskConfig("weight", kind="regression", loss="huber"),
}
BEST = {
    "multi_class": "kappa",
    "multi_label": "macro_auc",
    "ordinal": "quadratic_kappa",
    "regression": "mae",
}
COLUMNS: dict[str, Any] = {
    "numeric": ("age",),
    "categorical": ("origin",),
    "text": ("words",),
    "vector": ("numbers",),
    "width": 8,
    "category_width": 4,
}
INPUTS: dict[str, dict[str, Any]] = {
    "image": {},
    "columns": COLUMNS,
    "views": {"views": ("front", "side")},
    "scales": {"scales": (1.0, 0.5)},
    "stages": {"stages": ("layer1", "layer2"), "pooling": "gem"},
    "all": {
        **COLUMNS,
        "views": ("front", "side"),
        "scales": (1.0, 0.5),
        "stages": ("layer1", "layer2"),
        "pooling": "average_max",
        "join": "gated_sum",
        "modality_dropout": 0.2,
    },
}


def write(folder: Path) -> Path:
    """Writes the pictures and the table `objects.jsonl`; something is missing in every column.

    The colour is the kind, the brightness of both views the grade, and the weight follows both.
    """
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        for i in range(count):
            kind, grade = i % 2, i % 3
            for view in ("front", "side"):
                pixels = rng.integers(0, 60, (18, 16, 3), np.uint8)
                pixels[..., kind] += np.uint8(40 + 70 * grade)
                Image.fromarray(pixels).save(folder / f"{split}{i}{view}.png")
            tags = [name for name, has in (("red", kind == 0), ("bright", grade > 0)) if has]
            rows.append({
                "front": f"{split}{i}front.png",
                "side": None if i % 4 == 3 else f"{split}{i}side.png",
                "split": split,
                "kind": ("square", "round")[kind] if i != 7 else None,
                "tags": tags,
                "grade": LEVELS[grade] if i != 5 else None,
                "weight": 3.0 * grade + kind if i != 4 else None,
                "age": None if i == 2 else float(grade),
                "origin": None if i == 1 else ("here", "there")[kind],
                "words": None if i == 0 else f"a {LEVELS[grade]} thing",
                "numbers": None if i == 3 else [float(kind), 1.0, float(grade)],
            })  # fmt: skip
    table = folder / "objects.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def make_config(
    table: Path,
    weights: Path,
    kinds: tuple[str, ...],
    *,
    best_metric: str | None = None,
    epochs: int = 3,
    weighting: str = "fixed",
    network: str = "resnet18",
    **inputs: Any,
) -> Config:
    """Returns a short run that learns tasks of these kinds; `network` has these weights."""
    tasks = tuple(TASKS[kind] for kind in kinds)
    of_main = BEST[kinds[0]] if len(kinds) == 1 else f"{tasks[0].name}.{BEST[kinds[0]]}"
    has_views = "views" in inputs
    return Config(
        model=ModelConfig(network, weights=str(weights)),
        data=DataConfig(
            f"manifest:{table}",
            image_column=None if has_views else "front",
            batch_size=8,
            image_size=16,
            workers=0,
        ),
        augment=AugmentConfig(scale=(0.8, 1.0)),
        optim=OptimConfig("adam", 1e-2, None, warmup_epochs=0),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(
            epochs=epochs,
            best_metric=best_metric or of_main,
            task_weighting=weighting,  # type: ignore[arg-type]
            log_every=1,
        ),
        inputs=InputsConfig(**inputs),
        tasks=tasks,
    )
