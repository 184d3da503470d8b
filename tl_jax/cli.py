"""The commands of `python -m tl_jax`; thin: each calls one function of the library."""

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from tl_jax import messages
from tl_jax.config import Config
from tl_jax.data.sources.folder import OnCorrupt
from tl_jax.data.sources.open import open_source
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation import evaluate as evaluation
from tl_jax.evaluation import export as exporting
from tl_jax.evaluation import predict as prediction
from tl_jax.evaluation import probe as probing
from tl_jax.models import registry
from tl_jax.models.catalogue import Entry, catalogue
from tl_jax.run import augment_grid, fit, lr_find
from tl_jax.training.checkpoint import CheckpointError

_USAGE = """usage: python -m tl_jax COMMAND [ARGUMENTS]

  train CONFIG.py [--SECTION.FIELD VALUE ...] [--workdir DIR]   fine-tune as configured
  lr-find CONFIG.py [--SECTION.FIELD VALUE ...] [--png FILE]    find a learning rate for it
  augment-grid CONFIG.py [--SECTION.FIELD VALUE ...]            draw what training sees
  prepare SOURCE OUT [--max-side PIXELS]                        check a set, and pack it
  evaluate RUN [--split SPLIT]                                  measure a run
  probe RUN_OR_MODEL SOURCE [--method METHOD]                   classify frozen features
  predict RUN_OR_MODEL IMAGE...                                 name what is in images
  models [PATTERN] [--pretrained] [--FILTER VALUE ...]          list the networks
  export RUN --to timm FILE.safetensors                         write a run for timm

Each command explains itself: python -m tl_jax COMMAND --help"""

Positional = tyro.conf.Positional
_Views = Annotated[Views, tyro.conf.arg(name="")]
# Errors whose message is for the user; any other is a defect and keeps its traceback.
_EXPECTED = (ValueError, OSError, FloatingPointError, ModuleNotFoundError, CheckpointError)


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit status: 0, 1 on failure, 2 on misuse."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in _COMMANDS:
        hint = messages.hint(command, _COMMANDS)
        print(f"unknown command {command!r}{hint}\n\n{_USAGE}", file=sys.stderr)
        return 2
    try:
        return _COMMANDS[command](rest)
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130


@dataclasses.dataclass(frozen=True)
class _Train:
    """Fine-tunes a pretrained network as a configuration says.

    The first argument is the configuration file; every field of it can be changed here. Called
    again on the same --workdir it goes on from the newest checkpoint.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Folder of the run: checkpoints, metrics, pictures, report; the default is runs/CONFIG."""
    stop_after_epoch: int | None = None
    """Stop when this many epochs are done in all; the same command goes on later."""


def _train(arguments: list[str]) -> int:
    parsed = _configured("train", arguments, _Train)
    if parsed is None:
        return 2
    workdir = parsed.workdir or Path("runs") / Path(arguments[0]).stem
    report = fit.fit(parsed.config, workdir, stop_after_epoch=parsed.stop_after_epoch)
    if report is not None:
        print(summary(report))
        print(f"curves.png, confusion.png, report.json and tensorboard/ are in {workdir}")
    return 0


@dataclasses.dataclass(frozen=True)
class _LrFind:
    """Trains at rising learning rates for some steps, and draws the loss by rate.

    The first argument is the configuration file; every field of it can be changed here.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    png: Path = Path("learning_rate.png")
    """Picture to be written."""
    phase: int = 1
    """Which phase of the run, from 1."""
    low: float = 1e-7
    """First learning rate."""
    high: float = 10.0
    """Last learning rate, if the loss does not diverge before."""
    steps: int = 100
    """Steps from `low` to `high`."""


def _lr_find(arguments: list[str]) -> int:
    parsed = _configured("lr-find", arguments, _LrFind)
    if parsed is None:
        return 2
    curve, group = lr_find.lr_find(
        parsed.config, parsed.png, phase=parsed.phase, low=parsed.low, high=parsed.high,
        steps=parsed.steps,
    )  # fmt: skip
    for name, rate in (("minimum / 10", curve.minimum_over_ten), ("steepest", curve.steepest)):
        found = "none: the loss never falls" if rate is None else f"{rate:.1e}"
        print(f"{name:<13} {found}  (rate of {group})")
    print(f"{parsed.png} shows the curve")
    return 0


@dataclasses.dataclass(frozen=True)
class _AugmentGrid:
    """Draws training images, and beside each what the training step may get of it.

    The first argument is the configuration file; every field of it can be changed here.
    """

    config: Annotated[Config, tyro.conf.arg(name="")]
    png: Path = Path("augmented.png")
    """Picture to be written."""
    images: int = 6
    """Rows: images of the training split, in the order of training."""
    versions: int = 8
    """Columns: draws of the augmentation."""


def _augment_grid(arguments: list[str]) -> int:
    parsed = _configured("augment-grid", arguments, _AugmentGrid)
    if parsed is None:
        return 2
    augment_grid.show_augmented(
        parsed.config, parsed.png, images=parsed.images, versions=parsed.versions
    )
    print(f"{parsed.png} shows {parsed.images} images, each with {parsed.versions} draws")
    return 0


def _prepare(arguments: list[str]) -> int:
    # Imported here: these bring TFDS's writer and matplotlib, which no other command needs.
    from tl_jax.data.prepare import report as set_report
    from tl_jax.data.prepare.prepare import prepare as preparing

    def prepare(
        source: Positional[str],
        out: Positional[Path],
        splits: tuple[str, ...] = (),
        max_side: int | None = None,
        encoding: Literal["as-is", "jpeg", "png"] = "as-is",
        seed: int = 0,
        validation_fraction: float = 0.2,
        labels: tuple[str, ...] = (),
        image_column: str | None = None,
        data_dir: str | None = None,
        workers: int | None = None,
    ) -> None:
        """Decodes every image once, names those that cannot be, and packs the others for training.

        Args:
          source: Data, such as "folder:PATH" or "manifest:FILE".
          out: Folder to be made: records, report.md, contact_sheet.png, quarantine.jsonl.
          splits: Splits to prepare; the default is all.
          max_side: Larger images are made smaller, to this many pixels on the longer side.
          encoding: Keep the files' own bytes, or encode all as JPEG or PNG.
          seed: Chooses what is held out of a set without splits, and the contact sheet's images.
          validation_fraction: Part of each class that is held out of a set without splits.
          labels: Columns of a manifest that hold the labels, the main one first.
          image_column: Column of a manifest that holds the images.
          data_dir: Folder of prepared sets, for a source that is one.
          workers: Threads that decode; the default is one for each core.
        """
        found = preparing.prepare(
            source, out, splits=splits or None, max_side=max_side, encoding=encoding, seed=seed,
            validation_fraction=validation_fraction, labels=labels, image_column=image_column,
            data_dir=data_dir, workers=workers,
        )  # fmt: skip
        print(set_report.summary(found.report))
        print(
            f"open it as prepared:{found.folder}; report.md, contact_sheet.png and "
            "quarantine.jsonl lie in it"
        )

    _parse(prepare, "prepare", arguments)
    return 0


def read_config(path: Path) -> Config:
    """Reads a configuration file: a Python module with `get_config() -> Config`.

    Raises:
      ValueError: if the file is missing or has no such function.
    """
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ValueError(f"there is no configuration {path}{messages.hint(str(path), beside)}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file; expected one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    get_config = vars(module).get("get_config")
    config = get_config() if callable(get_config) else None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a tl_jax.Config")
    return config


def summary(report: dict[str, Any]) -> str:
    """Returns the table of a report's metrics by split, as text."""
    lines = [
        f"best epoch {report['best_epoch']} of {report['epochs']} by {report['best_metric']}",
        f"{'split':<12} {'count':>6} {'loss':>8} {'accuracy':>9} {'95% interval':>15} "
        f"{'balanced':>9} {'macro F1':>9}",
    ]
    for split, found in report["metrics"].items():
        low, high = found["accuracy_interval"]
        lines.append(
            f"{split:<12} {found['count']:>6} {found['loss']:>8.4f} {found['accuracy']:>9.4f} "
            f"{f'{low:.3f} to {high:.3f}':>15} {found['balanced_accuracy']:>9.4f} "
            f"{found['macro_f1']:>9.4f}"
        )
    return "\n".join(lines)


def _evaluate(arguments: list[str]) -> int:
    def evaluate(
        run: Positional[Path],
        split: str | None = None,
        source: str | None = None,
        data_dir: str | None = None,
        on_corrupt: OnCorrupt | None = None,
        batch_size: int | None = None,
        views: _Views = ONE_VIEW,
    ) -> None:
        """Measures the best checkpoint of a run.

        Args:
          run: Folder of the run.
          split: Split to measure on; the default is the run's test split, or else its evaluation
            split.
          source: Other data with the same classes, such as "folder:PATH".
          data_dir: Where prepared sets lie; the default is the run's for its own data.
          on_corrupt: What to do with images that cannot be decoded; the default is the run's for
            its own data, and to stop for others.
          batch_size: Images at once; the default is the run's.
          views: Of each image, over which the network's outputs are averaged.
        """
        found = evaluation.evaluate(
            run, split=split, source=source, data_dir=data_dir, on_corrupt=on_corrupt,
            batch_size=batch_size, views=views,
        )  # fmt: skip
        low, high = found["accuracy_interval"]
        print(f"{found['split']}: {found['count']} images, checkpoint of step {found['step']}")
        print(f"  accuracy           {found['accuracy']:.4f}  (95%: {low:.4f} to {high:.4f})")
        print(f"  balanced accuracy  {found['balanced_accuracy']:.4f}")
        print(f"  macro F1           {found['macro_f1']:.4f}")
        print(f"  loss               {found['loss']:.4f}")
        for name, recall, precision in zip(
            found["class_names"], found["recall"], found["precision"], strict=True
        ):
            print(f"  {name}: recall {recall:.4f}, precision {precision:.4f}")

    _parse(evaluate, "evaluate", arguments)
    return 0


def _probe(arguments: list[str]) -> int:
    def probe(
        run_or_model: Positional[str],
        source: Positional[str],
        method: probing.Method = "logistic",
        train_split: str = "train",
        test_split: str = "test",
        weights: str | None = None,
        views: int = 1,
        cache_dir: Path | None = None,
    ) -> None:
        """Fits a classifier on the features of a frozen network, and tests it.

        Args:
          run_or_model: Folder of a run, or timm's name of a network.
          source: Data, such as "elpv" or "folder:PATH".
          method: Logistic regression, ridge, k nearest neighbours or class means.
          train_split: Split to fit on.
          test_split: Split to test on.
          weights: Where a network's weights come from, as for predict.
          views: How often each training image is seen, augmented from the second time on.
          cache_dir: Folder in which the features are kept for the next time.
        """
        splits = [open_source(source, split) for split in (train_split, test_split)]
        found = probing.probe(
            run_or_model, *splits, method=method, weights=weights, views=views, cache_dir=cache_dir
        )
        low, high = found.accuracy_interval
        penalty = "" if found.l2 is None else f", l2 {found.l2:g}"
        print(f"{method} on {len(splits[0])} images{penalty}; {found.count} of {test_split}:")
        print(f"  accuracy  {found.accuracy:.4f}  (95%: {low:.4f} to {high:.4f})")
        print(f"  features in {found.feature_seconds:.1f} s, fit in {found.solve_seconds:.1f} s")
        if found.convergence is not None and not found.convergence.converged:
            print("  the solver did not converge; take a larger penalty", file=sys.stderr)

    _parse(probe, "probe", arguments)
    return 0


def _predict(arguments: list[str]) -> int:
    def predict(
        run_or_model: Positional[str],
        images: Positional[tuple[Path, ...]],
        weights: str | None = None,
        top: int = 5,
        views: _Views = ONE_VIEW,
    ) -> None:
        """Names what is in images, with a trained run or a pretrained network.

        Args:
          run_or_model: Folder of a run, or timm's name of a network.
          images: Image files.
          weights: Where a network's weights come from: "package", "hub", "hub@REVISION",
            "hub:OWNER/REPO@REVISION", or a .safetensors or .pth file.
          top: How many classes are shown.
          views: Of each image, over which the network's outputs are averaged.
        """
        if not images:
            raise ValueError("predict needs at least one image file")
        results = prediction.predict(run_or_model, images, weights=weights, top=top, views=views)
        for image, classes in zip(images, results, strict=True):
            print(image)
            for name, probability in classes:
                print(f"  {probability:7.2%}  {name}")

    _parse(predict, "predict", arguments)
    return 0


def _models(arguments: list[str]) -> int:
    def models(
        pattern: Positional[str] = "*",
        pretrained: bool = False,
        family: str | None = None,
        max_parameters: float | None = None,
        max_input_size: int | None = None,
        classes: int | None = None,
        license: str | None = None,
    ) -> None:
        """Lists the networks with what there is to choose by; an option narrows the list.

        Args:
          pattern: Shell wildcards, such as "resnet*".
          pretrained: List the published weights (arch.tag) in place of the architectures.
          family: Only this family, such as convnext.
          max_parameters: At most so many million parameters.
          max_input_size: Images of at most this side, in pixels.
          classes: Only weights with this many classes; 0 for those without a classifier.
          license: Only weights under this licence, such as apache-2.0; none for those that state
            none.
        """
        found = catalogue(
            pattern, pretrained=pretrained, family=family,
            max_parameters=None if max_parameters is None else max_parameters * 1e6,
            max_input_size=max_input_size, classes=classes, license=license,
        )  # fmt: skip
        if not found and registry.list_models(pattern, pretrained=pretrained):
            raise ValueError(
                f"no network that matches {pattern!r} has all that the options ask for"
            )
        if not found:
            known = registry.list_models(pretrained=pretrained)
            raise ValueError(f"no network matches {pattern!r}{messages.hint(pattern, known)}")
        print(model_table(found))

    _parse(models, "models", arguments)
    return 0


def model_table(entries: Sequence[Entry]) -> str:
    """Returns a table of networks as text, with a line that counts them."""
    width = max(len("name"), *(len(entry.name) for entry in entries))
    lines = [f"{'name':<{width}}  {'family':<19} {'params':>8} {'size':>4} {'classes':>7}  licence"]
    for entry in entries:
        lines.append(
            f"{entry.name:<{width}}  {entry.family:<19} {entry.parameters / 1e6:>7.1f}M "
            f"{entry.input_size:>4} {entry.classes:>7}  {entry.license or 'not stated'}"
        )
    families = len({entry.family for entry in entries})
    return "\n".join([*lines, f"{len(entries)} listed, of {families} families"])


def _export(arguments: list[str]) -> int:
    def export(run: Positional[Path], to: tuple[str, Path]) -> None:
        """Writes the best checkpoint of a run in another library's form.

        Args:
          run: Folder of the run.
          to: The library, "timm", and the file, which ends in .safetensors.
        """
        library, file = to
        if library != "timm":
            raise ValueError(f"cannot export to {library!r}{messages.hint(library, ['timm'])}")
        line = exporting.export_timm(run, file)
        print(f"wrote {file}; load it with\n  {line}")

    _parse(export, "export", arguments)
    return 0


def _configured(command: str, arguments: list[str], kind: Callable[[Config], Any]) -> Any:
    """Parses a configuration file and changes to it; returns None, and says so, without a file."""
    named = bool(arguments) and not arguments[0].startswith("-")
    default = kind(read_config(Path(arguments[0])) if named else Config())
    rest = arguments[1:] if named else arguments
    parsed = _parse(kind, f"{command} CONFIG.py", rest, default=default)
    if named:
        return parsed
    print(f"error: {command} needs a configuration, such as configs/demo.py", file=sys.stderr)
    return None


def _parse(target: Callable[..., Any], name: str, arguments: list[str], **default: Any) -> Any:
    """Parses arguments by the type or signature of `target`, and calls it."""
    return tyro.cli(target, prog=f"python -m tl_jax {name}", args=arguments, **default)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": _train,
    "lr-find": _lr_find,
    "augment-grid": _augment_grid,
    "prepare": _prepare,
    "evaluate": _evaluate,
    "probe": _probe,
    "predict": _predict,
    "models": _models,
    "export": _export,
}
