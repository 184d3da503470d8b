"""The source of images in labelled folders: `root/split/class/*` or `root/class/*`."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from tl_jax import trees
from tl_jax.data import decode, verify
from tl_jax.data.partition import partition
from tl_jax.data.source import Example, cache_dir

VALIDATION_NAMES = ("validation", "val", "valid")
_LISTED = 10

OnCorrupt = Literal["raise", "skip"]
Files = Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """One split of an image folder; examples hold `image`, `label` and `path`.

    Attributes:
      name, split, class_names, skipped: as in `Source`.
      paths: the image files, class by class.
      labels: index of each file's class.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        path = self.paths[index]
        return {"image": decode.decode(path), "label": self.labels[index], "path": str(path)}


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
    found at any depth; files that are no bmp, jpeg, png or webp and hidden ones are passed over.

    Args:
      root: the folder.
      split: name of the split.
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
    files = _files(root, split, seed=seed, validation_fraction=validation_fraction)
    corrupt = verify.find_corrupt(
        [path for paths in files.values() for path in paths], _record(root, data_dir)
    )
    if corrupt and on_corrupt == "raise":
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
        labels=tuple(label for label, name in enumerate(kept) for _ in kept[name]),
        skipped=tuple(f"{path}: {reason}" for path, reason in corrupt.items()),
    )


def _files(root: Path, split: str, *, seed: int, validation_fraction: float) -> Files:
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; expected one with root/split/class/ or root/class/ in it"
        )
    if (root / "train").is_dir() and _folders(root / "train"):
        return _split_folder(root, split)
    return _held_out(root, split, seed=seed, fraction=validation_fraction)


def _split_folder(root: Path, split: str) -> Files:
    folder = _find_split(root, split)
    classes, reference = _classes(folder), _classes(root / "train")
    absent = [name for name in reference if name not in classes]
    surplus = [name for name in classes if name not in reference]
    if absent:
        raise ValueError(
            f"classes absent from split {split!r} ({folder}): {_some(absent)}; the training "
            f"split has {len(reference)} classes: add images of these, or remove them from it"
        )
    if surplus:
        raise ValueError(
            f"classes of split {split!r} ({folder}) that the training split has not: "
            f"{_some(surplus)}{trees.hint(surplus[0], reference)}; rename or remove their folders"
        )
    return classes


def _find_split(root: Path, split: str) -> Path:
    present = {path.name: path for path in _folders(root)}
    names = VALIDATION_NAMES if split in VALIDATION_NAMES else (split,)
    for name in (split, *names):
        if name in present:
            return present[name]
    raise ValueError(
        f"no split {split!r} in {root}; it has {', '.join(present)}{trees.hint(split, present)}"
    )


def _held_out(root: Path, split: str, *, seed: int, fraction: float) -> Files:
    if split not in ("train", *VALIDATION_NAMES):
        raise ValueError(
            f"no split {split!r} in {root}, which has classes but no split folders and gives "
            f"'train' and 'validation'{trees.hint(split, ('train', 'validation'))}"
        )
    if not 0 < fraction < 1:
        raise ValueError(f"got validation_fraction={fraction}; expected 0 < fraction < 1")
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
    held = min(max(round(len(paths) * fraction), 1), len(paths) - 1) / len(paths)
    dealt = partition(list(by_name), shares=(held, 1 - held), seed=seed)
    held_out, training = ([by_name[key] for key in sorted(keys)] for keys in dealt)
    return training, held_out


def _classes(folder: Path) -> dict[str, list[Path]]:
    classes = {path.name: _images(path) for path in _folders(folder)}
    if not classes:
        raise ValueError(f"no class folders in {folder}; expected one folder of images a class")
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise ValueError(
            f"class folders without images in {folder}: {_some(empty)}; add images "
            f"({', '.join(decode.IMAGE_SUFFIXES)}), or remove the folders"
        )
    return classes


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    found = []
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in names if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(decode.IMAGE_SUFFIXES)


def _record(root: Path, data_dir: Path | None) -> Path:
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return (data_dir or cache_dir()) / "verified" / f"{key}.json"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def _corrupt_message(root: Path, split: str, corrupt: Mapping[Path, str]) -> str:
    lines = [f"  {path}: {reason}" for path, reason in list(corrupt.items())[:_LISTED]]
    more = [f"  and {len(corrupt) - _LISTED} more"] if len(corrupt) > _LISTED else []
    head = f"{len(corrupt)} images in split {split!r} of {root} cannot be decoded:"
    tail = "replace or remove them, or leave them out with data.on_corrupt='skip'"
    return "\n".join([head, *lines, *more, tail])
