"""The examples to be predicted: images, folders, objects of several images, or a source's."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tl_jax import arguments, files, messages
from tl_jax.data.class_names import printable
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.loading.readers import EvalReader
from tl_jax.data.preprocess import Preprocess, as_images, eval_image
from tl_jax.data.source import INPUT_KEYS, Inputs, Source
from tl_jax.data.sources import listing
from tl_jax.data.sources.manifest import ManifestSource

Arrays = dict[str, np.ndarray]


class Unread(Protocol):
    """An example that is read when it is needed."""

    @property
    def paths(self) -> tuple[str, ...]:
        """As in `Prediction`."""

    def read(self, preprocess: Preprocess) -> Arrays:
        """Returns its row of each array of a batch: `image`, and what a network takes beside it.

        Raises:
          ValueError, TypeError, OSError: if it cannot be read; the message names it.
        """


@dataclasses.dataclass(frozen=True)
class OneImage:
    """A single image.

    Attributes:
      image: a path, the bytes of a file, a Pillow image or an array.
    """

    image: ImageLike

    @property
    def paths(self) -> tuple[str, ...]:
        """As in `Unread`."""
        return (_path(self.image),)

    def read(self, preprocess: Preprocess) -> Arrays:
        """As in `Unread`."""
        return {"image": eval_image(self.image, preprocess)}


@dataclasses.dataclass(frozen=True)
class SeveralViews:
    """Several images of one object.

    Attributes:
      views: the images at their places, None where one is missing.
    """

    views: tuple[ImageLike | None, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """As in `Unread`."""
        return tuple(map(_path, self.views))

    def read(self, preprocess: Preprocess) -> Arrays:
        """As in `Unread`."""
        shape = (len(self.views), *preprocess.size, preprocess.channels)
        images, mask = np.zeros(shape, np.uint8), np.zeros(len(self.views), bool)
        for place, view in enumerate(self.views):
            if view is not None:
                images[place], mask[place] = eval_image(view, preprocess), True
        return {"image": images, "view_mask": mask}


class OfSource:
    """An example of a source, with its views and columns."""

    def __init__(self, source: Source, index: int) -> None:
        """Reads nothing yet."""
        self._source, self._index = source, index
        self._read: tuple[str, ...] | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """As in `Unread`: of the example, once it is read; the place of one that has none."""
        source = self._source
        if self._read is not None:
            return self._read
        if not isinstance(source, ManifestSource):
            return (f"example {self._index} of {source.name}",)
        row = int(source.rows[self._index])
        members = (row,) if source.objects is None else source.objects.members[row]
        return tuple(_cell(source, place) for place in members)

    def read(self, preprocess: Preprocess) -> Arrays:
        """As in `Unread`."""
        example = EvalReader(self._source, preprocess)[self._index]
        if path := example.get("path"):
            self._read = (path,) if isinstance(path, str) else tuple(path)
        return {k: example[k] for k in ("image", "view_mask", *INPUT_KEYS) if k in example}


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """What was named and is no example.

    Attributes:
      path: what was named.
      error: why.
    """

    path: Path
    error: Exception

    @property
    def paths(self) -> tuple[str, ...]:
        """As in `Unread`."""
        return (_path(self.path),)

    def read(self, preprocess: Preprocess) -> Arrays:
        """As in `Unread`."""
        del preprocess
        raise self.error


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples in their order.

    Attributes:
      unread: the examples.
      notes: what was passed over or decided, a sentence each.
    """

    unread: tuple[Unread, ...]
    notes: tuple[str, ...] = ()


def of_images(images: ImageLike | Iterable[ImageLike]) -> Examples:
    """Returns images as examples, and all images below each folder.

    Args:
      images: as in `tl_jax.data.preprocess.as_images`; a path may be of a folder.

    Raises:
      ValueError, TypeError: as `as_images`.
    """
    unread, notes = list[Unread](), list[str]()
    for image in as_images(images):
        if not isinstance(image, Path):
            unread.append(OneImage(image))
        elif image.is_dir():
            found, said = _below(image)
            unread += found
            notes += said
        else:
            unread.append(_file(image))
    return Examples(tuple(unread), tuple(notes))


def _below(folder: Path) -> tuple[list[Unread], list[str]]:
    """Returns all images below a folder, sorted, and a note on the other files."""
    listed = listing.list_images(folder)
    if not listed.files:
        why = f"{folder} is a folder without images; name another, or files"
        return [Unreadable(folder, FileNotFoundError(why))], []
    passed = listing.passed_text(listed.passed)
    notes = [f"passed over in {folder}: {passed}"] if passed else []
    return [OneImage(path) for path in listed.files], notes


def of_objects(
    objects: Any, inputs: Inputs, columns: Sequence[str], *, is_grouped: bool
) -> Examples:
    """Returns objects of several images as examples.

    Images whose files are called as the network's columns of views ("side.jpg") are put at their
    places. Otherwise the first image is the first view, and missing ones come last.

    Args:
      objects: for each object a list of images, None where a view is missing, or a folder of
        images. Of a folder without images each folder below it with images is an object.
      inputs: what the network takes.
      columns: names of the views, if they have any.
      is_grouped: whether objects may have more images than views, of which as many are taken,
        evenly spaced.

    Raises:
      TypeError: if an object is neither a list nor a folder.
      ValueError: if a list has no image, or too many.
    """
    if isinstance(objects, str | Path):
        objects = [objects]
    if not isinstance(objects, Iterable):
        raise TypeError(f"got {arguments.kind(objects)}; expected a list of objects")
    unread = list[Unread]()
    for each in objects:
        if isinstance(each, str | Path):
            unread += _objects_below(files.user_path(each), inputs.views, columns, is_grouped)
        elif isinstance(each, list | tuple):
            unread.append(_object(each, inputs.views, columns, is_grouped))
        else:
            raise TypeError(
                f"got {arguments.kind(each)} as an object; the network takes up to {inputs.views} "
                "images of each: give a list of images, or a folder, for each object"
            )
    if not unread:
        raise ValueError("got no object; expected at least one")
    return Examples(tuple(unread))


def _objects_below(
    folder: Path, views: int, columns: Sequence[str], is_grouped: bool
) -> list[Unread]:
    """Returns the object whose images a folder holds, or else those of the folders below it."""
    if not folder.is_dir():
        why = f"{folder} is a file" if folder.is_file() else f"there is no folder {folder}"
        advice = (
            f"the network takes up to {views} images of each object: give the folder of these, or "
            "a list of them (--object)"
        )
        return [Unreadable(folder, FileNotFoundError(f"{why}; {advice}"))]
    images, _ = listing.direct_files(folder)
    if not images:
        inner = [
            found
            for each in listing.folders(folder)
            for found in _objects_below(each, views, columns, is_grouped)
        ]
        why = f"{folder} is a folder without images; name another, or files"
        return inner or [Unreadable(folder, FileNotFoundError(why))]
    try:
        return [_object(images, views, columns, is_grouped)]
    except ValueError as error:
        return [Unreadable(folder, ValueError(f"{folder}: {error}"))]


def _object(
    images: Sequence[ImageLike | None], views: int, columns: Sequence[str], is_grouped: bool
) -> Unread:
    """Returns an object with its images at their places."""
    placed = [files.user_path(x) if isinstance(x, str | Path) else x for x in images]
    by_name = {column.casefold(): place for place, column in enumerate(columns)}
    names = [x.stem.casefold() for x in placed if isinstance(x, Path)]
    is_named = len(names) == len(placed) == len(set(names)) and by_name.keys() >= set(names)
    if is_named and names:
        placed = [
            next((x for x, name in zip(placed, names, strict=True) if by_name[name] == place), None)
            for place in range(views)
        ]
    if all(image is None for image in placed):
        raise ValueError("got an object without images; expected one at least")
    if len(placed) > views:
        if not is_grouped:
            raise ValueError(f"got {len(placed)} images of an object; expected at most {views}")
        spaced = np.linspace(0, len(placed) - 1, views).round().astype(int)
        placed = [placed[place] for place in spaced]
    return SeveralViews((*placed, *[None] * (views - len(placed))))


def of_source(source: Source, inputs: Inputs) -> Examples:
    """Returns the examples of a source.

    Raises:
      ValueError: if it has other inputs than the network was trained with.
    """
    if source.inputs != inputs:
        raise ValueError(
            f"the inputs of {source.name} are not those that the network was trained with; open it "
            "with inputs=run.info.inputs, or name it as text, such as 'manifest:new.csv'"
        )
    unread = tuple(OfSource(source, index) for index in range(len(source)))
    return Examples(unread, tuple(source.notes))


def check_named(examples: Examples, *, all_needed: bool) -> None:
    """Raises an error that names all that is no example; unless all are needed, if none is one.

    It is for the time before a network is read: no file is opened.
    """
    errors = [each.error for each in examples.unread if isinstance(each, Unreadable)]
    if all_needed or len(errors) == len(examples.unread):
        raise_all(errors, len(examples.unread))


def raise_all(errors: Sequence[Exception], count: int) -> None:
    """Raises the error of the images that cannot be read, if there are any."""
    if len(errors) == 1:
        raise errors[0]
    if not errors:
        return
    if all(isinstance(error, FileNotFoundError) for error in errors):
        head = f"{len(errors)} of {count} paths are of no image (looked from {Path.cwd()}):"
        raise FileNotFoundError(messages.report(head, list(map(str, errors)), "give image files"))
    head = f"{len(errors)} of {count} images cannot be read:"
    raise ValueError(messages.report(head, list(map(str, errors)), "leave them out"))


def _file(path: Path) -> Unread:
    """Returns an image that is named by its path."""
    return OneImage(path) if path.is_file() else Unreadable(path, _no_file(path))


def _no_file(path: Path) -> FileNotFoundError:
    if files.is_address(path):
        return FileNotFoundError(f"{path} is an address; download the image, and give its file")
    return FileNotFoundError(f"there is no file {path}")


def _path(image: ImageLike | None) -> str:
    return printable(str(image)) if isinstance(image, str | Path) else ""


def _cell(source: ManifestSource, place: int) -> str:
    """Returns the name of an image in a table; what the cell holds, if that is no image."""
    if place < 0:
        return ""
    try:
        return source.images.content(place)[1]
    except ValueError:
        return source.images.place(place)
