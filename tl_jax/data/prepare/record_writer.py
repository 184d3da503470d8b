"""Writes the images of sources to array_record files through TFDS."""

import collections
import concurrent.futures
import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
import tqdm

from tl_jax.data.images import decode
from tl_jax.data.prepare import inspection
from tl_jax.data.prepare.image_reader import GoodImage, ImageReader
from tl_jax.data.source import Source, Task, tasks_of


class _Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the examples of given generators."""

    name = "prepared"
    VERSION = tfds.core.Version("1.0.0")
    url_infos: ClassVar = None  # Nothing is downloaded.

    def __init__(
        self,
        examples: Mapping[str, Callable[[], Iterator[tuple[int, dict[str, Any]]]]],
        tasks: Sequence[Task],
        description: str,
        data_dir: Path,
    ) -> None:
        self._examples, self._features, self._main = examples, _features(tasks), tasks[0].name
        self._description = description
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self._description,
            features=self._features,
            supervised_keys=("image", self._main),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        del dl_manager
        return {split: examples() for split, examples in self._examples.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("the generators are given to the builder")


@dataclasses.dataclass
class RecordWriter:
    """Writes sources through TFDS, and notes what it finds on the way.

    Attributes:
      sources: by split, of the same tasks.
      reader: of their images.
      workers: threads that read.
      progress: show a bar.
      folder: where TFDS makes the folder of the records.
      images, corrupt: what was found.
    """

    sources: Mapping[str, Source]
    reader: ImageReader
    workers: int
    progress: bool
    folder: Path
    images: list[inspection.Facts] = dataclasses.field(default_factory=list)
    corrupt: list[inspection.Corrupt] = dataclasses.field(default_factory=list)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Of all sources."""
        return tasks_of(next(iter(self.sources.values())))

    def write(self) -> Path:
        """Returns the folder of the records; it must hold all that was read, and nothing less."""
        total = sum(map(len, self.sources.values()))
        tfds.display_progress_bar(enable=False)  # TFDS's bars know no totals.
        try:
            with tqdm.tqdm(total=total, unit=" images", disable=not self.progress) as bar:
                builder = self._builder(bar)
                with contextlib.redirect_stdout(io.StringIO()):  # It tells of a download.
                    builder.download_and_prepare(
                        download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                    )
        finally:
            tfds.display_progress_bar(enable=True)
        folder = Path(builder.data_path)
        self._check_whole(folder)
        return folder

    def _builder(self, bar: tqdm.tqdm) -> _Builder:
        examples = {
            split: lambda source=source: self._examples(source, bar)
            for split, source in self.sources.items()
        }
        first = next(iter(self.sources.values()))
        return _Builder(examples, self.tasks, f"Prepared from {first.name}.", self.folder)

    def _examples(self, source: Source, bar: tqdm.tqdm) -> Iterator[tuple[int, dict[str, Any]]]:
        good = 0
        self.corrupt += [_skipped(source, line) for line in source.skipped]
        for index, found in enumerate(self._read(source)):
            bar.update()
            if isinstance(found, inspection.Corrupt):
                self.corrupt.append(found)
                continue
            good += 1
            self.images.append(found.facts)
            yield index, _record(found, self.tasks)
        if not good:
            raise decode.CorruptImageError(
                f"none of the {len(source)} images in split {source.split!r} of {source.name} can "
                f"be decoded; the last one: {self.corrupt[-1].name}: {self.corrupt[-1].reason}"
            )

    def _read(self, source: Source) -> Iterator[GoodImage | inspection.Corrupt]:
        """Reads all examples in order by threads, which are never far ahead."""
        waiting: collections.deque[concurrent.futures.Future] = collections.deque()
        indices = iter(range(len(source)))
        with concurrent.futures.ThreadPoolExecutor(self.workers) as pool:
            for index in itertools.islice(indices, 4 * self.workers):
                waiting.append(pool.submit(self.reader, source, index))
            while waiting:
                found = waiting.popleft().result()
                for index in itertools.islice(indices, 1):
                    waiting.append(pool.submit(self.reader, source, index))
                yield found

    def _check_whole(self, folder: Path) -> None:
        written = tfds.builder_from_directory(folder).as_data_source(
            decoders={"image": tfds.decode.SkipDecoding()}
        )
        for split in self.sources:
            expected = sum(one.split == split for one in self.images)
            if len(written[split]) != expected:
                raise OSError(
                    f"{len(written[split])} of the {expected} images of split {split!r} were "
                    f"written to {folder}; check the disk and try again"
                )


def _features(tasks: Sequence[Task]) -> tfds.features.FeaturesDict:
    labels = {}
    for task in tasks:
        names = tfds.features.ClassLabel(names=list(task.class_names))
        labels[task.name] = tfds.features.Sequence(names) if task.multi_label else names
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3)),
            **labels,
            "path": tfds.features.Text(),
        }
    )


def _record(image: GoodImage, tasks: Sequence[Task]) -> dict[str, Any]:
    labels = {
        task.name: _listed(image.facts, task) if task.multi_label else image.facts.labels[task.name]
        for task in tasks
    }
    return {"image": io.BytesIO(image.data), "path": image.facts.name, **labels}


def _listed(facts: inspection.Facts, task: Task) -> list[int]:
    """Returns the classes that an image has, after -1 if it is not known of the others."""
    label = facts.labels[task.name]
    if {0, -1} <= set(label):
        raise ValueError(
            f"of some classes of {task.name!r} {facts.name} is known not to be, of others it is "
            "not known; a prepared set says one or the other of all classes that an image is not "
            "said to have: fill in the missing ones"
        )
    return [-1] * (-1 in label) + [i for i, has in enumerate(label) if has == 1]


def _skipped(source: Source, line: str) -> inspection.Corrupt:
    """Returns what a source has left out on opening: "NAME: REASON"."""
    name, _, reason = line.partition(": ")
    return inspection.Corrupt(source.split, -1, name, "", reason)
