"""Progress of a run on standard error: log lines, and a bar for each epoch."""

import sys
import time
from typing import Self

import jax
from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


def log(text: str) -> None:
    """Prints a line on standard error, on the first process."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


class Progress:
    """Shows steps done, loss, images a second and the time left of one epoch.

    Use as a context manager and call `update` after each step. In a terminal it is a bar on
    standard error; otherwise a line every 15 seconds.
    """

    def __init__(
        self, title: str, *, steps: int, images_per_step: int, enabled: bool = True
    ) -> None:
        """Begins an epoch of `steps` steps.

        Args:
          title: such as "epoch 3/8".
          steps: steps of the epoch.
          images_per_step: global batch size.
          enabled: whether to show anything; False on all processes but the first.
        """
        self._title, self._steps, self._images_per_step = title, steps, images_per_step
        self._prints_lines = enabled and not sys.stderr.isatty()
        self._steps_done, self._loss = 0, "..."
        self._start_time = self._last_line_time = time.monotonic()
        self._bar = tqdm(
            total=steps,
            desc=title,
            unit="step",
            disable=not enabled or self._prints_lines,
            leave=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, loss: float | None = None) -> None:
        """Counts one step; a given `loss` is shown until the next one is given."""
        self._steps_done += 1
        self._loss = self._loss if loss is None else f"{loss:.4f}"
        speed = f"{self.images_per_second:.0f} images/s"
        self._bar.set_postfix_str(f"loss {self._loss}, {speed}", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._prints_lines and now - self._last_line_time >= _SECONDS_BETWEEN_LINES:
            self._last_line_time = now
            images_left = (self._steps - self._steps_done) * self._images_per_step
            print(
                f"{self._title}  step {self._steps_done}/{self._steps}  loss {self._loss}  "
                f"{speed}  {clock(images_left / self.images_per_second)} left",
                file=sys.stderr,
                flush=True,
            )

    @property
    def images_per_second(self) -> float:
        """Mean rate since the epoch began, compilation included."""
        seconds = max(time.monotonic() - self._start_time, 1e-9)
        return self._steps_done * self._images_per_step / seconds


def clock(seconds: float) -> str:
    """Formats a duration as m:ss, or h:mm:ss from an hour on.

    >>> clock(75), clock(3661)
    ('1:15', '1:01:01')
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
