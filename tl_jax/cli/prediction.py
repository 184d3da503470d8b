"""The command that predicts: what it takes, what it prints of each example, and what it writes."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm
from tyro.conf import Positional

from tl_jax.cli import streams
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation import prediction_files, prediction_inputs
from tl_jax.evaluation.predict import Predictor, Stream
from tl_jax.evaluation.predictions import (
    LabelsPrediction,
    LevelPrediction,
    Prediction,
    TaskPrediction,
    ValuePrediction,
)

# Fields are options without a prefix: --crops, not --views.crops.
_Views = Annotated[Views, tyro.conf.arg(name="")]

# Progress is shown of more examples than these.
_MANY = 200
_SECONDS_BETWEEN_LINES = 15.0


def predict(
    run_or_model: Positional[str],
    images: Positional[tuple[Path, ...]],
    *,
    object: tuple[Path, ...] = (),
    source: str | None = None,
    split: str | None = None,
    image_column: tuple[str, ...] = (),
    group: str | None = None,
    to: Path | None = None,
    weights: str | None = None,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    top: int = 5,
    value_range: tuple[float, float] | None = None,
    calibrated: bool = False,
    views: _Views = ONE_VIEW,
) -> None:
    """Predicts classes, labels, levels and numbers of images, by a run or a pretrained network.

    Args:
      run_or_model: Folder of a run; or a network: timm's name, "hf-hub:OWNER/REPO", or a folder
        with config.json and weights.
      images: Image files, and folders, of which all images below them are taken. For a run that
        learned from several images of an object each folder with images is an object.
      object: Images of one object, for such a run.
      source: Data in place of images, such as "manifest:new.csv", with the columns that the run
        learned from; labels are not needed.
      split: Split of the source; the default is all of it.
      image_column: Column of a manifest that holds the images; several are views of an object.
        The default is the run's.
      group: Column of a manifest that joins the rows of one object; the default is the run's.
      to: File to write the predictions to, in place of printing them: .csv, .json or .jsonl.
      weights: Where a network's weights come from: "package", "hub", "hub@REVISION",
        "hub:OWNER/REPO@REVISION", a folder with config.json and weights, or a .safetensors or
        .pth file.
      checkpoint_key: Entry of a training checkpoint that holds the weights, such as "state_dict";
        the default takes averaged weights (EMA) where there are any.
      prefix: Prefix of the keys that are taken from the weights, such as "backbone.".
      ignore: Shell patterns of keys of the weights that are left out, such as "projector.*".
      top: Number of classes to show.
      value_range: Values of black and white in images of more than 8 bits, such as 0 4095; the
        default is the run's, or what the files say.
      calibrated: Divide the logits of a run that tells the class of one image by the temperature
        that it chose after training; other runs always use theirs, and their thresholds.
      views: Views of each image, over which the network's outputs are averaged.
    """
    if (bool(images) + bool(object) + (source is not None)) != 1:
        raise ValueError(
            "predict needs at least one image file or folder; or the images of one object "
            "(--object), or a table (--source), in their place"
        )
    if top < 1:
        raise ValueError(f"top is {top}; expected the number of classes to show, at least 1")
    if to is not None:
        prediction_files.check(to)
    if images:
        named = prediction_inputs.of_images(images)
        prediction_inputs.check_named(named, all_needed=False)
    predictor = Predictor(
        run_or_model, weights=weights, views=views, value_range=value_range, calibrated=calibrated,
        checkpoint_key=checkpoint_key, prefix=prefix, ignore=ignore,
    )  # fmt: skip
    given = [list(object)] if object else list(images) or None
    stream = predictor.stream(
        given, source=source, split=split, image_column=image_column or None, group=group
    )
    for note in stream.notes:
        streams.complain(f"note: {note}")
    bad = _write(predictor, stream, to) if to is not None else _print(predictor, stream, top)
    if bad:
        raise ValueError(f"{bad} of {len(stream)} could not be read; they are named above")


def _write(predictor: Predictor, stream: Stream, to: Path) -> int:
    """Writes predictions to a file; returns the number of examples that could not be read."""
    bad = 0
    with prediction_files.writing(to, predictor.tasks) as write:
        for prediction in _shown(stream, prints=False):
            bad += _complained(prediction)
            write(prediction)
    print(f"wrote {len(stream)} predictions to {to}")
    return bad


def _print(predictor: Predictor, stream: Stream, top: int) -> int:
    """Prints predictions; returns the number of examples that could not be read."""
    bad = 0
    for prediction in _shown(stream, prints=True):
        if _complained(prediction):
            bad += 1
            continue
        print(_name(prediction))
        for task, said in prediction.tasks.items():
            # A network that tells nothing but the class of an image says no more than that.
            lines = _classes(said, top) if predictor.is_single_label else _lines(task, said, top)
            print("\n".join(f"  {line}" for line in lines))
    return bad


def _complained(prediction: Prediction) -> bool:
    """Names an example that could not be read on standard error; returns whether it is one."""
    if prediction.error is None:
        return False
    name = _name(prediction)
    named = prediction.error if name in prediction.error else f"{name}: {prediction.error}"
    streams.complain(f"error: {named}")
    return True


def _name(prediction: Prediction) -> str:
    return " ".join(path or "-" for path in prediction.paths)


def _classes(said: TaskPrediction, top: int) -> list[str]:
    """Returns the most probable classes, a line each; nothing of a number."""
    if isinstance(said, ValuePrediction):
        return []
    shown = sorted(said.probabilities.items(), key=lambda item: -item[1])
    return [f"{value:7.2%}  {name}" for name, value in shown[:top]]


def _lines(task: str, said: TaskPrediction, top: int) -> list[str]:
    """Returns what is said for a task: a line with its name, and a line for each class."""
    if isinstance(said, ValuePrediction):
        return [f"{task}: {said.predicted:.6g}"]
    if isinstance(said, LabelsPrediction):
        return _labels(task, said, top)
    lines = _classes(said, top)
    if isinstance(said, LevelPrediction):
        lines = [f"{value:7.2%}  {name}" for name, value in said.probabilities.items()]
    return [f"{task}: {said.predicted}", *(f"  {line}" for line in lines)]


def _labels(task: str, said: LabelsPrediction, top: int) -> list[str]:
    """Returns the classes above their thresholds, and then those below, up to `top` of them."""
    lines = []
    for name, value in sorted(said.probabilities.items(), key=lambda item: -item[1]):
        is_above = name in said.predicted
        mark = "" if is_above else f"  (below its threshold of {said.thresholds[name]:.1%})"
        lines.append((not is_above, f"  {value:7.2%}  {name}{mark}"))
    lines.sort(key=lambda line: line[0])
    shown = max(top, len(said.predicted))
    return [f"{task}: {', '.join(said.predicted) or 'none'}", *(x for _, x in lines[:shown])]


def _shown(stream: Stream, *, prints: bool) -> Iterator[Prediction]:
    """Yields predictions; of many it shows on standard error how many there are so far.

    In a terminal it is a bar, unless what is printed would run through it; elsewhere a line now and
    then.
    """
    is_many = len(stream) > _MANY and not (prints and sys.stdout.isatty())
    said = time.monotonic()
    with tqdm(
        total=len(stream), unit="image", disable=None if is_many else True, leave=False,
        dynamic_ncols=True,
    ) as bar:  # fmt: skip
        for count, prediction in enumerate(stream, start=1):
            yield prediction
            with contextlib.suppress(OSError, ValueError):  # The terminal has gone.
                bar.update()
            if is_many and bar.disable and time.monotonic() - said > _SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                streams.complain(f"predicted {count:,} of {len(stream):,}")
