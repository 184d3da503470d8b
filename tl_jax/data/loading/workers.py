"""Who reads batches ahead: threads, or processes, started and ended through Grain."""

import atexit
import contextlib
import dataclasses
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
from typing import Literal, Protocol

import grain
import numpy as np
from absl import flags

from tl_jax.data.loading.readers import Batch, Reader, read

WorkerType = Literal["thread", "process"]

_AHEAD = 2
# How long an end waits for what is being read; workers that hang are killed when Python ends.
_ENDING_SECONDS = 30


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
