"""The source of images in labelled folders: `root/split/class/*` or `root/class/*`."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tl_jax import messages
from tl_jax.data import slices
from tl_jax.data.images import decode, verify
from tl_jax.data.partition import check_fraction, hold_out, shuffled
from tl_jax.data.source import Example, Task, cache_dir

VALIDATION_NAMES = ("validation", "val", "valid")
_SLICE_SEED = 0

OnCorrupt = Literal["raise", "skip"]
Files = Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """One split of an image folder; examples hold `image`, `label` and `path`.

    Attributes:
      name, split, class_names, skipped: as in `Source`.
      paths: the image files, class by class.
      classes: index of each file's class.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    classes: tuple[int, ...]
    skipped: tuple[str, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The one task, "label"."""
        return (Task("label", self.class_names),)

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return np.asarray(self.classes, np.int32)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return {"image": decode.decode(path), **self._facts(index)}

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """As in `EncodedSource`."""
        return self.paths[index].read_bytes(), self._facts(index)

    def _facts(self, index: int) -> dict[str, Any]:
        return {"label": self.classes[index], "path": str(self.paths[index])}


def open_folder(
    root: Path,
    split: str,
    *,
    seed: int,
    validation_fraction: float,
    on_corrupt: OnCorrupt = "raise",
    data_dir: Path | None = None,
) -> FolderSource:
    """Opens a split of an image folder and decodes every file of it once.

    A root that holds `train/class/` has its splits in folders: `train`, `test`, any other by its
    name, and the validation split as `validation`, `val` or `valid`. Any other root holds the
    classes themselves and gives `train` and `validation`, held out class by class. Classes are
    sorted by name; those of the training split are the reference. Files below a class folder are
    found at any depth; files that are no images by their names and hidden ones are passed over.

    Slices are written as in TFDS. As there, they are cut from an order hashed from the files'
    names, not class by class: `train[:90%]` and `train[90%:]` are two random parts, and a small
    slice may lack a class.

    Args:
      root: the folder.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      seed: chooses the files held out of a root without split folders.
      validation_fraction: part of each class held out of a root without split folders.
      on_corrupt: "raise", or "skip" to leave out what cannot be decoded and list it in `skipped`.
      data_dir: where to remember which files were found good; the default is the user's cache.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the split is unknown; a class is empty, absent from the split, or known only
        to the split.
      CorruptImageError: if files cannot be decoded, with their names.
    """
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(f"got on_corrupt={on_corrupt!r}; expected 'raise' or 'skip'")
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; expected one with root/split/class/ or root/class/ in it (on this "
            "machine: sets on other file systems are opened by 'prepared:')"
        )
    how = _How(seed, validation_fraction, on_corrupt, data_dir)
    parts = slices.parse(split, split_names_of(root))
    sources = [_cut(_open_whole(root, part.split, how), part, root) for part in parts]
    slices.check_not_empty(split, [len(source) for source in sources], name=f"folder:{root}")
    return _joined(sources, split)


@dataclasses.dataclass(frozen=True)
class _How:
    seed: int
    validation_fraction: float
    on_corrupt: OnCorrupt
    data_dir: Path | None


def _open_whole(root: Path, split: str, how: _How) -> FolderSource:
    files = _files(root, split, how)
    corrupt = verify.find_corrupt(
        [path for paths in files.values() for path in paths], record_of(root, how.data_dir)
    )
    if corrupt and how.on_corrupt == "raise":
        raise decode.CorruptImageError(_corrupt_message(root, split, corrupt))
    kept = {name: [p for p in paths if p not in corrupt] for name, paths in files.items()}
    for name in kept:
        if not kept[name]:
            raise ValueError(
                f"no image of class {name!r} in split {split!r} of {root} can be decoded; "
                "replace its files, or remove the class everywhere"
            )
    return FolderSource(
        name=f"folder:{root}",
        split=split,
        class_names=tuple(kept),
        paths=tuple(path for paths in kept.values() for path in paths),
        classes=tuple(label for label, name in enumerate(kept) for _ in kept[name]),
        skipped=tuple(f"{path}: {reason}" for path, reason in corrupt.items()),
    )


def _cut(source: FolderSource, part: slices.Part, root: Path) -> FolderSource:
    names = [path.relative_to(root).as_posix() for path in source.paths]
    positions = part.positions(len(names))
    if len(positions) == len(names):
        return source
    chosen = set(shuffled(names, seed=_SLICE_SEED)[positions.start : positions.stop])
    kept = [i for i, name in enumerate(names) if name in chosen]
    return dataclasses.replace(
        source,
        paths=tuple(source.paths[i] for i in kept),
        classes=tuple(source.classes[i] for i in kept),
    )


def _joined(sources: Sequence[FolderSource], split: str) -> FolderSource:
    return dataclasses.replace(
        sources[0],
        split=split,
        paths=tuple(path for source in sources for path in source.paths),
        classes=tuple(label for source in sources for label in source.classes),
        skipped=tuple(name for source in sources for name in source.skipped),
    )


def _files(root: Path, split: str, how: _How) -> Files:
    if _has_splits(root):
        return _split_folder(root, split)
    return _held_out(root, split, seed=how.seed, fraction=how.validation_fraction)


def _has_splits(root: Path) -> bool:
    return (root / "train").is_dir() and bool(_folders(root / "train"))


def split_called(name: str) -> str:
    """Returns the split that is meant by a name: "val" and "valid" are "validation"."""
    return "validation" if name in VALIDATION_NAMES else name


def split_names_of(root: Path) -> list[str]:
    """Returns the splits of an image folder: its folders' names, or those that are held out."""
    if _has_splits(root):
        return [path.name for path in _folders(root)]
    return ["train", "validation"]


def _split_folder(root: Path, split: str) -> Files:
    folder = _find_split(root, split)
    classes, reference = _classes(folder), _classes(root / "train")
    absent = [name for name in reference if name not in classes]
    surplus = [name for name in classes if name not in reference]
    if absent:
        raise ValueError(
            f"classes absent from split {split!r} ({folder}): {messages.some(absent)}; the training "
            f"split has {len(reference)} classes: add images of these, or remove them from it"
        )
    if surplus:
        raise ValueError(
            f"classes of split {split!r} ({folder}) that the training split has not: "
            f"{messages.some(surplus)}{messages.hint(surplus[0], reference)}; rename or remove their "
            "folders"
        )
    return classes


def _find_split(root: Path, split: str) -> Path:
    present = {path.name: path for path in _folders(root)}
    names = VALIDATION_NAMES if split in VALIDATION_NAMES else (split,)
    for name in (split, *names):
        if name in present:
            return present[name]
    raise ValueError(
        f"no split {split!r} in {root}; it has {', '.join(present)}{messages.hint(split, present)}"
    )


def _held_out(root: Path, split: str, *, seed: int, fraction: float) -> Files:
    if split not in ("train", *VALIDATION_NAMES):
        raise ValueError(
            f"no split {split!r} in {root}, which has classes but no split folders and gives "
            f"'train' and 'validation'{messages.hint(split, ('train', 'validation'))}"
        )
    check_fraction(fraction, name="validation_fraction")
    part = 0 if split == "train" else 1
    return {
        name: _deal(root, name, paths, seed=seed, fraction=fraction)[part]
        for name, paths in _classes(root).items()
    }


def _deal(
    root: Path, name: str, paths: Sequence[Path], *, seed: int, fraction: float
) -> tuple[list[Path], list[Path]]:
    """Divides a class into training and held-out files: at least one of each, sorted."""
    if len(paths) < 2:
        raise ValueError(
            f"class {name!r} in {root} has one image; a class needs two, one to train on and one "
            "to hold out"
        )
    by_name = {path.relative_to(root).as_posix(): path for path in paths}
    dealt = hold_out(list(by_name), fraction=fraction, seed=seed, both=True)
    training, held_out = ([by_name[key] for key in sorted(keys)] for keys in dealt)
    return training, held_out


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes = {path.name: _images(path) for path in _folders(folder)}
    if not classes:
        raise ValueError(f"no class folders in {folder}; expected one folder of images a class")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(
            f"class folders without images in {folder}: {messages.some(empty)}; add images "
            f"({', '.join(decode.IMAGE_SUFFIXES)}), or remove the folders"
        )
    return classes


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A folder called as an image is taken for one, so that it is named among the corrupt.
        found += [Path(parent, name) for name in [*folders, *names] if _is_image(name)]
        folders[:] = [name for name in folders if not name.startswith(".") and not _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(decode.IMAGE_SUFFIXES)


def record_of(root: Path, data_dir: Path | None) -> Path:
    """Returns the file that remembers which images of a folder or manifest were found good."""
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return (data_dir or cache_dir()) / "verified" / f"{key}.json"


def _corrupt_message(root: Path, split: str, corrupt: Mapping[Path, str]) -> str:
    return messages.report(
        f"{len(corrupt)} images in split {split!r} of {root} cannot be decoded:",
        [f"{path}: {reason}" for path, reason in corrupt.items()],
        "replace or remove them, or leave them out with data.on_corrupt='skip'",
    )
