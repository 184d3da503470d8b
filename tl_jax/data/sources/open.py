"""Opens a source by its specification: `elpv`, `folder:PATH`, `tfds:NAME[/CONFIG][:VERSION]` ..."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tl_jax import messages
from tl_jax.data.source import Source
from tl_jax.data.sources.folder import OnCorrupt, open_folder

SPECS = (
    "'digits', 'elpv', 'fashion_mnist[:FOLDER_OR_DEB]', 'folder:PATH', 'manifest:PATH', "
    "'npz:PATH', 'prepared:PATH' or 'tfds:NAME[/CONFIG][:VERSION]'"
)


def open_source(
    spec: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    seed: int = 0,
    validation_fraction: float = 0.2,
    on_corrupt: OnCorrupt = "raise",
    labels: Sequence[str] = (),
    image_column: str | None = None,
) -> Source:
    """Opens a split of labelled images.

    Args:
      spec: where the images are:
        "folder:PATH": labelled folders; see `folder.open_folder`.
        "manifest:PATH": a table, .csv, .jsonl or .parquet; see `manifest.open_manifest`.
        "npz:PATH": NumPy arrays; see `arrays.open_npz`.
        "tfds:NAME[/CONFIG][:VERSION]", "prepared:PATH": a set that TFDS prepared, by its name or by
        its folder; see `tfds_source`.
        "elpv", "fashion_mnist[:FOLDER_OR_DEB]", "digits": sets that come with packages; see the
        modules of these names.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      data_dir: folder of prepared sets, where "tfds:" may name any file system that TFDS reads
        ("gs://..."). The default is `TFDS_DATA_DIR`, and without it the user's cache for "elpv"
        and TFDS's own for "tfds:". For "folder:" and "manifest:" it is where to remember which
        files were found good.
      seed: chooses what is held out of a folder or manifest that has no splits.
      validation_fraction: part of each class held out of a folder or manifest that has no splits.
      on_corrupt: what to do with images of a folder or manifest that cannot be decoded: "raise",
        or "skip" to go on without and list them in the source's `skipped`. The other kinds take
        only "raise": what is prepared was decoded then, and arrays are.
      labels: of a manifest, "tfds:", "prepared:" or "elpv", the columns or features to learn, the
        main one first; the default is a manifest's `label`, and all classes of the others.
      image_column: column of a manifest that holds the images; the default is found by its name.

    Raises:
      ValueError: if the specification or the split is unknown, or the set is unfit.
      FileNotFoundError: if the folder, file or prepared set is not there.
      ModuleNotFoundError: if the package that a set comes with is not installed.
      CorruptImageError: if images of a folder or manifest cannot be decoded.
    """
    kind, colon, rest = spec.partition(":")
    how = _How(data_dir, seed, validation_fraction, on_corrupt, tuple(labels), image_column)
    found = _KINDS.get(kind)
    if found is None or (found.path == "needed" and not rest) or (found.path == "none" and colon):
        forms = [name + ":" * (known.path != "none") for name, known in _KINDS.items()]
        near = messages.hint(kind + colon, [*_KINDS, *forms] if found is None else forms)
        raise ValueError(f"unknown source {spec!r}; expected {SPECS}{near}")
    _check_options(spec, found, how)
    return found.open(rest, split, how)


@dataclasses.dataclass(frozen=True)
class _How:
    data_dir: str | Path | None
    seed: int
    validation_fraction: float
    on_corrupt: OnCorrupt
    labels: tuple[str, ...]
    image_column: str | None

    @property
    def record_dir(self) -> Path | None:
        if self.data_dir is None:
            return None
        if "://" in os.fspath(self.data_dir):
            raise ValueError(
                f"got data_dir={self.data_dir!r}; with 'folder:' and 'manifest:' it is where the "
                "results of checks are kept: expected a folder of this machine"
            )
        return Path(self.data_dir).expanduser()

    @property
    def sets_dir(self) -> str | None:
        # A string: pathlib would make "gs:/" of "gs://".
        return None if self.data_dir is None else os.fspath(self.data_dir)


def _check_options(spec: str, kind: "_Kind", how: _How) -> None:
    """Refuses options that a source would not heed."""
    given = {
        "on_corrupt": how.on_corrupt if how.on_corrupt != "raise" else None,
        "labels": how.labels or None,
        "image_column": how.image_column,
    }
    for option, value in given.items():
        if value is not None and option not in kind.options:
            takers = [f"'{name}'" for name, known in _KINDS.items() if option in known.options]
            raise ValueError(
                f"got {option}={value!r} with {spec!r}; only {' and '.join(takers)} take it"
            )


def _folder(path: str, split: str, how: _How) -> Source:
    return open_folder(
        Path(path).expanduser(),
        split,
        seed=how.seed,
        validation_fraction=how.validation_fraction,
        on_corrupt=how.on_corrupt,
        data_dir=how.record_dir,
    )


def _manifest(path: str, split: str, how: _How) -> Source:
    # Imported here, as below: what is not opened need not be installed.
    from tl_jax.data.sources.manifest import open_manifest

    return open_manifest(
        Path(path).expanduser(),
        split,
        seed=how.seed,
        validation_fraction=how.validation_fraction,
        labels=how.labels or ("label",),
        image_column=how.image_column,
        on_corrupt=how.on_corrupt,
        data_dir=how.record_dir,
    )


def _npz(path: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.arrays import open_npz

    del how  # Arrays have no options.
    return open_npz(Path(path).expanduser(), split)


def _elpv(path: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.elpv import open_elpv

    del path  # It is one set.
    return open_elpv(split, labels=how.labels, data_dir=how.sets_dir)


def _fashion_mnist(path: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.fashion_mnist import open_fashion_mnist

    del how  # It is one set.
    return open_fashion_mnist(split, Path(path).expanduser() if path else None)


def _digits(path: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.digits import open_digits

    del path, how  # They are one set.
    return open_digits(split)


def _prepared(path: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.tfds import open_prepared

    return open_prepared(path, split, labels=how.labels)


def _tfds(name: str, split: str, how: _How) -> Source:
    from tl_jax.data.sources.tfds import open_tfds

    return open_tfds(name, split, labels=how.labels, data_dir=how.sets_dir)


@dataclasses.dataclass(frozen=True)
class _Kind:
    """How to open a kind of source: whether a path follows its name, and the options it heeds."""

    open: Callable[[str, str, _How], Source]
    path: str
    options: tuple[str, ...] = ()


_KINDS = {
    "digits": _Kind(_digits, "none"),
    "elpv": _Kind(_elpv, "none", ("labels",)),
    "fashion_mnist": _Kind(_fashion_mnist, "may be"),
    "folder": _Kind(_folder, "needed", ("on_corrupt",)),
    "manifest": _Kind(_manifest, "needed", ("on_corrupt", "labels", "image_column")),
    "npz": _Kind(_npz, "needed"),
    "prepared": _Kind(_prepared, "needed", ("labels",)),
    "tfds": _Kind(_tfds, "needed", ("labels",)),
}
