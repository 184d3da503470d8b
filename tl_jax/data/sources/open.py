"""Opens a source by its specification: `elpv`, `folder:PATH`, `tfds:NAME[/CONFIG][:VERSION]` ..."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from tl_jax import files, messages
from tl_jax.data.source import Inputs, Source
from tl_jax.data.sources import tables
from tl_jax.data.sources.options import InputColumns, LabelKinds, OnCorrupt, OpenOptions

# How the specification of each kind is written; the kind's module has its name.
_FORMS = {
    "digits": "digits",
    "elpv": "elpv",
    "fashion_mnist": "fashion_mnist[:FOLDER_OR_DEB]",
    "folder": "folder:PATH",
    "manifest": "manifest:PATH",
    "npz": "npz:PATH",
    "prepared": "prepared:PATH",
    "tfds": "tfds:NAME[/CONFIG][:VERSION]",
}


class Kind(Protocol):
    """The interface of the module of a kind of source; `address` is what follows the colon."""

    OPTIONS: frozenset[str]
    """Which of the options `on_corrupt`, `labels` and those after it of `open_source` it uses."""

    def open(self, address: str, split: str, options: OpenOptions) -> Source:
        """Opens a split."""

    def split_names(self, address: str, options: OpenOptions) -> tuple[str, ...]:
        """Returns the names of all splits, in the source's own order."""


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    on_corrupt: OnCorrupt = "raise",
    labels: Sequence[str] = (),
    image_column: str | Sequence[str] | None = None,
    value_range: tuple[float, float] | None = None,
    numbers: Sequence[str] = (),
    ordered: Mapping[str, Sequence[str]] | None = None,
    several: Sequence[str] = (),
    columns: InputColumns | None = None,
    inputs: Inputs | None = None,
    example_weights: str | None = None,
) -> Source:
    """Opens a split of labelled images.

    Whatever the further inputs of a manifest mean (which categories and words there are, how many
    views) is fixed by the split that is trained on: open that first, and the others with its
    `inputs`.

    Args:
      spec: where the images are:
        "folder:PATH": labelled folders; see `folder.open`.
        "manifest:PATH": a table, .csv, .tsv, .jsonl or .parquet, or a folder of Parquet files; see
        `manifest.open`.
        "npz:PATH": NumPy arrays; see `npz.open`.
        `tfds:NAME[/CONFIG][:VERSION]`, `prepared:PATH`: a set that TFDS or `prepare` wrote, by its
        name or by its folder; see `tfds.open` and `prepared.open`.
        "elpv", "fashion_mnist[:FOLDER_OR_DEB]", "digits": sets that come with packages; see the
        modules of these names.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      data_dir: folder of prepared sets, where "tfds:" may name any file system that TFDS reads
        ("gs://..."). The default is `TFDS_DATA_DIR`, and without it the user's cache for "elpv"
        and TFDS's own for "tfds:". For "folder:" and "manifest:" it is the folder that remembers
        which images were decoded before.
      seed: chooses what is held out of a folder or manifest that has no splits.
      validation_fraction: share of each class held out of a folder or manifest that has no splits.
      on_corrupt: what to do with images of a folder or manifest that cannot be decoded: "raise",
        or "skip" to go on without them and list them in the source's `skipped`. The other kinds
        take only "raise": a prepared set and arrays have been decoded.
      labels: the columns of a manifest, or the features of "tfds:", "prepared:" or "elpv", to
        learn, the main one first; the default is a manifest's `label`, and all classes of the
        others.
      image_column: column of a manifest that holds the images; the default is found by its name.
        Several columns are views of one object, one or more of which may be empty.
      value_range: the values of black and white in images of more than 8 bits or of floats, such
        as (0, 4095); the default is what the files say. The sets that come with packages have 8
        bits and do not take it.
      numbers: those of a manifest's label columns that are numbers, to be regressed.
      ordered: those that are levels, each with its levels from low to high; with none, the levels
        are the numbers that occur.
      several: columns of 0 and 1, each a class, that together are one multi-label task.
      columns: a manifest's columns of further inputs, and the column that joins its rows to views
        of one object.
      inputs: what the further inputs mean, those of the source that is trained on, or of the run
        that is evaluated. The default is what the split itself has, if it is "train" or a part of
        it or the table has no such split; otherwise what that split has.
      example_weights: what holds the weight of each example's loss in training, a finite number, 0
        or more: a column of a manifest, a feature of "tfds:", "prepared:" or "elpv", an array of
        "npz:". None: there are none.

    Raises:
      ValueError: if the specification, an option or the split is wrong, or the set is unusable.
      FileNotFoundError: if the folder, file or prepared set does not exist.
      ModuleNotFoundError: if the package that a set comes with is not installed.
      CorruptImageError: if images of a folder or manifest cannot be decoded.

    Examples:
      >>> open_source("digits", "train[:10%]")[0]["image"].shape
      (8, 8, 3)
    """
    levels = {name: tuple(each) for name, each in (ordered or {}).items()}
    if image_column is not None and not isinstance(image_column, str):
        image_column = tuple(image_column)
    options = OpenOptions(
        data_dir, seed, validation_fraction, on_corrupt, tuple(labels),
        image_column,
        value_range=value_range,
        label_kinds=LabelKinds.of(numbers=tuple(numbers), ordered=levels, several=tuple(several)),
        columns=columns or InputColumns(),
        inputs=inputs,
        example_weights=example_weights,
    )  # fmt: skip
    return open_with_options(spec, split, options)


def open_with_options(spec: str, split: str, options: OpenOptions) -> Source:
    """Opens a split as `open_source`, with its options in one object."""
    kind, address = _parse(spec)
    given = {
        "on_corrupt": None if options.on_corrupt == "raise" else options.on_corrupt,
        "labels": options.labels or None,
        "image_column": options.image_column,
        "value_range": options.value_range,
        "numbers": options.label_kinds.numbers or None,
        "ordered": options.label_kinds.levels or None,
        "several": options.label_kinds.several or None,
        "columns": None if options.columns == InputColumns() else options.columns,
        # What a source of single images has: then nothing is fixed.
        "inputs": None if options.inputs == Inputs() else options.inputs,
        "example_weights": options.example_weights,
    }
    for name, value in given.items():
        if value is not None and name not in kind.OPTIONS:
            *others, last = sorted(kind.OPTIONS) or [""]
            used = f"only {', '.join(others)}{' and ' * bool(others)}{last}" if last else "none"
            raise ValueError(
                f"got {name}={value!r}, but of the options {', '.join(given)} {spec!r} uses "
                f"{used}: leave {name} out"
            )
    return kind.open(address, split, options)


def uses(spec: str, option: str) -> bool:
    """Returns whether a source of this specification takes an option, such as "on_corrupt"."""
    kind, _ = _parse(spec)
    return option in kind.OPTIONS


def split_names(spec: str, *, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Returns the names of all splits of a source, in its own order.

    Args:
      spec: as in `open_source`.
      data_dir: folder of prepared sets, as in `open_source`.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `open_source`.

    Examples:
      >>> split_names("digits")
      ('train', 'validation', 'test')
    """
    kind, address = _parse(spec)
    return kind.split_names(address, OpenOptions(data_dir))


def own_splits(spec: str, *, data_dir: str | Path | None = None) -> tuple[str, ...]:
    """Returns the names of the splits that a set itself has.

    They are those of `split_names`, but none for a folder or manifest of which a part would be held
    out; the split "all" opens such a set as a whole.

    Args:
      spec, data_dir: as in `split_names`.

    Raises:
      ValueError, FileNotFoundError, ModuleNotFoundError: as `open_source`.
    """
    kind, address = _parse(spec)
    match spec.partition(":")[0]:
        case "folder":
            from tl_jax.data.sources import folder

            return folder.own_splits(address)
        case "manifest":
            from tl_jax.data.sources import manifest

            return manifest.own_splits(address)
        case _:
            return kind.split_names(address, OpenOptions(data_dir))


def _parse(spec: str) -> tuple[Kind, str]:
    """Returns the module of a specification's kind, and its address."""
    name, colon, address = spec.partition(":")
    form = _FORMS.get(name, "")
    needs_address, takes_address = form.startswith(f"{name}:"), ":" in form
    if not form or (needs_address and not address) or (colon and not takes_address):
        written = [f"{kind}:" if ":" in text else kind for kind, text in _FORMS.items()]
        near = messages.hint(name + colon, written if form else [*_FORMS, *written])
        raise ValueError(
            f"unknown source {spec!r}; expected {', '.join(map(repr, _FORMS.values()))}"
            f"{_path_hint(spec) or near}"
        )
    return _module(name), address


def _path_hint(spec: str) -> str:
    """Returns the end of a message on a specification that is the path of a set, without a kind."""
    path = files.user_path(spec)
    kinds = {**dict.fromkeys(tables.SUFFIXES, "manifest"), ".npz": "npz"}
    try:
        kind = "folder" if path.is_dir() else kinds.get(path.suffix.lower(), "")
        return f"; did you mean '{kind}:{spec}'?" if kind and path.exists() else ""
    except (OSError, ValueError):  # A name that no file can have.
        return ""


def _module(kind: str) -> Kind:
    """Imports the module of a kind; the libraries of the other kinds need not be installed."""
    match kind:
        case "digits":
            from tl_jax.data.sources import digits

            return digits
        case "elpv":
            from tl_jax.data.sources import elpv

            return elpv
        case "fashion_mnist":
            from tl_jax.data.sources import fashion_mnist

            return fashion_mnist
        case "folder":
            from tl_jax.data.sources import folder

            return folder
        case "manifest":
            from tl_jax.data.sources import manifest

            return manifest
        case "npz":
            from tl_jax.data.sources import npz

            return npz
        case "prepared":
            from tl_jax.data.sources import prepared

            return prepared
        case _:
            from tl_jax.data.sources import tfds

            return tfds
