"""Examples as arrays in batches: what training and evaluation read of a source, and by whom."""

import atexit
import contextlib
import dataclasses
import functools
import math
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from queue import SimpleQueue
from typing import Any, Literal, Protocol

import grain
import numpy as np
from absl import flags

from tl_jax.data import fast_jpeg
from tl_jax.data.fast_jpeg import Pixels
from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.source import EncodedSource, Source, tasks_of

Batch = dict[str, np.ndarray]
WorkerType = Literal["thread", "process"]

_AHEAD = 2
# How long an end waits for what is being read; workers that hang are killed when Python ends.
_ENDING_SECONDS = 30
# Longest side over the canvas, and shape of the largest area, of what is packed: photographs of
# 640 x 480 for networks of 224.
_LONGEST, _ASPECT = 2.5, 4 / 3


@dataclasses.dataclass(frozen=True)
class _Decoder:
    """What both ways to read for training begin with."""

    source: Source
    canvas: int
    fast_jpeg: bool = True

    @functools.cached_property
    def _encoded(self) -> EncodedSource | None:
        """The source, if it has the files' bytes and they are wanted."""
        wanted = self.fast_jpeg and isinstance(self.source, EncodedSource)
        return self.source if wanted else None

    def decoded(self, index: int) -> tuple[dict[str, Any], Pixels]:
        """Returns an example and its pixels."""
        if self._encoded is not None:
            data, example = self._encoded.encoded(index)
            name = example.get("path", _name(self.source, index))
            return dict(example), fast_jpeg.read(data, self.canvas, name=name)
        example = self.source[index]
        image = example["image"]
        return dict(example), Pixels(image, image.shape[:2], image.shape[:2])


@dataclasses.dataclass(frozen=True)
class TrainReader(_Decoder):
    """Reads what training crops from: `image` stretched to a square, `size` and the labels.

    Attributes:
      source: the split.
      canvas: side of the square.
      fast_jpeg: whether large JPEG files are decoded at a reduced size (`fast_jpeg.read`).
    """

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return (self.canvas, self.canvas, 3)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example."""
        example, pixels = self.decoded(index)
        return {**example, "image": pixels.stretched(self.canvas), "size": pixels.size}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero."""
        images = np.zeros((count, *self.shape), np.uint8)
        return {**_blank(self.source, images), "size": np.zeros((count, 2), np.int32)}


@dataclasses.dataclass(frozen=True)
class PackedReader(_Decoder):
    """Reads for training what the device is to stretch to a square (`stretch.stretch`).

    `image` holds the pixels of an image of any size, row after row, at the beginning of an array
    [room]; `packed` (int32 [2]) says of how many rows and columns, `extent` (float32 [2]) what they
    take of them. An image that has no room is stretched at once.

    Attributes:
      source, canvas, fast_jpeg: as in `TrainReader`.
    """

    @property
    def side(self) -> int:
        """Pixels of the longest side that is packed."""
        return math.ceil(_LONGEST * self.canvas)

    @property
    def shape(self) -> tuple[int]:
        """Bytes of an image: with a row to spare, as each row is read with what comes after it."""
        return (3 * self.side * (math.ceil(self.side / _ASPECT) + 1),)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example; `image` has its own length."""
        example, pixels = self.decoded(index)
        image, extent = pixels.image, pixels.extent
        if max(image.shape) > self.side or image.size > self.shape[0] - 3 * self.side:
            image, extent = pixels.stretched(self.canvas), (self.canvas, self.canvas)
        placed = {"image": image.reshape(-1), "packed": image.shape[:2], "extent": extent}
        return {**example, **placed, "size": pixels.size}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero but for the images.

        What these hold behind what is read is of no meaning: zeros would take time.
        """
        return {
            **_blank(self.source, np.empty((count, *self.shape), np.uint8)),
            "size": np.zeros((count, 2), np.int32),
            "packed": np.zeros((count, 2), np.int32),
            "extent": np.zeros((count, 2), np.float32),
        }


@dataclasses.dataclass(frozen=True)
class EvalReader:
    """Reads what is evaluated: `image` resized and cropped as configured, and the labels.

    Attributes:
      source: the split.
      preprocess: size and crop of the images.
    """

    source: Source
    preprocess: Preprocess

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image."""
        return (*self.preprocess.size, 3)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads one example."""
        example = self.source[index]
        return {**example, "image": eval_image(example["image"], self.preprocess)}

    def blank(self, count: int) -> Batch:
        """Returns the arrays of so many examples, all zero."""
        return _blank(self.source, np.zeros((count, *self.shape), np.uint8))


Reader = TrainReader | PackedReader | EvalReader


def _blank(source: Source, images: np.ndarray) -> Batch:
    """Returns the images with labels for them, all zero."""
    batch, count = {"image": images}, len(images)
    for place, task in enumerate(tasks_of(source)):
        several = (len(task.class_names),) if task.multi_label else ()
        batch["label" if place == 0 else task.name] = np.zeros(
            (count, *several), np.int8 if several else np.int32
        )
    return batch


def read(reader: Reader, indices: np.ndarray) -> Batch:
    """Reads examples into new arrays; where an index is -1, they stay zero.

    Raises:
      Exception: what the source raises; a note says of which example.
    """
    batch = reader.blank(len(indices))
    others = batch.keys() - {"image"}
    for place, index in enumerate(indices.tolist()):
        if index < 0:
            continue
        try:
            example = reader[index]
            batch["image"][place][: len(example["image"])] = example["image"]
            for name in others:
                batch[name][place] = example[name]
        except Exception as error:
            error.add_note(f"while reading {_name(reader.source, index)}")
            raise
    return batch


def _name(source: Source, index: int) -> str:
    return f"example {index} of split {source.split!r} of {source.name}"


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
    """Consecutive pieces of indices, by their number; the last may be shorter."""

    indices: np.ndarray
    size: int

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __call__(self, number: int) -> np.ndarray:
        """Returns one piece."""
        return self.indices[number * self.size : (number + 1) * self.size]


class Reading(Iterator[Batch], Protocol):
    """Batches that are read ahead; to be closed."""

    def close(self) -> None:
        """Ends the workers; no batch is to be taken after that."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """Who reads: threads, or processes where decoding is held up by Python itself.

    Processes are spawned, so a script that uses them needs `if __name__ == "__main__":`, and each
    takes seconds to start; the source is copied to each.

    Attributes:
      count: of workers, each of which reads whole batches; 0: the calling thread reads.
      kind: "thread" or "process".
    """

    count: int = 2
    kind: WorkerType = "thread"

    def __post_init__(self) -> None:
        if self.count < 0 or self.kind not in ("thread", "process"):
            raise ValueError(
                f"got workers={self.count} and worker_type={self.kind!r}; expected 0 or more, and "
                "'thread' or 'process'"
            )

    def start(
        self, reader: Reader, steps: grain.MapDataset, plan: Callable[[int], np.ndarray]
    ) -> Reading:
        """Begins to read ahead; close the iterator to end it.

        Args:
          reader: of the examples.
          steps: the numbers of the batches, in the order in which they are wanted.
          plan: from such a number to the batch's indices.
        """
        if self.kind == "thread" or self.count == 0:
            pieces = steps.map(_Read(reader, plan))
            ahead = grain.ReadOptions(
                num_threads=self.count, prefetch_buffer_size=self.count and self.count + 1
            )
            return iter(pieces.to_iter_dataset(ahead))
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain asks for flags that only absl's own apps parse.
        pieces = steps.map(_ReadElsewhere(reader, plan))
        one = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        options = grain.MultiprocessingOptions(
            num_workers=self.count, per_worker_buffer_size=_AHEAD
        )
        return _FromProcesses(pieces.to_iter_dataset(one).mp_prefetch(options, _end_with_parent))


def read_all(reader: Reader, indices: np.ndarray, *, chunk: int, workers: Workers) -> Batch:
    """Reads examples into one set of arrays, `chunk` at a time; as `read` otherwise."""
    whole = reader.blank(len(indices))
    chunks = Chunks(indices, chunk)
    steps = grain.MapDataset.range(len(chunks))
    with contextlib.closing(workers.start(reader, steps, chunks)) as reading:
        for number, batch in enumerate(reading):
            for name, array in batch.items():
                whole[name][number * chunk : (number + 1) * chunk] = array
    return whole


@dataclasses.dataclass(frozen=True)
class _Read:
    reader: Reader
    plan: Callable[[int], np.ndarray]

    def __call__(self, step: int) -> Batch:
        return read(self.reader, self.plan(step))


@dataclasses.dataclass(frozen=True)
class _ReadElsewhere(_Read):
    def __call__(self, step: int) -> Batch:
        try:
            return super().__call__(step)
        except Exception as error:
            raise _portable(error) from None


def _portable(error: Exception) -> Exception:
    """Returns an error that reaches another process: one that cannot be pickled would be lost."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # Whatever a class of errors does when it is copied.
        return RuntimeError("".join(traceback.format_exception_only(error)))
    return error


def _end_with_parent(index: int, count: int) -> None:
    """Sees to it that a worker does not outlive a process that is killed."""
    del index, count
    threading.Thread(target=_exit_after_parent, daemon=True).start()


def _exit_after_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class _FromProcesses(Iterator[Batch]):
    """Batches of Grain's worker processes, which a thread takes from them one ahead."""

    def __init__(self, pieces: grain.IterDataset) -> None:
        """Starts the workers."""
        self._taker = _Taker(pieces)
        self._end: Exception | None = None
        weakref.finalize(self, self._taker.wanted.put, False)
        self._taker.start()
        self._taker.wanted.put(True)

    def __next__(self) -> Batch:
        if self._end is None:
            self._taker.wanted.put(True)
            taken = self._taker.ready.get()
            if not isinstance(taken, Exception):
                return taken
            self._end = taken
        raise self._end

    def close(self) -> None:
        """Ends the workers; waits for what they are reading."""
        self._end = ValueError("got a call of a closed iterator; expected none after `close`")
        self._taker.end()


class _Taker(threading.Thread):
    """Takes batches from Grain's worker processes, and ends them: all that Grain does is done here.

    Grain's arrays in shared memory run Python code when they are deleted. Were that in the main
    thread, a Ctrl-C at that moment would be an exception in `__del__`, which Python ignores: the
    run would go on. So they are copied and deleted here, where no KeyboardInterrupt is ever raised.
    For the same reason the main thread waits on queues written in C, which an interrupt leaves
    whole. The workers never see Ctrl-C, as they are born with this thread's mask of signals.

    Attributes:
      wanted: True for each batch that is asked for, False to end.
      ready: the batches, and at last the error or the StopIteration that ended them.
    """

    def __init__(self, pieces: grain.IterDataset) -> None:
        """Starts nothing yet."""
        super().__init__(name="from-processes", daemon=True)
        self._pieces = pieces
        self.wanted: SimpleQueue[bool] = SimpleQueue()
        self.ready: SimpleQueue[Batch | Exception] = SimpleQueue()
        # Run before what multiprocessing registered when it was imported: that ends its processes.
        atexit.register(self.end)

    def run(self) -> None:
        """Takes batches until no more are wanted or there are none."""
        resource_tracker.ensure_running()  # It unblocks the signal in the thread that starts it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        end: Exception = StopIteration()
        try:
            with contextlib.closing(iter(self._pieces)) as reading:
                while self.wanted.get():
                    self.ready.put(_copied(next(reading)))
        except Exception as error:
            end = error
        self.ready.put(end)
        atexit.unregister(self.end)

    def end(self) -> None:
        """Ends the workers."""
        self.wanted.put(False)
        if self.is_alive():
            self.join(_ENDING_SECONDS)


def _copied(batch: Batch) -> Batch:
    return {name: np.array(array) for name, array in batch.items()}
