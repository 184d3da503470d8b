"""The commands that use a trained run: evaluate, probe, soup, wise-ft and export."""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from tl_jax import messages
from tl_jax.cli import measured
from tl_jax.cli.processes import ALONE, Processes
from tl_jax.data.images.value_check import value_warnings
from tl_jax.data.relabel import UnknownClasses
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation import evaluate as evaluation
from tl_jax.evaluation import export as exporting
from tl_jax.evaluation import probe as probing
from tl_jax.evaluation import soup as soups
from tl_jax.evaluation import wise_ft as wise_fts
from tl_jax.probes.probe import Method

# Fields are options without a prefix: --crops, not --views.crops.
_Views = Annotated[Views, tyro.conf.arg(name="")]


def evaluate(
    run: Positional[Path],
    *,
    split: str | None = None,
    source: str | None = None,
    data_dir: str | None = None,
    on_corrupt: OnCorrupt | None = None,
    labels: tuple[str, ...] = (),
    image_column: tuple[str, ...] = (),
    group: str | None = None,
    value_range: tuple[float, float] | None = None,
    unknown_classes: UnknownClasses = "raise",
    batch_size: int | None = None,
    views: _Views = ONE_VIEW,
    processes: Processes = ALONE,
) -> None:
    """Measures the best checkpoint of a run.

    Args:
      run: Folder of the run.
      split: Split to measure on; the default is the run's test split, or else its evaluation
        split; and all of other data that have no splits.
      source: Other data, such as "folder:PATH"; their classes are matched by name.
      data_dir: Folder of prepared sets; the default is the run's for its own data.
      on_corrupt: What to do with images that cannot be decoded; the default is the run's for
        its own data, and "raise" for other data.
      labels: Columns of a manifest that hold the labels, the main one first; of a run with tasks
        those of its tasks that the data have.
      image_column: Column of a manifest that holds the images; several are views of an object.
      group: Column of a manifest that joins the rows of one object.
      value_range: Values of black and white in images of more than 8 bits or of floats, such as
        0 4095; the default is the run's.
      unknown_classes: What to do with labels of classes that the run was not trained on: refuse
        them, or leave them out.
      batch_size: Images per batch; the default is the run's.
      views: Views of each image, over which predictions are averaged.
      processes: The other processes of the job.
    """
    processes.join()
    result = evaluation.evaluate(
        run, split=split, source=source, data_dir=data_dir, on_corrupt=on_corrupt, labels=labels,
        image_column=image_column, group=group, value_range=value_range,
        unknown_classes=unknown_classes, batch_size=batch_size, views=views,
    )  # fmt: skip
    for line in measured.lines(result):
        print(line)


def probe(
    run_or_model: Positional[str],
    source: Positional[str],
    *,
    method: Method = "logistic",
    train_split: str = "train",
    test_split: str | None = None,
    data_dir: str | None = None,
    on_corrupt: OnCorrupt = "raise",
    labels: tuple[str, ...] = (),
    numbers: tuple[str, ...] = (),
    several: tuple[str, ...] = (),
    image_column: tuple[str, ...] = (),
    value_range: tuple[float, float] | None = None,
    unknown_classes: UnknownClasses = "raise",
    weights: str | None = None,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    views: int = 1,
    cache_dir: Path | None = None,
    processes: Processes = ALONE,
) -> None:
    """Fits a classifier on the features of a frozen network, and tests it.

    Args:
      run_or_model: Folder of a run, or timm's name of a network.
      source: Data, such as "elpv" or "folder:PATH".
      method: Logistic regression, ridge, k nearest neighbours or class means.
      train_split: Split to fit on.
      test_split: Split to test on; the default is "test", or "validation" if there is no "test".
      data_dir: Folder of prepared sets, for "tfds:" and "elpv".
      on_corrupt: What to do with images that cannot be decoded: refuse them, or leave them out.
      labels: Columns of a manifest that hold the labels, the main one first.
      numbers: Those of them that are numbers, for ridge.
      several: Columns of 0 and 1, each a class of which an image may have several.
      image_column: Column of a manifest that holds the images; several are views of an object.
      value_range: Values of black and white in images of more than 8 bits or of floats, such as
        0 4095; the default is the run's, if it is one.
      unknown_classes: What to do with test images of classes that the training split does not
        have: refuse them, or leave them out.
      weights: Where a network's weights come from, as for predict.
      checkpoint_key: Entry of a training checkpoint, as for predict.
      prefix: Prefix of the keys of the weights, as for predict.
      ignore: Patterns of keys of the weights that are left out, as for predict.
      views: Views of each training image; those after the first are augmented.
      cache_dir: Folder in which the features are cached.
      processes: The other processes of the job.
    """
    processes.join()
    train, test = probing.open_splits(
        run_or_model, source, train_split=train_split, test_split=test_split,
        value_range=value_range, data_dir=data_dir, on_corrupt=on_corrupt, labels=labels,
        image_column=image_column or None, numbers=numbers, several=several,
    )  # fmt: skip
    for note in dict.fromkeys((*train.notes, *test.notes, *value_warnings(train, value_range))):
        print(f"note: {note}")
    result = probing.probe(
        run_or_model, train, test, method=method, weights=weights, checkpoint_key=checkpoint_key,
        prefix=prefix, ignore=ignore, views=views, cache_dir=cache_dir,
        unknown_classes=unknown_classes,
    )  # fmt: skip
    penalty = "" if result.l2 is None else f", l2 {result.l2:g}"
    print(f"{method} on {len(train)} images{penalty}; {result.count} of {test.split}:")
    for line in measured.of_probe(result):
        print(line)
    print(f"  features in {result.feature_seconds:.1f} s, fit in {result.solve_seconds:.1f} s")
    if result.convergence is not None and not result.convergence.converged:
        print("  the solver did not converge; take a larger penalty", file=sys.stderr)


def soup(
    runs: Positional[tuple[Path, ...]],
    *,
    to: Path,
    kind: soups.Kind = "greedy",
    split: str | None = None,
) -> None:
    """Averages the weights of several runs, and writes the average as a new run.

    Args:
      runs: Folders of two runs or more, of the same network and the same classes.
      to: Folder of the new run.
      kind: "greedy" adds runs from the best down as long as the score does not fall; "uniform"
        averages all.
      split: Split that the runs are scored on; the default is the evaluation split.
    """
    result = soups.soup(runs, to, kind=kind, split=split)
    print(f"{result.metric} on {result.split}:")
    for run, score in zip(runs, result.run_scores, strict=True):
        print(f"  {score:.4f}  {run}{'  (in the soup)' if run in result.kept else ''}")
    print(f"  {result.score:.4f}  {to}: the average of {len(result.kept)} of {len(runs)} runs")


def wise_ft(
    run: Positional[Path],
    *,
    alphas: tuple[float, ...] = wise_fts.ALPHAS,
    split: str | None = None,
    to: Path | None = None,
) -> None:
    """Measures weights between the initial and the fine-tuned ones of a run.

    Args:
      run: Folder of the run.
      alphas: Places between the initial (0) and the fine-tuned (1) weights.
      split: Split that they are scored on; the default is the evaluation split.
      to: Folder of a new run with the best of these weights; the default writes none.
    """
    result = wise_fts.wise_ft(run, alphas=alphas, split=split, to=to)
    print(f"alpha  {result.metric} on {result.split}")
    for alpha, score in result.curve:
        print(f"{alpha:5.2f}  {score:.4f}{'  (best)' if alpha == result.best_alpha else ''}")
    if to is not None:
        print(f"{to} holds the run with the best weights")


def export(run: Positional[Path], *, to: tuple[str, Path]) -> None:
    """Writes the best checkpoint of a run in another library's format.

    Args:
      run: Folder of the run.
      to: The library, "timm", and where to: a file that ends in .safetensors, or a new folder,
        which gets config.json and model.safetensors as a repository of the hub has them. Of a
        network that timm does not have whole this is the backbone, and the heads lie beside it.
    """
    library, path = to
    if library != "timm":
        raise ValueError(f"cannot export to {library!r}{messages.hint(library, ['timm'])}")
    line = exporting.export_timm(run, path)
    places = exporting.Places.of(path)
    has_heads = places.heads.exists()
    print(f"wrote {path}; load {'its backbone' if has_heads else 'it'} with\n  {line}")
    if has_heads:
        print(f"the heads are in {places.heads}")
    if places.tasks.exists():
        print(f"{places.tasks} says what goes in and what the outputs mean")
