"""Batches that threads or processes read ahead, in the order in which they are needed.

The standard library's pools are enough: out of JPEG files to be stretched on the device, threads
read 2,861 images a second here and 3,023 with Grain 0.2.18; processes, which stretch, 881 here and
916 with Grain (medians of three runs of the loader benchmark, in turns, which vary by a tenth).
"""

import functools
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import numpy as np

from tl_jax.data.loading import process_pool
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.readers import HostBatch, Reader, read_batch


def read_ahead(
    reader: Reader, index_batches: Iterable[np.ndarray], options: LoadOptions
) -> Generator[HostBatch, None, None]:
    """Yields the batch of each array of indices, in order.

    While a batch is used, the workers read the next `options.workers + 1` of them. Nothing is read
    before the first batch is requested.

    Args:
      reader: of the examples.
      index_batches: the examples of each batch; may be endless.
      options: number and type of the workers.

    Yields:
      Batches of new arrays. Closing the generator ends the workers as soon as they have read what
      they are reading.

    Raises:
      Exception: what the source raises; for process workers a RuntimeError with its message, if
        the error itself cannot be pickled.
      ChildProcessError: if a worker process died.
    """
    read: Callable[[np.ndarray], HostBatch] = functools.partial(read_batch, reader)
    if options.workers == 0:
        yield from map(read, index_batches)
        return
    pool: Executor = ThreadPoolExecutor(options.workers)
    if options.worker_type == "process":
        pool, read = process_pool.start(reader, options.workers), process_pool.read
    pending: deque[Future[HostBatch]] = deque()
    try:
        for indices in index_batches:
            pending.append(pool.submit(read, indices))
            if len(pending) > options.workers + 1:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    except BrokenExecutor as error:
        raise ChildProcessError(
            "a worker process ended before its work was done: it was killed, for memory perhaps, "
            "or the script lacks `if __name__ == '__main__':`; take fewer workers (data.workers), "
            "or threads (data.worker_type='thread')"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _result(future: Future[HostBatch]) -> HostBatch:
    """Returns a batch, or raises its error without the traceback that a process sends as text."""
    error = future.exception()
    if error is not None and not isinstance(error, BrokenExecutor):
        raise error from None
    return future.result()


def read_all(reader: Reader, indices: np.ndarray, options: LoadOptions, *, chunk: int) -> HostBatch:
    """Reads examples into one set of arrays, `chunk` at a time; otherwise as `read_batch`."""
    arrays = reader.allocate(len(indices))
    starts = range(0, len(indices), chunk)
    chunks = [indices[start : start + chunk] for start in starts]
    for start, batch in zip(starts, read_ahead(reader, chunks, options), strict=True):
        for name, array in batch.items():
            arrays[name][start : start + chunk] = array
    return arrays
