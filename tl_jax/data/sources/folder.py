"""The source of images in labelled folders: `root/split/class/*` or `root/class/*`."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import messages
from tl_jax.data import splits
from tl_jax.data.images import decode, verify
from tl_jax.data.source import Example, Source, Task
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"on_corrupt"})

_SLICE_SEED = 0

FilesByClass = Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True)
class FolderSource(Source):
    """One split of an image folder; examples hold `image`, `label` and `path`.

    Attributes:
      name, split, tasks, skipped: as in `Source`.
      paths: the image files, class by class.
      classes: index of each file's class.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    paths: tuple[Path, ...]
    classes: tuple[int, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return {"image": decode.decode(path), "label": self.classes[index], "path": str(path)}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return np.asarray(self.classes, np.int32)

    def encoded(self, index: int) -> tuple[bytes, Example]:
        """As in `Source`."""
        path = self.paths[index]
        return path.read_bytes(), {"label": self.classes[index], "path": str(path)}


def open(address: str, split: str, options: OpenOptions) -> FolderSource:
    """Opens a split of an image folder and decodes every file of it once.

    A folder that contains `train/class/` has one folder per split, named as the split; the
    validation split may be called `validation`, `val` or `valid`. Any other folder contains the
    class folders themselves; its splits are `train` and `validation`, held out class by class.
    Classes are sorted by name, and every split must have those of the training split. Files below a
    class folder are found at any depth; hidden files, and files without the suffix of an image, are
    ignored.

    Slices are written as in TFDS. As in TFDS, they are cut from an order hashed from the files'
    names, not class by class: `train[:90%]` and `train[90%:]` are two random parts, and a small
    slice may lack a class.

    Args:
      address: the folder.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: `seed`, `validation_fraction`, `on_corrupt`, `data_dir` and `verify` are used.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the split is unknown; a class is empty, missing from the split, or only in the
        split.
      CorruptImageError: if files cannot be decoded; they are named.
    """
    root = _existing(address)
    slices = splits.parse(split, _split_names(root))
    parts = [_open_slice(root, each, options) for each in slices]
    splits.check_not_empty(split, sum(map(len, parts)), name=f"folder:{root}")
    return dataclasses.replace(
        parts[0],
        split=split,
        paths=tuple(path for part in parts for path in part.paths),
        classes=tuple(label for part in parts for label in part.classes),
        skipped=tuple(name for part in parts for name in part.skipped),
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the names of the split folders, or of the splits that are held out."""
    del options
    return tuple(_split_names(_existing(address)))


def _existing(address: str) -> Path:
    root = Path(address).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; expected one with root/split/class/ or root/class/ in it, on this "
            "machine: sets on other file systems are opened by 'prepared:'"
        )
    return root


def _has_split_folders(root: Path) -> bool:
    return (root / "train").is_dir() and bool(_folders(root / "train"))


def _split_names(root: Path) -> list[str]:
    if _has_split_folders(root):
        return [path.name for path in _folders(root)]
    return ["train", "validation"]


def _open_slice(root: Path, part: splits.Slice, options: OpenOptions) -> FolderSource:
    """Opens a slice of one split; the whole split is checked."""
    if _has_split_folders(root):
        listed = _split_folder(root, part.split)
    else:
        listed = _held_out(root, part.split, options)
    corrupt: dict[Path, str] = {}
    if options.verify:
        record = verify.record_path(root, options.local_data_dir)
        corrupt = verify.corrupt_files([p for paths in listed.values() for p in paths], record)
    problems = tuple(f"{path}: {reason}" for path, reason in corrupt.items())
    if problems and options.on_corrupt == "raise":
        raise verify.corrupt_error(f"split {part.split!r} of {root}", problems)
    paths, classes = [], []
    for label, (name, files) in enumerate(listed.items()):
        good = [path for path in files if path not in corrupt]
        if not good:
            raise ValueError(
                f"no image of class {name!r} in split {part.split!r} of {root} can be decoded; "
                "replace its files, or remove the class everywhere"
            )
        paths += good
        classes += [label] * len(good)
    positions = part.positions(len(paths))
    if len(positions) < len(paths):
        names = [path.relative_to(root).as_posix() for path in paths]
        order = splits.shuffled(names, seed=_SLICE_SEED)
        chosen = set(order[positions.start : positions.stop])
        indices = [i for i, name in enumerate(names) if name in chosen]
        paths, classes = [paths[i] for i in indices], [classes[i] for i in indices]
    return FolderSource(
        name=f"folder:{root}",
        split=part.split,
        tasks=(Task("label", tuple(listed)),),
        paths=tuple(paths),
        classes=tuple(classes),
        skipped=problems,
    )


def _split_folder(root: Path, split: str) -> FilesByClass:
    """Returns the files of a split that has a folder of its own."""
    folders = {path.name: path for path in _folders(root)}
    synonyms = splits.VALIDATION_NAMES if split in splits.VALIDATION_NAMES else ()
    folder = next((folders[name] for name in (split, *synonyms) if name in folders), None)
    if folder is None:
        raise ValueError(
            f"no split {split!r} in {root}; it has {', '.join(folders)}"
            f"{messages.hint(split, folders)}"
        )
    classes, reference = _files_by_class(folder), _files_by_class(root / "train")
    missing = [name for name in reference if name not in classes]
    unknown = [name for name in classes if name not in reference]
    if missing:
        raise ValueError(
            f"classes missing from split {split!r} ({folder}): {messages.some(missing)}; the "
            f"training split has {len(reference)} classes: add images of these, or remove them "
            "from it"
        )
    if unknown:
        raise ValueError(
            f"classes of split {split!r} ({folder}) that the training split does not have: "
            f"{messages.some(unknown)}{messages.hint(unknown[0], reference)}; rename or remove "
            "their folders"
        )
    return classes


def _held_out(root: Path, split: str, options: OpenOptions) -> FilesByClass:
    """Returns the files of a split of a root without split folders, sorted in each class."""
    split = splits.canonical_name(split)
    if split not in ("train", "validation"):
        raise ValueError(
            f"no split {split!r} in {root}, which has no split folders; expected 'train' or "
            f"'validation'{messages.hint(split, ('train', 'validation'))}"
        )
    fraction = options.validation_fraction
    splits.check_fraction(fraction, name="validation_fraction")
    listed = {}
    for name, paths in _files_by_class(root).items():
        if len(paths) < 2:
            raise ValueError(
                f"class {name!r} in {root} has one image; a class needs two, one to train on and "
                "one to hold out"
            )
        by_name = {path.relative_to(root).as_posix(): path for path in paths}
        train, held_out = splits.hold_out(
            list(by_name), fraction=fraction, seed=options.seed, nonempty=True
        )
        listed[name] = [by_name[key] for key in sorted(train if split == "train" else held_out)]
    return listed


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = {path.name: _image_files(path) for path in _folders(folder)}
    if not classes:
        raise ValueError(f"no class folders in {folder}; expected one folder of images per class")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(
            f"class folders without images in {folder}: {messages.some(empty)}; add images "
            f"({', '.join(decode.IMAGE_SUFFIXES)}), or remove the folders"
        )
    return classes


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    def is_image(name: str) -> bool:
        return not name.startswith(".") and name.lower().endswith(decode.IMAGE_SUFFIXES)

    files = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        # A folder with the name of an image is listed as one, so that it is reported as corrupt.
        files += [Path(parent, name) for name in [*folders, *names] if is_image(name)]
        folders[:] = [name for name in folders if not name.startswith(".") and not is_image(name)]
    return sorted(files)
