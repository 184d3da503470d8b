"""The weights of examples' losses, as the sources read them: finite numbers, 0 or more."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tl_jax import messages


def checked_weights(
    given: Any, *, name: str, count: int, place: Callable[[int], str] | None = None
) -> np.ndarray:
    """Returns weights as float32 [count].

    Args:
      given: the weights, numbers.
      name: what messages call them.
      count: number of examples.
      place: returns what messages call an example; the default is "row INDEX", from 0.

    Raises:
      ValueError: if there is not one for each example, or some are missing, negative or not finite
        (these are listed), or all are 0.

    Examples:
      >>> checked_weights([1, 0.5], name="certainty", count=2).tolist()
      [1.0, 0.5]
    """
    values = np.asarray(given)
    if values.shape != (count,) or values.dtype.kind not in "biuf":
        raise ValueError(
            f"got {values.dtype}{list(values.shape)} as {name}; expected a number for each of the "
            f"{count} examples"
        )
    weights = values.astype(np.float32)
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        called = place or (lambda row: f"row {row}")
        raise ValueError(
            messages.report(
                f"{len(wrong)} of {name} are no weights:",
                [f"{called(int(row))}: got {_shown(values[row])}" for row in wrong],
                "expected a finite number, 0 or more, for each training example",
            )
        )
    if not weights.any():
        raise ValueError(f"all {count} of {name} are 0, which trains nothing; expected some above")
    return weights


def _shown(value: Any) -> str:
    return "no number" if np.isnan(value) else f"{value:g}"
