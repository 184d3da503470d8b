"""How far the host runs ahead of the devices: so far that they never wait for it."""

import collections
from typing import Any

import jax

# With two steps under way a device begins the next one while the host hears of the last. More would
# only keep more batches in the devices' memory. And programs over several CPU devices, which are
# dispatched asynchronously whatever is set, can lock up XLA's threads: each device takes 32 of
# them, and launching one more blocks a thread that a collective under way may need.
STEPS_AHEAD = 2


class StepsAhead:
    """The steps that were dispatched, of which the last ones may still be computing.

    On one CPU device whose dispatch is synchronous (`tl_jax.process`) all of them are computed.

    Attributes:
      dispatched: number of steps that were dispatched.
      computed: number of the first of them that are known to be computed.

    Examples:
      >>> ahead = StepsAhead()
      >>> for step in range(5):
      ...     ahead.add(jax.numpy.float32(step))
      >>> ahead.dispatched, ahead.computed >= 3
      (5, True)
    """

    def __init__(self) -> None:
        self.dispatched = self.computed = 0
        self._under_way: collections.deque[Any] = collections.deque()

    def add(self, result: Any) -> None:
        """Counts a step, and waits until at most `STEPS_AHEAD` steps are under way.

        Args:
          result: arrays that the step computes, and may still be computing.
        """
        self.dispatched += 1
        self._under_way.append(result)
        while len(self._under_way) > STEPS_AHEAD:
            self._wait_for_first()
        self.look()

    def look(self) -> None:
        """Counts the steps that are computed, without waiting."""
        while self._under_way and _is_ready(self._under_way[0]):
            self._wait_for_first()

    def wait(self, steps: int | None = None) -> None:
        """Waits for the first `steps` of all steps; None: for all."""
        wanted = self.dispatched if steps is None else steps
        while self.computed < wanted:
            self._wait_for_first()

    def _wait_for_first(self) -> None:
        # Also where the result is there: an error of the computation is raised here.
        jax.block_until_ready(self._under_way.popleft())
        self.computed += 1


def _is_ready(result: Any) -> bool:
    return all(leaf.is_ready() for leaf in jax.tree.leaves(result))
