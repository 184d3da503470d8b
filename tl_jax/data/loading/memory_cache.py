"""Images kept in the host's memory once they are read, and handed out in batches as arrays."""

import math
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import grain
import numpy as np

from tl_jax.data.loading.readers import Batch, Reader
from tl_jax.data.loading.workers import Chunks, Reading, Workers

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


class MemoryCache:
    """The examples of a reader in arrays that are filled as examples are asked for.

    They are read ahead in the order in which they will be needed, each once. Not for use by
    several threads at a time.
    """

    def __init__(
        self,
        reader: Reader,
        need: Callable[[], np.ndarray],
        *,
        count: int,
        chunk: int,
        workers: Workers,
    ) -> None:
        """Reads nothing yet.

        Args:
          reader: of the examples.
          need: gives the indices that will be needed, each once, in the order of need.
          count: how many these are at most.
          chunk: examples that a worker reads at a time.
          workers: who reads.

        Raises:
          ValueError: if the images do not fit into memory.
        """
        check_memory(count, reader.shape, host_memory(), cache="memory", of="a machine")
        self._reader, self._need, self._workers = reader, need, workers
        self._chunk = chunk
        # Pages that are never written to take no memory.
        self._kept = reader.blank(len(reader.source))
        self._filled = np.zeros(len(reader.source), bool)
        self._reading: Reading | None = None
        self._asked: deque[np.ndarray] = deque()

    def take(self, indices: np.ndarray) -> Batch:
        """Returns new arrays of the examples; zeros where an index is -1."""
        wanted = indices[indices >= 0]
        while not self._filled[wanted].all():
            self._read_on()
        batch = {
            name: array.take(indices, axis=0, mode="clip") for name, array in self._kept.items()
        }
        if len(wanted) < len(indices):
            for array in batch.values():
                array[indices < 0] = 0
        return batch

    def close(self) -> None:
        """Ends reading ahead; what is kept stays."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _read_on(self) -> None:
        """Stores the next examples that are needed."""
        if self._reading is None:
            need = self._need()
            chunks = Chunks(need[~self._filled[need]], self._chunk)
            self._asked = deque(chunks(number) for number in range(len(chunks)))
            steps = grain.MapDataset.range(len(chunks))
            self._reading = self._workers.start(self._reader, steps, chunks)
        try:
            batch = next(self._reading)
        except BaseException:
            self.close()  # Whoever tries again begins with the example that is missing.
            raise
        indices = self._asked.popleft()
        for name, array in batch.items():
            self._kept[name][indices] = array
        self._filled[indices] = True
        if not self._asked:
            self.close()


def check_memory(count: int, shape: tuple[int, ...], have: int, *, cache: str, of: str) -> None:
    """Raises ValueError if uint8 images of a shape need more bytes than there are."""
    need = count * math.prod(shape)
    if need > have:
        others = "'none'" if cache == "memory" else "'memory' or 'none'"
        raise ValueError(
            f"cache={cache!r} would keep {count} images, {need / 2**30:.1f} GiB, in {of} of "
            f"{have / 2**30:.1f} GiB; use cache={others}"
        )


def host_memory() -> int:
    """Returns the bytes that this process may use: the machine's, or fewer by its container."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    texts = [path.read_text().strip() for path in _CGROUP_LIMITS if path.is_file()]
    return min([machine, *(int(text) for text in texts if text.isdigit())])
