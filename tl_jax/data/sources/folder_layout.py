"""Finds the split folders and the class folders of an image folder, and refuses what is neither."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tl_jax import messages
from tl_jax.data import class_names, splits
from tl_jax.data.sources import listing, tables
from tl_jax.data.sources.listing import Listing

Classes = Mapping[str, Listing]
"""The images of each class, sorted by the class's name."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The split folders of an image folder.

    Attributes:
      root: the image folder.
      splits: the folder of each split, by its usual name ("train" for "Training"); none if the root
        contains the class folders themselves.
      unlabelled: split folders that hold images but no class folders.
      notes: what was decided, as sentences.
    """

    root: Path
    splits: Mapping[str, Path]
    unlabelled: Mapping[str, Path]
    notes: tuple[str, ...]

    @property
    def spelled(self) -> dict[str, str]:
        """How the folders of the splits are called, where that is not the split's name."""
        return {name: path.name for name, path in self.splits.items()}


def find(root: Path) -> Layout:
    """Returns the split folders of a root.

    A folder is a split if it has class folders in it and a usual name of a split in any spelling;
    beside such a training split, also if it has any of its classes.

    Raises:
      ValueError: if two folders mean the same split, or there are splits and classes side by side.
    """
    folders = listing.folders(root)
    named = [path for path in folders if splits.is_split_name(path.name)]
    classes_in = {path: {each.name for each in listing.folders(path)} for path in folders}
    has_classes = [path for path in named if classes_in[path]]
    others = [path for path in folders if path not in named]
    train = [path for path in has_classes if splits.canonical_name(path.name) == "train"]
    if not has_classes:
        return Layout(root, {}, {}, ())
    if not train:
        # Without a training split these may be classes of such a name, but not beside their own.
        _check_not_mixed(
            root, has_classes, [p for p in others if _is_class_of(p, classes_in, has_classes)]
        )
        if any(listing.list_images(path).files for path in others):
            return Layout(root, {}, {}, ())
    known = {name for path in train for name in classes_in[path]}
    further = [path for path in others if classes_in[path] & known]
    rest = [path for path in others if path not in further]
    with_images = [path for path in rest if listing.list_images(path).files]
    _check_not_mixed(root, has_classes, with_images)
    by_name = _by_name(root, [p for p in folders if p in has_classes or p in further])
    unlabelled = {
        splits.canonical_name(path.name): path
        for path in named
        if path not in has_classes and listing.direct_files(path)[0]
    }
    notes = [f"splits: {splits.listed(by_name, {n: p.name for n, p in by_name.items()})}"]
    empty = [p.name for p in folders if p not in {*by_name.values(), *unlabelled.values()}]
    if unlabelled:
        names = messages.some([path.name for path in unlabelled.values()])
        notes.append(f"passed over as splits, for they hold images but no class folders: {names}")
    if empty:
        notes.append(f"passed over: folders without images {messages.some(empty)}")
    return Layout(root, by_name, unlabelled, tuple(notes))


def _is_class_of(
    path: Path, classes_in: Mapping[Path, set[str]], split_folders: list[Path]
) -> bool:
    return any(path.name in classes_in[split] for split in split_folders)


def _check_not_mixed(root: Path, split_folders: list[Path], classes: list[Path]) -> None:
    if classes:
        raise ValueError(
            f"{root} holds splits ({messages.some([p.name for p in split_folders])}) and, beside "
            f"them, folders of images that are none ({messages.some([p.name for p in classes])}); "
            "expected splits alone, root/split/class/, or classes alone, root/class/: move or "
            "rename these folders"
        )


def _by_name(root: Path, folders: list[Path]) -> dict[str, Path]:
    """Returns split folders by the usual names of their splits."""
    by_name: dict[str, list[Path]] = {}
    for path in folders:
        by_name.setdefault(splits.canonical_name(path.name), []).append(path)
    for name, paths in by_name.items():
        if len(paths) > 1:
            raise ValueError(
                f"the folders {messages.some([path.name for path in paths])} of {root} all mean "
                f"the split {name!r}; expected one: join them, or rename all but one"
            )
    return {name: by_name[name][0] for name in splits.in_order(by_name)}


def read_classes(folder: Path, *, place: str) -> dict[str, Listing]:
    """Returns the images of the classes of a folder, sorted by the classes' names.

    Folders whose names differ in blanks or in Unicode's normal form are one class.

    Args:
      folder: the folder that has the class folders.
      place: what messages call it.

    Raises:
      ValueError: if there are no class folders, one of them has no image, their names cannot be
        those of classes, or they are splits.
    """
    folders = listing.folders(folder)
    if not folders:
        images, others = listing.direct_files(folder)
        found = f"; it holds {len(images)} images" if images else ""
        found += f"; passed over: {listing.passed_text(others)}" if others else ""
        above = ": name the folder above it, if it is one class" if images else ""
        raise ValueError(
            f"no class folders in {place}{found}; expected one folder of images per class"
            f"{table_hint(folder) or above}"
        )
    _check_no_splits(folders, place)
    joined = class_names.joined(path.name for path in folders)
    class_names.check(dict.fromkeys(joined.values()), place=place)
    listings: dict[str, list[Listing]] = {}
    for path in folders:
        listings.setdefault(joined[path.name], []).append(listing.list_images(path))
    classes = {name: listing.merged(parts) for name, parts in sorted(listings.items())}
    _check_images(classes, place)
    return classes


def table_hint(folder: Path) -> str:
    """Returns the end of a message that names a table in a folder, or directly below it, if any."""
    for place in (folder, *listing.folders(folder)):
        for path in sorted(place.iterdir()):
            if path.suffix.lower() in tables.SUFFIXES and not listing.is_junk(path.name):
                return f"; or, if {path.name} lists the images and their labels, manifest:{path}"
    return ""


def _check_no_splits(folders: list[Path], place: str) -> None:
    place_of_splits = folders[0].parent
    if plain := splits.plain_splits(path.name for path in folders):
        raise ValueError(
            f"the class folders {messages.some(plain)} of {place} are plainly splits; expected "
            "root/split/class/: make a folder for each class in each split, and call the splits "
            f"train, validation, test{table_hint(place_of_splits)}"
        )
    for path in folders:
        names = [each.name for each in listing.folders(path)]
        plain = splits.plain_splits(names)
        if plain and len(folders) == 1:
            raise ValueError(
                f"the only folder of {place} holds the splits {messages.some(plain)}; did you mean "
                f"folder:{path}?"
            )
        if plain:
            raise ValueError(
                f"the class folder {path.name!r} of {place} holds the splits "
                f"{messages.some(plain)}; expected the splits above the classes: "
                f"root/{plain[0]}/{path.name}/"
            )


def _check_images(classes: Classes, place: str) -> None:
    empty = [name for name, each in classes.items() if not each.files]
    if empty:
        passed: Counter[str] = Counter()
        for name in empty:
            passed += classes[name].passed
        found = f"; they hold {listing.passed_text(passed)}" if passed else ""
        if {name.casefold() for name in classes} & {"images", "imgs"} and len(classes) == 2:
            found += (
                " (a set for detection has such folders; it has boxes, and no class for an image)"
            )
        raise ValueError(
            f"class folders without images in {place}: {messages.some(empty)}{found}; add images "
            f"(files named {', '.join(('.jpg', '.png', '.webp', '.tif'))} and so on), or remove "
            "the folders"
        )
    problems = listing.shared(classes.items())
    if problems:
        raise ValueError(
            messages.report(
                f"{len(problems)} files of {place} are in two classes, by links:",
                problems,
                "remove the links from one of the classes",
            )
        )


def notes(folder: Path, classes: Classes) -> list[str]:
    """Returns what was decided about the files of a split, as sentences."""
    said = list(class_names.notes(class_names.joined(p.name for p in listing.folders(folder))))
    images, passed = listing.direct_files(folder)
    for each in classes.values():
        passed += each.passed
    if images:
        said.append(f"passed over: {len(images)} images of {folder.name} outside class folders")
    if passed:
        said.append(f"passed over: {listing.passed_text(passed)}")
    repeated = [path for each in classes.values() for path in each.repeated]
    if repeated:
        names = [class_names.printable(p.relative_to(folder).as_posix()) for p in repeated]
        said.append(
            f"links to what is listed already were passed over, {len(names)}: "
            f"{messages.some(names, quoted=False)}"
        )
    nested = [name for name, each in classes.items() if each.subfolders]
    if nested:
        inner = class_names.printable(", ".join(classes[nested[0]].subfolders[:3]))
        said.append(
            f"images in folders inside class folders are of these classes: {messages.some(nested)} "
            f"({nested[0]!r} holds {inner})"
        )
    if same := _same_folders(classes):
        said.append(
            f"each class folder holds the folders {messages.some(same)}: if these are the classes, "
            f"and {messages.some(list(classes))} are splits, call the splits train, validation, "
            "test"
        )
    return said


def _same_folders(classes: Classes) -> list[str]:
    """Returns the folders that are in each class folder, if there are two and no other images."""
    inside = [{class_names.tidy(name) for name in each.subfolders} for each in classes.values()]
    same = sorted(set.intersection(*inside)) if len(inside) > 1 else []
    return same if len(same) > 1 else []


def single_class_hint(root: Path) -> str:
    """Returns where a root of one class may have others: one folder deeper, or one higher."""
    if hint := table_hint(root):
        return hint
    for path in listing.folders(root):
        inner = [each.name for each in listing.folders(path)]
        if len(inner) > 1:
            return f"; did you mean folder:{path}? It has the folders {messages.some(inner)}"
    beside = [path.name for path in listing.folders(root.resolve().parent)]
    if len(beside) > 1 and root.resolve().parent != root.resolve():
        return f"; or name the folder above it, {root.resolve().parent}, if that has the classes"
    return "; put the images of each class in a folder of its own"
