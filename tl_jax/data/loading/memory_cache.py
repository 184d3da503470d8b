"""A cache of examples in the host's memory, filled as they are needed."""

import contextlib
import math
import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

import numpy as np

from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.readers import HostBatch, Reader
from tl_jax.data.loading.workers import read_ahead

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class MemoryCache:
    """The examples of a reader, each read once, ahead of use. Not thread-safe."""

    def __init__(
        self,
        reader: Reader,
        options: LoadOptions,
        *,
        needed: Callable[[], np.ndarray],
        max_examples: int,
        chunk: int,
    ) -> None:
        """Reads nothing yet.

        Args:
          reader: of the examples.
          options: number and type of the workers.
          needed: returns the indices of all examples that will be needed, each once, those that
            are needed first at the beginning.
          max_examples: the largest number of examples that will be needed.
          chunk: examples that a worker reads at a time.

        Raises:
          ValueError: if the images do not fit into memory.
        """
        check_memory(max_examples, reader.shape, host_memory(), cache="memory", of="a machine")
        self._reader, self._options = reader, options
        self._needed, self._chunk = needed, chunk
        # Pages that are never written to take no memory.
        self._arrays = reader.allocate(len(reader.source))
        self._is_read = np.zeros(len(reader.source), bool)
        self._reading: Generator[None, None, None] | None = None

    def take(self, indices: np.ndarray) -> HostBatch:
        """Returns new arrays of the examples; where an index is -1, as the reader allocates."""
        wanted = indices[indices >= 0]
        while not self._is_read[wanted].all():
            if self._reading is None:
                self._reading = self._read_missing()
            try:
                next(self._reading)
            except BaseException:
                self.close()  # A retry starts with the missing example.
                raise
        batch = {
            name: array.take(indices, axis=0, mode="clip") for name, array in self._arrays.items()
        }
        if len(wanted) < len(indices):
            for name, padding in self._reader.allocate(1).items():
                batch[name][indices < 0] = padding[0]
        return batch

    def batches(self, index_batches: Iterable[np.ndarray]) -> Generator[HostBatch, None, None]:
        """Yields the batch of each array of indices; closing the generator ends the workers."""
        with contextlib.closing(self):
            for indices in index_batches:
                yield self.take(indices)

    def close(self) -> None:
        """Ends the workers; the examples that were read stay."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _read_missing(self) -> Generator[None, None, None]:
        """Stores a chunk of the missing examples at each step, in the order of need."""
        needed = self._needed()
        missing = needed[~self._is_read[needed]]
        chunks = np.split(missing, range(self._chunk, len(missing), self._chunk))
        with contextlib.closing(read_ahead(self._reader, chunks, self._options)) as batches:
            for indices, batch in zip(chunks, batches, strict=True):
                for name, array in batch.items():
                    self._arrays[name][indices] = array
                self._is_read[indices] = True
                yield


def check_memory(count: int, shape: tuple[int, ...], have: int, *, cache: str, of: str) -> None:
    """Raises ValueError if `count` uint8 images of this shape need more than `have` bytes."""
    need = count * math.prod(shape)
    if need > have:
        others = "'none'" if cache == "memory" else "'memory' or 'none'"
        raise ValueError(
            f"cache={cache!r} would keep {count} images, {need / 2**30:.1f} GiB, in {of} of "
            f"{have / 2**30:.1f} GiB; use cache={others}"
        )


def host_memory() -> int:
    """Returns the bytes that this process may use: the machine's, or fewer in a container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return min([machine, *(int(text) for text in texts if text.isdigit())])
