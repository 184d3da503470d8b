"""The source of images in labelled folders: `root/split/class/*` or `root/class/*`."""

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tl_jax import files, messages
from tl_jax.data import splits
from tl_jax.data.class_names import printable
from tl_jax.data.images import decode, verify
from tl_jax.data.source import Example, Source, Task, check_tasks
from tl_jax.data.sources import folder_layout, listing
from tl_jax.data.sources.folder_layout import Classes, Layout
from tl_jax.data.sources.options import OpenOptions

OPTIONS = frozenset({"on_corrupt", "value_range"})


FilesByClass = Mapping[str, Sequence[Path]]


@dataclasses.dataclass(frozen=True)
class FolderSource(Source):
    """One split of an image folder; examples hold `image`, `label` and `path`.

    Attributes:
      name, split, tasks, skipped, notes, value_range: as in `Source`.
      root: the folder.
      paths: the image files, class by class.
      classes: index of each file's class.
    """

    name: str
    split: str
    tasks: tuple[Task, ...]
    root: Path
    paths: tuple[Path, ...]
    classes: tuple[int, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    value_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Example:
        image = decode.decode(self.paths[index], value_range=self.value_range)
        return {"image": image, **self._facts(index)}

    def labels(self) -> np.ndarray:
        """As in `Source`."""
        return np.asarray(self.classes, np.int32)

    def encoded(self, index: int) -> tuple[bytes, Example]:
        """As in `Source`."""
        return self.paths[index].read_bytes(), self._facts(index)

    def identities(self) -> Sequence[str]:
        """As in `Source`: the paths below the root."""
        return [printable(name) for name in _names(self.root, self.paths)]

    def content_marks(self) -> Sequence[str]:
        """As in `Source`: those of the files (`files.marks`)."""
        return files.marks(self.paths)

    def single_class_hint(self) -> str:
        """As in `Source`."""
        return folder_layout.single_class_hint(self.root)

    def _facts(self, index: int) -> Example:
        return {"label": self.classes[index], "path": printable(str(self.paths[index]))}


def open(address: str, split: str, options: OpenOptions) -> FolderSource:
    """Opens a split of an image folder and decodes every file of it once.

    A folder that contains `train/class/` has one folder per split; `Training`, `val`, `TEST` and
    other usual spellings mean the splits "train", "validation" and "test", and other splits have
    the names of their folders. Any other folder contains the class folders themselves; its splits
    are `train` and `validation`: an image is held out if the hash of its name below the folder is
    among the lowest fifth (`validation_fraction`), and each class has one on both sides (see
    `splits.hold_out`). "all" is the whole folder.

    The classes are those of the training split, sorted by name; another split may lack some, and
    has no others. Files below a class folder are found at any depth. Files that cannot be images by
    their names are passed over and counted in the source's `notes`. A file that several links lead
    to is one image; in two classes, or in two of the splits train, validation and test, it is
    refused.

    Slices are written as in TFDS. As in TFDS, they are cut from an order hashed from the files'
    names, not class by class: `train[:90%]` and `train[90%:]` are two random parts, and a small
    slice may lack a class.

    Args:
      address: the folder.
      split: name of the split, a slice such as "train[:90%]", or a sum of these.
      options: `seed`, `validation_fraction`, `on_corrupt`, `data_dir`, `value_range` and `verify`
        are used.

    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if the split is unknown; a class is empty, or one that the training split does
        not have; a file is in two classes or splits; splits and classes are mixed.
      CorruptImageError: if files cannot be decoded; they are named.
    """
    root = _existing(address)
    layout = folder_layout.find(root)
    slices = _parse(layout, split)
    if not layout.splits and split == splits.WHOLE:
        read = {splits.WHOLE: _whole(layout, options)}
    elif layout.splits:
        read = _read_splits(layout, {each.split for each in slices}, options)
    else:
        read = _held_out(layout, options)
    parts = [_slice(root, each, read[each.split]) for each in slices]
    splits.check_not_empty(split, sum(map(len, parts)), name=f"folder:{root}")
    return dataclasses.replace(
        parts[0],
        split=split,
        value_range=options.value_range,
        paths=tuple(path for part in parts for path in part.paths),
        classes=tuple(label for part in parts for label in part.classes),
        skipped=tuple(name for part in parts for name in part.skipped),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def split_names(address: str, options: OpenOptions) -> tuple[str, ...]:
    """Returns the usual names of the split folders, or of the splits that are held out."""
    del options
    return own_splits(address) or splits.HELD_OUT


def own_splits(address: str) -> tuple[str, ...]:
    """Returns the usual names of the split folders; none if the root has class folders."""
    return tuple(folder_layout.find(_existing(address)).splits)


def _existing(address: str) -> Path:
    root = files.user_path(address)
    if root.is_file():
        raise ValueError(
            f"{root} is a file; expected a folder with root/split/class/ or root/class/ in it: "
            "unpack it if it is an archive (manifest: is for tables, npz: for arrays)"
        )
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root}; expected one with root/split/class/ or root/class/ in it, on this "
            "machine: sets on other file systems are opened by 'prepared:'"
        )
    return root


def _parse(layout: Layout, split: str) -> list[splits.Slice]:
    root = layout.root
    if not layout.splits:
        if split == splits.WHOLE:
            return [splits.Slice(splits.WHOLE)]
        return splits.parse_known(
            split, splits.HELD_OUT, name=f"{root}, which has no split folders"
        )
    for each in splits.parse(split, layout.splits):
        name = splits.canonical_name(each.split)
        if name in layout.unlabelled and name not in layout.splits:
            count = len(listing.direct_files(layout.unlabelled[name])[0])
            raise ValueError(
                f"the folder {layout.unlabelled[name]} of split {each.split!r} holds {count} "
                "images and no class folders; expected one folder of images per class (images "
                "without labels are for `predict`)"
            )
    return splits.parse_known(split, layout.splits, name=f"{root}", spelled=layout.spelled)


@dataclasses.dataclass(frozen=True)
class _Split:
    """The good files of a split by class, the corrupt ones with their reasons, and the notes."""

    files: FilesByClass
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def _read_splits(layout: Layout, wanted: set[str], options: OpenOptions) -> dict[str, _Split]:
    """Reads splits that have folders of their own; all are listed, to find files in two of them."""
    classes: dict[str, Classes] = {}
    for name, path in layout.splits.items():
        if name in {"train", *wanted} or splits.is_split_name(name):
            classes[name] = folder_layout.read_classes(path, place=str(path))
    _check_disjoint(layout, classes)
    every = sorted({label for by_class in classes.values() for label in by_class})
    reference = list(classes["train"]) if "train" in classes else every
    read = {}
    for name in sorted(wanted):
        path = layout.splits[name]
        _check_classes(name, path, classes[name], reference)
        corrupt = _corrupt(layout.root, classes[name], f"split {name!r} of {layout.root}", options)
        files = {each: list[Path]() for each in reference}
        for each, found in classes[name].items():
            files[each] = [path for path in found.files if path not in corrupt]
            if not files[each]:
                raise ValueError(
                    f"no image of class {each!r} in split {name!r} of {layout.root} can be "
                    "decoded; replace its files, or remove the class everywhere"
                )
        lacking = [each for each in reference if each not in classes[name]]
        notes = (*layout.notes, *folder_layout.notes(path, classes[name]))
        if shared := _also_elsewhere(name, classes):
            notes += (f"{shared} files of split {name!r} are in other splits too, by links",)
        if lacking:
            notes += (f"split {name!r} has no image of the classes {messages.some(lacking)}",)
        read[name] = _Split(files, _problems(corrupt), notes)
    return read


def _check_disjoint(layout: Layout, classes: Mapping[str, Classes]) -> None:
    """Checks that no file is in two of the splits train, validation and test."""
    problems = listing.shared(
        (name, found)
        for name, by_class in classes.items()
        if splits.is_split_name(name)
        for found in by_class.values()
    )
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} files of {layout.root} are in two splits, by links:",
                problems,
                "remove the links from one of the splits: what is trained on cannot measure",
            )
        )


def _also_elsewhere(split: str, classes: Mapping[str, Classes]) -> int:
    """Returns how many files of a split of another name than the usual are in other splits too.

    Such splits are often made of others, as "trainval" is of train and validation.
    """
    if splits.is_split_name(split):
        return 0
    own = {file_id for found in classes[split].values() for file_id in found.ids.values()}
    others = {
        file_id
        for name, by_class in classes.items()
        if name != split
        for found in by_class.values()
        for file_id in found.ids.values()
    }
    return len(own & others)


def _check_classes(split: str, folder: Path, classes: Classes, reference: Sequence[str]) -> None:
    unknown = [name for name in classes if name not in reference]
    known = len(classes) - len(unknown)
    if unknown:
        raise ValueError(
            f"classes of split {split!r} ({folder}) that the training split does not have: "
            f"{messages.some(unknown)}{messages.hint(unknown[0], reference)}; rename or remove "
            f"their folders{'' if known else ', or put the images into folders of the classes'}"
        )


def _held_out(layout: Layout, options: OpenOptions) -> dict[str, _Split]:
    """Divides a root without split folders; images that cannot be decoded are left out before."""
    root, fraction = layout.root, options.validation_fraction
    splits.check_fraction(fraction, name="validation_fraction")
    classes = folder_layout.read_classes(root, place=str(root))
    corrupt = _corrupt(root, classes, str(root), options)
    files: dict[str, dict[str, list[Path]]] = {split: {} for split in splits.HELD_OUT}
    for label, found in classes.items():
        good = [path for path in found.files if path not in corrupt]
        if len(good) < 2:
            have = ("one image" if good else "no image") + " that can be decoded" * bool(corrupt)
            raise ValueError(
                f"class {label!r} in {root} has {have}; a class needs two, one to train on and "
                "one to hold out"
            )
        for split, part in zip(
            splits.HELD_OUT, _divide(root, good, options, nonempty=True), strict=True
        ):
            files[split][label] = part
    sides = _divide(root, list(corrupt), options, nonempty=False)
    skipped = {
        split: _problems({path: corrupt[path] for path in side})
        for split, side in zip(splits.HELD_OUT, sides, strict=True)
    }
    notes = (
        f"no split folders in {root}: about {fraction:g} of each class is held out as "
        f"'validation', by a hash of the files' names and the seed {options.seed}",
        *_beside(root),
        *folder_layout.notes(root, classes),
    )
    return {split: _Split(files[split], skipped[split], notes) for split in splits.HELD_OUT}


def _whole(layout: Layout, options: OpenOptions) -> _Split:
    """Reads all of a root without split folders."""
    root = layout.root
    classes = folder_layout.read_classes(root, place=str(root))
    corrupt = _corrupt(root, classes, str(root), options)
    files = {
        label: [path for path in found.files if path not in corrupt]
        for label, found in classes.items()
    }
    return _Split(files, _problems(corrupt), tuple(folder_layout.notes(root, classes)))


def _beside(root: Path) -> list[str]:
    """Returns a note if the root is itself one of several split folders."""
    place = root.resolve()
    names = [path.name for path in listing.folders(place.parent) if path != place]
    others = [name for name in names if splits.is_split_name(name)]
    if splits.is_split_name(place.name) and others:
        return [
            f"beside {root} are {messages.some(others)}: folder:{place.parent} has these splits"
        ]
    return []


def _divide(
    root: Path, paths: Sequence[Path], options: OpenOptions, *, nonempty: bool
) -> list[list[Path]]:
    """Returns the paths to train on and those to hold out, each sorted."""
    path_of = dict(zip(_names(root, paths), paths, strict=True))
    parts = splits.hold_out(
        list(path_of),
        fraction=options.validation_fraction,
        seed=options.seed,
        nonempty=nonempty,
    )
    return [sorted(path_of[name] for name in part) for part in parts]


def _names(root: Path, paths: Sequence[Path]) -> list[str]:
    """Returns names of files below a root that are distinct and the same on every machine.

    They are in Unicode's composed form, since some file systems decompose names.
    """
    names = [path.relative_to(root).as_posix() for path in paths]
    composed = [unicodedata.normalize("NFC", name) for name in names]
    return composed if len(set(composed)) == len(names) else names


def _corrupt(root: Path, classes: Classes, place: str, options: OpenOptions) -> dict[Path, str]:
    """Returns the files that cannot be decoded, with the reasons, or raises as options say."""
    if not options.verify:
        return {}
    record = verify.record_path(root, options.local_data_dir)
    files = [path for found in classes.values() for path in found.files]
    corrupt = verify.corrupt_files(files, record, value_range=options.value_range)
    if corrupt and options.on_corrupt == "raise":
        raise verify.corrupt_error(place, _problems(corrupt))
    return corrupt


def _problems(corrupt: Mapping[Path, str]) -> tuple[str, ...]:
    return tuple(f"{printable(str(path))}: {reason}" for path, reason in corrupt.items())


def _slice(root: Path, part: splits.Slice, read: _Split) -> FolderSource:
    """Returns a slice of a split."""
    paths = [path for files in read.files.values() for path in files]
    classes = [label for label, files in enumerate(read.files.values()) for _ in files]
    positions = part.positions(len(paths))
    if len(positions) < len(paths):
        names = [path.relative_to(root).as_posix() for path in paths]
        order = splits.shuffled(names, seed=splits.SLICE_SEED)
        chosen = set(order[positions.start : positions.stop])
        indices = [i for i, name in enumerate(names) if name in chosen]
        paths, classes = [paths[i] for i in indices], [classes[i] for i in indices]
    tasks = (Task("label", tuple(read.files)),)
    check_tasks(f"folder:{root}", tasks)
    return FolderSource(
        name=f"folder:{root}",
        split=part.split,
        tasks=tasks,
        root=root,
        paths=tuple(paths),
        classes=tuple(classes),
        skipped=read.skipped,
        notes=read.notes,
    )
