"""Evaluates a trained run on a split of its own data, or of other data."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_jax import files, messages, process
from tl_jax.config import DataConfig
from tl_jax.data.images.value_check import value_warnings
from tl_jax.data.relabel import UnknownClasses, absent_classes, match_to
from tl_jax.data.source import Source
from tl_jax.data.sources.open import own_splits, uses
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation.single_label import load_single_label
from tl_jax.run import record
from tl_jax.run.data import CARVED, load_options, open_split
from tl_jax.run.folder import Run, RunFolder
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator


def evaluate(
    workdir: str | Path,
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    on_corrupt: OnCorrupt | None = None,
    labels: Sequence[str] = (),
    image_column: str | None = None,
    value_range: tuple[float, float] | None = None,
    unknown_classes: UnknownClasses = "raise",
    batch_size: int | None = None,
    views: Views = ONE_VIEW,
) -> dict[str, Any]:
    """Evaluates the best checkpoint of a run.

    The classes of other data are matched to the run's by name, in any order. Classes of which a
    split has no image are left out of the means (balanced accuracy, macro F1).

    Args:
      workdir: the run's folder.
      split: which split. The default is the run's test split, or else its evaluation split; of
        other data these where they exist, or else "test" or "validation", and the whole set where
        it has no splits of its own.
      source: other data, as in the configuration's `data.source`.
      data_dir, on_corrupt, labels, image_column: as in the configuration. The default is the run's
        value for the run's data, and the configuration's default for other data.
      value_range: as in the configuration; the default is the run's, for other data too.
      unknown_classes: what to do with images of classes that the run was not trained on: "raise",
        or "skip" to leave them out.
      batch_size: images at once; the default is the run's.
      views: views of each image; the network's outputs are averaged over them. The default is the
        single view that training evaluates.

    Returns:
      The metrics of `tl_jax.objectives.metrics.summarize`, with "split", "step", "class_names",
      "absent_classes" (of which the split has no image) and "notes" (what was decided, left out or
      looks wrong, as sentences).

    Raises:
      ValueError: if the split is unknown, the data have images of other classes, or the images are
        too small for the views.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> evaluate("runs/digits", split="test")["count"]
      450
    """
    process.prepare()
    run = load_single_label(workdir, "evaluate")
    data = run.config.data
    is_other = source is not None and not _is_same(source, data.source)
    if source is not None and is_other:
        data = _other_data(data, source, run.info.preprocess.value_range)
    data = dataclasses.replace(
        data,
        data_dir=data_dir or data.data_dir,
        on_corrupt=on_corrupt or data.on_corrupt,
        labels=tuple(labels) or data.labels,
        image_column=image_column or data.image_column,
        value_range=value_range or data.value_range,
        batch_size=batch_size or data.batch_size,
        cache="none",
    )
    if split is None:
        split = _split_of_other(data) if is_other else data.test_split or data.eval_split
    if is_other:
        opened = open_split(dataclasses.replace(run.config, data=data), split)
    else:
        opened = _open_own(run, data, split)
    examples = match_to(opened, run.info.class_names, unknown=unknown_classes)
    evaluator = Evaluator(
        run.model,
        run.info.preprocess,
        mesh=sharding.data_mesh(),
        load_options=load_options(data),
        views=views,
    )
    metrics, _ = evaluator(run.variables, examples)
    return {
        "split": split,
        "step": run.step,
        "class_names": list(run.info.class_names),
        "absent_classes": absent_classes(examples),
        "notes": [
            *_notes(examples, value_range),
            *(_trained_on(workdir, data.train_split, examples) if is_other else ()),
        ],
        **metrics,
    }


def _is_same(source: str, own: str) -> bool:
    """Returns whether two specifications are of the same data."""
    (kind, _, address), (own_kind, _, own_address) = source.partition(":"), own.partition(":")
    if kind != own_kind or not (address and own_address):
        return source == own
    return files.user_path(address).resolve() == files.user_path(own_address).resolve()


def _open_own(run: Run, data: DataConfig, split: str) -> Source:
    """Opens a split of the run's own data, which must be where they were."""
    check_held_out(run, split)
    try:
        return open_split(dataclasses.replace(run.config, data=data), split)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}; if the run's data are elsewhere now, name them and the split by source and "
            "split (--source, --split)"
        ) from error


def _other_data(
    data: DataConfig, source: str, value_range: tuple[float, float] | None
) -> DataConfig:
    """Returns how other data are read: as the configuration's defaults, with the run's range."""
    return dataclasses.replace(
        data, source=source, data_dir=None, labels=(), image_column=None, carve=None, shots=None,
        on_corrupt="raise", value_range=value_range if uses(source, "value_range") else None,
    )  # fmt: skip


def _split_of_other(data: DataConfig) -> str:
    """Returns the split of other data that is evaluated unless one is named."""
    names = own_splits(data.source, data_dir=data.data_dir)
    if not names:
        return "all"
    for name in (data.test_split, "test", data.eval_split, "validation"):
        if name in names:
            return name
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"{data.source} has the splits {messages.some(names)}; name the one to evaluate on by "
        "split (--split)"
    )


def check_held_out(run: Run, split: str) -> None:
    """Raises ValueError for a split that this version would hold out otherwise than the run did."""
    data = run.config.data
    is_divided = data.carve is None or split in (data.train_split, CARVED)
    if is_divided and record.is_divided_otherwise(run.config, run.info):
        raise ValueError(
            f"the run was trained by an earlier version, which held out other images of "
            f"{data.source} as {split!r} than this one does, so that images that were trained on "
            "would be counted; evaluate it on other data (source, --source), or train again"
        )


def _trained_on(workdir: str | Path, train_split: str, examples: Source) -> list[str]:
    """Returns a note on images of other data that the run seems to have been trained on.

    Such are those of the run's own data that were moved, or copied into a larger set.
    """
    trained = RunFolder(workdir).read_examples().get(train_split)
    if trained is None or not trained.names or len(trained.marks) != len(trained.names):
        return []
    names, marks = examples.identities(), examples.content_marks()
    if all("-" in mark for mark in (*trained.marks, *marks)):  # With a hash of the content.
        known, found = {*trained.marks}, list(marks)
    else:
        known = {f"{_size(mark)} {n}" for n, mark in zip(trained.names, trained.marks, strict=True)}
        found = [f"{_size(mark)} {name}" for name, mark in zip(names, marks, strict=False)]
    count = sum(key in known for key in found)
    if not count:
        return []
    return [
        f"{count} of {len(examples)} images seem to be among those that the run was trained on; if "
        "so, these metrics measure what was trained on: name the split that it held out (split, "
        "--split), or leave them out of the data"
    ]


def _size(mark: str) -> str:
    return mark.partition("-")[0]


def _notes(examples: Source, value_range: tuple[float, float] | None) -> list[str]:
    """Returns what a reader of the metrics must know."""
    notes = [*examples.notes, *value_warnings(examples, value_range)]
    if examples.skipped:
        skipped = messages.some(examples.skipped, quoted=False)
        notes.append(f"left out {len(examples.skipped)} images that cannot be decoded: {skipped}")
    absent, count = absent_classes(examples), len(examples.class_names)
    if absent:
        notes.append(
            f"no image of {messages.some(absent)}: balanced accuracy and macro F1 are means over "
            f"the other {count - len(absent)} of {count} classes"
        )
    return notes
