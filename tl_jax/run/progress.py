"""Progress of a run on standard error: log lines, and a bar or lines for each epoch."""

import collections
import contextlib
import io
import os
import sys
import time
from typing import Any, Self, TextIO

import jax
from tqdm import tqdm

from tl_jax.training.ahead import StepsAhead

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_BETWEEN_MEASUREMENTS = 1.0
# The rate is that of the last steps, so that it follows what else the machine does.
_SECONDS_OF_RATE = 30.0
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"


def log(text: str) -> None:
    """Prints a line on standard error, on the first process.

    A run goes on where nobody can read what it says: after the reader of a pipe has gone, without
    a standard error, or on a full disk.
    """
    stream = sys.stderr
    if jax.process_index() != 0 or stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
        try:
            print(text, file=stream, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), file=stream, flush=True)


class Progress:
    """Shows steps done, loss, images a second and the time left of one epoch.

    Use as a context manager and call `update` after each step. In a terminal or a notebook it is a
    bar on standard error; elsewhere (a file, a pipe) a line every 15 seconds.

    Attributes:
      loss: the last loss that is known; set it when one is.
    """

    loss: float | None = None

    def __init__(
        self,
        title: str,
        *,
        steps: int,
        images_per_step: int,
        steps_done: int = 0,
        compiles: bool = False,
        enabled: bool = True,
    ) -> None:
        """Begins an epoch of `steps` steps.

        Args:
          title: such as "epoch 3/8".
          steps: steps of the epoch.
          images_per_step: global batch size.
          steps_done: steps of the epoch that an earlier process did.
          compiles: whether the first step is compiled first; it is then left out of the rate, and
            how long it took is said.
          enabled: whether to show anything; False on all processes but the first.
        """
        self._title, self._steps, self._images_per_step = title, steps, images_per_step
        self._steps_before, self._compiles = steps_done, compiles
        self._ahead = StepsAhead()
        now = time.monotonic()
        self._start_time = self._last_line_time = now
        # Times at which so many steps were done; the rate is measured between the outermost.
        self._measured = collections.deque([(now, 0)])
        shows_bar = enabled and _can_show_bar()
        self._prints_lines = enabled and not shows_bar
        self._stream = _Unfailing(sys.stderr)
        self._bar = tqdm(
            file=self._stream,
            total=steps,
            initial=steps_done,
            desc=title,
            bar_format=_BAR,
            disable=not shows_bar,
            dynamic_ncols=True,
            miniters=1,
            leave=False,
        )
        if compiles:
            self._bar.set_postfix_str("compiling")
            if self._prints_lines:
                log(f"{title}  compiling the training step")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, result: Any = ()) -> None:
        """Counts one step, and waits for one of a few steps before it (`training.ahead`).

        Args:
          result: arrays that the step computes, and may still be computing.
        """
        self._ahead.add(result)
        if self._compiles and self._ahead.dispatched == 1:
            self._ahead.wait()
            self._begin_after_compilation()
        elif time.monotonic() - self._measured[-1][0] >= _SECONDS_BETWEEN_MEASUREMENTS:
            self._measure()

    def finish(self, loss: float, steps: int) -> None:
        """Notes the mean loss of some steps, and which steps are computed by now.

        Args:
          loss: of steps up to the given one.
          steps: number of the last of them in the epoch. They are waited for: their loss is
            known, but JAX may not have said yet that they are computed.
        """
        self.loss = loss
        self._ahead.wait(max(0, steps - self._steps_before))
        self._ahead.look()
        self._measure()

    @property
    def images_per_second(self) -> float | None:
        """Rate of the last half minute, without compilation; None if no step was measured yet."""
        (start_time, start), (end_time, end) = self._measured[0], self._measured[-1]
        if end == start or end_time <= start_time:
            return None
        return (end - start) * self._images_per_step / (end_time - start_time)

    def _begin_after_compilation(self) -> None:
        now = time.monotonic()
        self._measured = collections.deque([(now, 1)])
        self._last_line_time = now
        text = f"{self._title}  compiled, and one step, in {clock(now - self._start_time)}"
        if not self._bar.disable:
            tqdm.write(text, file=self._stream)
        elif self._prints_lines:
            log(text)
        self._show(now)

    def _measure(self) -> None:
        """Notes when so many steps were computed, if there are new ones, and shows them."""
        if self._ahead.computed == self._measured[-1][1]:
            return
        now = time.monotonic()
        self._measured.append((now, self._ahead.computed))
        while len(self._measured) > 2 and self._measured[1][0] < now - _SECONDS_OF_RATE:
            self._measured.popleft()
        self._show(now)

    def _show(self, now: float) -> None:
        steps_done = self._steps_before + self._ahead.computed
        words = [] if self.loss is None else [f"loss {self.loss:.4f}"]
        rate = self.images_per_second
        if rate is not None:
            images_left = (self._steps - steps_done) * self._images_per_step
            speed = f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
            words += [f"{speed} images/s", f"{clock(images_left / rate)} left of the epoch"]
        self._bar.set_postfix_str(", ".join(words), refresh=False)
        self._bar.update(steps_done - self._bar.n)
        if self._prints_lines and now - self._last_line_time >= _SECONDS_BETWEEN_LINES:
            self._last_line_time = now
            log("  ".join([self._title, f"step {steps_done}/{self._steps}", *words]))


class _Unfailing(io.TextIOBase):
    """A text stream whose terminal may go away: tqdm keeps its lock if a write fails."""

    encoding = "ascii"  # tqdm draws the bar with it

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "ascii"

    def fileno(self) -> int:
        """Returns the terminal's number, of which tqdm asks the width."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes what can be written."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def clock(seconds: float) -> str:
    """Formats a duration as m:ss, or h:mm:ss from an hour on.

    >>> clock(75), clock(3661)
    ('1:15', '1:01:01')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _can_show_bar() -> bool:
    """Returns whether standard error can show a bar: pipes and files cannot."""
    if _is_notebook(sys.stderr):
        return True
    if sys.stderr is None or os.environ.get("TERM") == "dumb":
        return False
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # a stand-in, or closed
        return False


def _is_notebook(stream: object) -> bool:
    """Returns whether a stream leads to a notebook's page, on which a line may be drawn anew."""
    return type(stream).__module__.partition(".")[0] == "ipykernel"
