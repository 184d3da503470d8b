"""The host runs a few steps ahead of the devices, no further."""

import pytest

from tl_jax.training.ahead import STEPS_AHEAD, StepsAhead


class Result:
    """What a step computes: ready once somebody has waited for it, or it is said to be."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self.ready, self.waited, self.error = False, False, error

    def is_ready(self) -> bool:
        return self.ready

    def block_until_ready(self) -> None:
        self.ready = self.waited = True
        if self.error:
            raise self.error


def test_it_waits_for_an_earlier_step_and_not_for_the_last_ones():
    ahead, results = StepsAhead(), [Result() for _ in range(5)]
    for result in results:
        ahead.add(result)
    assert [result.waited for result in results] == [True] * 3 + [False] * STEPS_AHEAD
    assert (ahead.dispatched, ahead.computed) == (5, 3)
    ahead.wait()
    assert ahead.computed == 5


def test_steps_that_are_computed_are_counted_without_waiting():
    ahead, results = StepsAhead(), [Result() for _ in range(2)]
    for result in results:
        ahead.add(result)
    assert ahead.computed == 0
    results[1].ready = True  # Steps are computed in order: this one alone says nothing.
    ahead.look()
    assert ahead.computed == 0
    results[0].ready = True
    ahead.look()
    assert ahead.computed == 2


def test_an_error_of_the_computation_is_raised():
    ahead = StepsAhead()
    ahead.add(Result(error=RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match="out of memory"):
        ahead.wait()
