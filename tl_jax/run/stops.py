"""A run that is asked to stop before its end: one decision of all processes, at one step."""

import time
from collections.abc import Callable

import jax

from tl_jax import distributed

_SECONDS_BETWEEN_QUESTIONS = 1.0
_MOST_STEPS_BETWEEN_QUESTIONS = 100


class StoppedError(RuntimeError):
    """Training was asked to stop; what it had done is saved, and the same call goes on from there.

    A program of your own ends with the status 75 (`tl_jax.interrupt.RESUME`) after it, as
    the command does.
    """


class Stops:
    """Whether to stop after a step, the same answer in all processes.

    With several processes they ask each other about once a second, always at the same step: the
    first process says at each question at which step the next one is.
    """

    def __init__(self, should_stop: Callable[[], bool] | None) -> None:
        """Takes what says that this process was asked to stop; None: it never is."""
        self._should_stop = should_stop or (lambda: False)
        self._until_question = self._between = 1
        self._last_time = time.monotonic()

    def wanted(self) -> bool:
        """Returns whether to stop now; every process calls it after each step or batch."""
        if jax.process_count() == 1:
            return self._should_stop()
        self._until_question -= 1
        if self._until_question:
            return False
        self._between = distributed.agree(self._steps_until_question())
        self._until_question = self._between
        return distributed.any_of(self._should_stop())

    def _steps_until_question(self) -> int:
        """Returns the steps of about a second, by those since the last question."""
        now = time.monotonic()
        seconds, self._last_time = now - self._last_time, now
        wanted = round(self._between * _SECONDS_BETWEEN_QUESTIONS / max(seconds, 1e-3))
        return min(max(wanted, 1), _MOST_STEPS_BETWEEN_QUESTIONS)
