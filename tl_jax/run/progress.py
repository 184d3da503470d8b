"""Progress of an epoch: a bar in a terminal, plain lines elsewhere."""

import contextlib
import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 15.0


class Progress(contextlib.AbstractContextManager):
    """Shows steps done, loss, images a second and the time left of one epoch.

    Use as a context manager and call `update` after each step. In a terminal it is a bar on
    standard error; otherwise a line every 15 seconds.
    """

    def __init__(self, title: str, *, steps: int, images_per_step: int, enabled: bool = True):
        """Begins an epoch of `steps` steps.

        Args:
          title: such as "epoch 3/8".
          steps: steps of the epoch.
          images_per_step: global batch size.
          enabled: False shows nothing (all processes but the first).
        """
        self._title, self._steps, self._images = title, steps, images_per_step
        self._plain = enabled and not sys.stderr.isatty()
        self._done, self._loss = 0, "..."
        self._begun = self._line_at = time.monotonic()
        self._bar = tqdm(
            total=steps, desc=title, unit="step", disable=not enabled or self._plain, leave=False
        )

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def update(self, loss: float | None = None) -> None:
        """Counts one step; `loss` is shown until the next one is given."""
        self._done += 1
        self._loss = self._loss if loss is None else f"{loss:.4f}"
        self._bar.set_postfix_str(
            f"loss {self._loss}, {self.images_per_second:.0f} images/s", refresh=False
        )
        self._bar.update()
        if self._plain and time.monotonic() - self._line_at >= _SECONDS_BETWEEN_LINES:
            self._line_at = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    @property
    def images_per_second(self) -> float:
        """Mean rate since the epoch began, compilation included."""
        return self._done * self._images / max(time.monotonic() - self._begun, 1e-9)

    def _line(self) -> str:
        left = (self._steps - self._done) * self._images / self.images_per_second
        return (
            f"{self._title}  step {self._done}/{self._steps}  loss {self._loss}  "
            f"{self.images_per_second:.0f} images/s  {clock(left)} left"
        )


def clock(seconds: float) -> str:
    """Formats a duration as m:ss, or h:mm:ss from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
