"""Sources of a few small images, and batches that are read from them."""

import dataclasses
import io
import itertools
import threading
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.loading import device_batches, host_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Categories, Inputs, Source, Task

PREPROCESS = Preprocess(size=(6, 7))
Batch = dict[str, Any]


def canvas_image(pixels: np.ndarray, canvas: int) -> np.ndarray:
    """Returns an image stretched to the square canvas by Pillow alone."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((canvas, canvas), Image.Resampling.BICUBIC))


@dataclasses.dataclass
class Numbered(Source):
    """A source of images of different sizes; the label of an image is its index."""

    count: int
    name: str = "numbered"
    split: str = "train"
    skipped: tuple[str, ...] = ()
    reads: list[int] = dataclasses.field(default_factory=list)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (Task("label", tuple(f"class {i}" for i in range(self.count))),)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.reads.append(index)
        rng = np.random.default_rng(index)
        shape = (6 + index % 3, 5 + index % 4, 3)
        return {"image": rng.integers(0, 256, shape, np.uint8), "label": index}


class OddError(Exception):
    """An error that cannot be pickled, so not copied to another process."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.lock = threading.Lock()


class Failing(Numbered):
    """A source of which one example cannot be read."""

    broken = 5

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.broken:
            raise OddError("the disk is on fire")
        return super().__getitem__(index)


class Tasked(Numbered):
    """A source with a multi-label task and a second task, whose label is the index."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (
            Task("kinds", ("a", "b", "c"), multi_label=True),
            Task("age", tuple(map(str, range(self.count)))),
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        kinds = np.array([index % 4 == 0, -1, index % 2], np.int8)
        return {**super().__getitem__(index), "label": kinds, "age": index}


class Viewed(Numbered):
    """A source of objects of up to three views, with further inputs of every kind."""

    inputs = Inputs(
        views=3,
        numeric=("width", "height"),
        categorical=(Categories("colour", ("red", "blue")),),
        vocabulary=("a", "b"),
        max_tokens=4,
        vector=2,
    )

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (Task("weight", ()), Task("grade", ("low", "middle", "high"), ordered=True))

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng(100 + index)
        shapes = [(6 + view, 5 + index % 4, 3) for view in range(3)]
        views = [rng.integers(0, 256, shape, np.uint8) for shape in shapes]
        return {
            "image": [None if (index + v) % 4 == 3 else view for v, view in enumerate(views)],
            "label": index / 2 if index % 5 else np.nan,
            "grade": index % 4 - 1,
            "numeric": (index, np.nan),
            "categorical": (index % 3 - 1,),
            "tokens": (index % 4, 1, 0, 0),
            "vector": (np.nan, np.nan) if index % 2 else (0.5, index),
        }


class Files(Source):
    """A source that can give the bytes of its files, and counts how often it did."""

    name, split, tasks = "files", "train", (Task("label", ("a",)),)

    def __init__(self, *contents: bytes) -> None:
        self.contents, self.encoded_reads = contents, 0

    def __len__(self) -> int:
        return len(self.contents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": decode.decode(self.contents[index], name="whole"), "label": 0}

    def encoded(self, index: int) -> tuple[bytes, dict[str, Any]]:
        self.encoded_reads += 1
        return self.contents[index], {"label": 0}


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    """Returns the bytes of an image file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def host_train(
    source: Any,
    *,
    batch_size: int = 4,
    canvas: int = 8,
    order: Any = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    **options: Any,
) -> Generator[Batch, None, None]:
    """Returns training batches on the host, without end, by default in the order of seed 0."""
    return host_batches.host_train_batches(
        source,
        LoadOptions(batch_size, **options),
        canvas=canvas,
        order=order or Uniform(len(source), 0),
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )


def host_eval(
    source: Any,
    *,
    batch_size: int = 4,
    process_index: int = 0,
    process_count: int = 1,
    **options: Any,
) -> host_batches.HostEvalBatches:
    """Returns evaluation batches on the host."""
    return host_batches.host_eval_batches(
        source,
        LoadOptions(batch_size, **options),
        preprocess=PREPROCESS,
        process_index=process_index,
        process_count=process_count,
    )


def take(source: Any, count: int, **options: Any) -> list[Batch]:
    """Returns the first `count` batches of `host_train`."""
    return list(itertools.islice(host_train(source, **options), count))


def evaluate(count: int, **options: Any) -> list[Batch]:
    """Returns the evaluation batches of a `Numbered` source."""
    return evaluate_source(Numbered(count), **options)


def evaluate_source(source: Any, **options: Any) -> list[Batch]:
    """Returns the batches of `host_eval`; asserts that `len` gives their number."""
    batches = host_eval(source, **options)
    result = list(batches)
    assert len(result) == len(batches)
    return result


def sharding(count: int = 1) -> NamedSharding:
    """Returns the sharding of a batch over the first `count` devices."""
    return NamedSharding(Mesh(np.asarray(jax.devices()[:count]), ("data",)), PartitionSpec("data"))


def device_train(
    source: Any,
    on: NamedSharding,
    *,
    batch_size: int = 4,
    order: Any = None,
    start_step: int = 0,
    **options: Any,
) -> Generator[Batch, None, None]:
    """Returns training batches on devices, without end, by default in the order of seed 0."""
    return device_batches.train_batches(
        source,
        LoadOptions(batch_size, **options),
        canvas=8,
        order=order or Uniform(len(source), 0),
        sharding=on,
        start_step=start_step,
    )


def device_eval(
    source: Any, on: NamedSharding, *, batch_size: int = 4, **options: Any
) -> device_batches.DeviceEvalBatches:
    """Returns evaluation batches on devices."""
    return device_batches.eval_batches(
        source, LoadOptions(batch_size, **options), preprocess=PREPROCESS, sharding=on
    )


def placed(source: Any, count: int, **options: Any) -> list[Batch]:
    """Returns the first `count` batches of `device_train` on one device."""
    return list(itertools.islice(device_train(source, sharding(), **options), count))


def on_host(source: Any, count: int, **options: Any) -> list[Batch]:
    """Returns the batches that `placed` should give, read in this thread."""
    return take(source, count, workers=0, **options)


def assert_same(actual: Sequence[Batch], expected: Sequence[Batch]) -> None:
    """Asserts that batches have the same keys and the same arrays."""
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Waits until a condition holds; fails if it does not in time."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()
