"""Writes the images of sources to array_record files through TFDS."""

import collections
import concurrent.futures
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from tl_jax import messages
from tl_jax.data.images import decode
from tl_jax.data.prepare.image_reader import GoodImage, ImageReader
from tl_jax.data.prepare.inspection import CorruptImage, ImageInfo
from tl_jax.data.source import Source, Task
from tl_jax.data.sources import prepared
from tl_jax.data.sources import tfds as tfds_source
from tl_jax.data.sources.options import OpenOptions

Records = Iterator[tuple[int, dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class WrittenSet:
    """What was written.

    Attributes:
      folder: the folder of the records.
      images: what is known of the images in it.
      corrupt: the images that were left out.
    """

    folder: Path
    images: Sequence[ImageInfo]
    corrupt: Sequence[CorruptImage]


def write_records(
    sources: Mapping[str, Source],
    reader: ImageReader,
    folder: Path,
    *,
    num_threads: int,
    progress: bool,
) -> WrittenSet:
    """Writes all images of sources that can be decoded.

    Args:
      sources: sources with the same tasks, by split.
      reader: reads their images.
      folder: where TFDS makes the folder of the records.
      num_threads: threads that read.
      progress: show a bar on the terminal.

    Raises:
      CorruptImageError: if none of a split's images can be decoded.
      OSError: if what is read back from the folder is not what was written.
    """
    first = next(iter(sources.values()))
    tasks = first.tasks
    images: list[ImageInfo] = []
    corrupt: list[CorruptImage] = []
    bar = tqdm.tqdm(
        total=sum(map(len, sources.values())), unit=" images", disable=None if progress else True
    )

    def records(source: Source) -> Records:
        before = len(images)
        for index, image in enumerate(_read_in_order(source, reader, num_threads)):
            bar.update()
            if isinstance(image, CorruptImage):
                corrupt.append(image)
            else:
                images.append(image.info)
                yield index, _record(image, tasks)
        if len(images) == before:
            raise decode.CorruptImageError(
                f"none of the {len(source)} images in split {source.split!r} of {source.name} can "
                f"be decoded (the last is {corrupt[-1].name}: {corrupt[-1].reason}); replace the "
                "images, or leave the split out"
            )

    with bar:
        builder = _Builder(
            {split: records(source) for split, source in sources.items()},
            tasks,
            description=f"Prepared from {first.name}.",
            data_dir=folder,
        )
        tfds_source.write(builder)
    written = WrittenSet(Path(builder.data_path), images, corrupt)
    prepared.write_labels(written.folder, tasks, first.value_range)
    _check_read_back(written, sources, tasks)
    return written


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Writes given records."""

    name = "prepared"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar = None  # Nothing is downloaded.

    def __init__(
        self,
        records: Mapping[str, Records],
        tasks: Sequence[Task],
        *,
        description: str,
        data_dir: Path,
    ) -> None:
        self._records, self._tasks, self._description = records, tasks, description
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"image": tfds.features.Image(shape=(None, None, 3))}
        for task in self._tasks:
            label = tfds.features.ClassLabel(names=prepared.stored_names(task.class_names))
            features[task.name] = tfds.features.Sequence(label) if task.multi_label else label
        features["path"] = tfds.features.Text()
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", self._tasks[0].name),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Records]:
        del dl_manager
        return dict(self._records)

    def _generate_examples(self) -> Records:
        raise NotImplementedError("the records are given to the builder")


def _read_in_order(
    source: Source, reader: ImageReader, num_threads: int
) -> Iterator[GoodImage | CorruptImage]:
    """Reads all examples in order; the threads are at most four examples each ahead."""
    pending: collections.deque[concurrent.futures.Future[GoodImage | CorruptImage]]
    pending = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
        for index in range(len(source)):
            if len(pending) == 4 * num_threads:
                yield pending.popleft().result()
            pending.append(pool.submit(reader, source, index))
        while pending:
            yield pending.popleft().result()


def _record(image: GoodImage, tasks: Sequence[Task]) -> dict[str, Any]:
    """Returns what TFDS stores of an image.

    The label of a multi-label task is the list of its classes, after -1 if the others are unknown.
    """
    record: dict[str, Any] = {"image": io.BytesIO(image.data), "path": image.info.name}
    for task in tasks:
        label = image.info.labels[task.name]
        if not task.multi_label:
            record[task.name] = label[0]
            continue
        if {0, -1} <= set(label):
            raise ValueError(
                f"{image.info.name} lacks some classes of {task.name!r} and leaves others unknown; "
                "a prepared set stores only the classes that an image has, and whether all others "
                "are absent or unknown: fill in the unknown labels"
            )
        classes = [index for index, value in enumerate(label) if value == 1]
        record[task.name] = [-1, *classes] if -1 in label else classes
    return record


def _check_read_back(
    written: WrittenSet, sources: Mapping[str, Source], tasks: Sequence[Task]
) -> None:
    """Compares classes, and names and labels of all images, with what was to be written."""
    for split in sources:
        stored = prepared.open(str(written.folder), split, OpenOptions())
        if stored.tasks != tuple(tasks):
            raise OSError(f"{written.folder} holds the classes {stored.tasks}, not {tasks}")
        images = [image for image in written.images if image.split == split]
        expected = collections.Counter(
            (image.name, *(image.labels[task.name] for task in tasks)) for image in images
        )
        found = collections.Counter(
            _facts(stored.encoded(index)[1], tasks) for index in range(len(stored))
        )
        if found != expected:
            names = [str(facts[0]) for facts in ((expected - found) | (found - expected))]
            raise OSError(
                f"{len(stored)} images of split {split!r} were read back from {written.folder}, "
                f"and {len(images)} written; they differ in {messages.some(sorted(set(names)))}: "
                "check the disk and try again"
            )


def _facts(example: Mapping[str, Any], tasks: Sequence[Task]) -> tuple[Any, ...]:
    """Returns the name and the labels of an example that was read back."""
    labels = (tuple(np.atleast_1d(example[task.name]).tolist()) for task in tasks)
    return (example["path"], *labels)
