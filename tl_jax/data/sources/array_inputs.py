"""Checks the further inputs of examples in memory: as many as there are examples, all finite."""

import dataclasses

import numpy as np

from tl_jax import messages
from tl_jax.data.inputs import Columns


def check_columns(columns: Columns, count: int, *, name: str) -> Columns:
    """Returns the columns with numbers as float32 and names as text.

    Args:
      columns: the columns as they were given.
      count: number of examples.
      name: what messages call the source.

    Raises:
      ValueError: if a column has another length or type, holds infinity, or a vector is NaN in
        part.
    """
    numeric = {}
    for key, given in columns.numeric.items():
        numeric[key] = _finite(given, (count,), f"column {key!r} of {name}")
    categorical = {
        key: [None if each is None or each != each else str(each) for each in values]
        for key, values in columns.categorical.items()
    }
    texts = {**categorical, **({} if columns.text is None else {"text": columns.text})}
    for key, values in texts.items():
        if len(values) != count:
            raise ValueError(
                f"got {len(values)} values of {key!r} for {count} images in {name}; expected one "
                "for each, None where it is missing"
            )
    wrong = [row for row, text in enumerate(columns.text or ()) if not isinstance(text, str | None)]
    if wrong:
        raise ValueError(
            f"text {wrong[0]} of {name} is {(columns.text or ())[wrong[0]]!r}; expected a string, "
            "or None where it is missing"
        )
    vector = columns.vector
    if vector is not None:
        vector = np.asarray(vector)
        shape = (count, vector.shape[-1] if vector.ndim == 2 else 1)
        vector = _finite(vector, shape, f"the vectors of {name}")
        is_nan = np.isnan(vector)
        partly = np.flatnonzero(is_nan.any(axis=1) & ~is_nan.all(axis=1))
        if len(partly):
            raise ValueError(
                f"NaN in a part of the vectors {messages.some([*map(str, partly)], quoted=False)} "
                f"of {name}; expected a whole row of NaN where a vector is missing"
            )
    return dataclasses.replace(columns, numeric=numeric, categorical=categorical, vector=vector)


def _finite(given: object, shape: tuple[int, ...], place: str) -> np.ndarray:
    """Returns numbers as float32, of which none is infinite."""
    values = np.asarray(given)
    if values.shape != shape or values.dtype.kind not in "biuf":
        raise ValueError(
            f"got {values.dtype}{list(values.shape)} in {place}; expected numbers {list(shape)}, "
            "NaN where one is missing"
        )
    numbers = values.astype(np.float32)
    infinite = np.flatnonzero(np.isinf(numbers.reshape(len(numbers), -1)).any(axis=1))
    if len(infinite):
        rows = messages.some([str(row) for row in infinite], quoted=False)
        raise ValueError(
            f"got infinity in the rows {rows} of {place}; expected finite numbers, NaN where one "
            "is missing"
        )
    return numbers
