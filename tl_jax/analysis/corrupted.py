"""Sources whose images are corrupted: prepared for the network first, and then changed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from tl_jax.analysis.corruptions import corrupt
from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.source import Example, Source
from tl_jax.data.subset import Selection

_MEMORY = 2 * 2**30  # Bytes of prepared images that are kept, so that they are decoded once.


class Prepared(Selection):
    """Some examples whose images are resized and cropped as the network takes them, uint8."""

    def __init__(self, source: Source, indices: np.ndarray, preprocess: Preprocess) -> None:
        """Reads nothing yet; images are kept as they are read, if all of them fit in memory."""
        super().__init__(source, source.split, indices.tolist())
        self._preprocess = preprocess
        pixels = preprocess.size[0] * preprocess.size[1] * preprocess.channels
        self._keeps = len(indices) * pixels * max(1, source.inputs.views) <= _MEMORY
        self._kept: dict[int, Example] = {}

    def __getitem__(self, index: int) -> Example:
        """Reads an example, or returns the one that was kept."""
        if index in self._kept:
            return dict(self._kept[index])
        example = super().__getitem__(index)
        prepared = _changed(example, lambda image, _: eval_image(image, self._preprocess))
        if self._keeps:
            self._kept[index] = prepared
        return dict(prepared)

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """Returns None: prepared images are no files."""
        del index
        return None

    def encoded_views(self, index: int) -> None:
        """Returns None: prepared images are no files."""
        del index


class Corrupted(Selection):
    """The examples of a prepared source with one corruption at one severity.

    The noise of an example depends on the seed and its place alone, so that runs that are compared
    see the same.
    """

    def __init__(self, source: Prepared, name: str, severity: int, *, seed: int = 0) -> None:
        """Reads nothing yet; the split is named after the corruption."""
        super().__init__(source, f"{source.split} {name} {severity}", range(len(source)))
        self._corruption, self._severity, self._seed = name, severity, seed

    def __getitem__(self, index: int) -> Example:
        """Reads and corrupts one example; its views have noise of their own."""

        def corrupted(image: np.ndarray, view: int) -> np.ndarray:
            seed = (self._seed, index, view)
            return corrupt(image, self._corruption, self._severity, seed=seed)

        return _changed(super().__getitem__(index), corrupted)

    def encoded(self, index: int) -> tuple[bytes, Example] | None:
        """Returns None: corrupted images are no files."""
        del index
        return None

    def encoded_views(self, index: int) -> None:
        """Returns None: corrupted images are no files."""
        del index


def as_prepared(preprocess: Preprocess) -> Preprocess:
    """Returns the transform for images that were prepared already: it changes no pixel."""
    return dataclasses.replace(preprocess, crop_pct=1.0, crop_mode="squash", value_range=None)


def _changed(example: Example, change: Callable[[Any, int], np.ndarray]) -> Example:
    """Returns an example whose image, or whose views, are changed."""
    image = example["image"]
    if isinstance(image, np.ndarray) and image.ndim == 3:
        return {**example, "image": change(image, 0)}
    if isinstance(image, list | tuple) or (isinstance(image, np.ndarray) and image.ndim == 4):
        views = [None if view is None else change(view, n) for n, view in enumerate(image)]
        return {**example, "image": views}
    return {**example, "image": change(image, 0)}
