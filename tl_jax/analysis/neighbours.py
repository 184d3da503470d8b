"""Nearest neighbours in feature space, and images that two splits share up to small changes."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from tl_jax.data.source import Example, Source

_SIMILARITIES_AT_ONCE = 2**24  # 64 MB.
_SIDE = 64  # Of the thumbnails whose pixels are compared.
_SMALL = 16  # Side of those by which pairs are proposed.
_AVERAGED = 500  # Images whose mean is what images of the set have in common.
SAME = 0.99
"""The correlation of details from which on two images are called near-duplicates."""

# What a copy may have been turned by: rotations by quarters, mirrored or not.
_MOVES = tuple((turns, mirrored) for mirrored in (False, True) for turns in range(4))


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The most similar examples of another split, the nearest first.

    Attributes:
      indices: int [N, k].
      similarities: cosines of the features, float32 [N, k].
    """

    indices: np.ndarray
    similarities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Two images of two splits that are the same up to small changes.

    Attributes:
      index: place in the first split.
      other: place in the second split.
      similarity: cosine of their features; None if these are not among the nearest.
      correlation: of their details, 1 for images that are equal up to brightness and contrast.
      moved: how the second is turned: "", "mirrored", "rotated" or "mirrored and rotated".
    """

    index: int
    other: int
    similarity: float | None
    correlation: float
    moved: str


def nearest(features: np.ndarray, others: np.ndarray, k: int) -> Neighbours:
    """Finds the most similar rows of other features, by cosine.

    Args:
      features: [N, D].
      others: [M, D]; to be searched.
      k: how many, at most M.

    Examples:
      >>> nearest(np.eye(2), np.array([[1.0, 0.1], [0, 2], [1, 1]]), 2).indices.tolist()
      [[0, 2], [1, 2]]
    """
    if not 1 <= k <= len(others):
        raise ValueError(f"got k={k}; expected 1 to {len(others)}, the examples to search")
    units, step = unit(others), max(1, _SIMILARITIES_AT_ONCE // len(others))
    indices = np.empty((len(features), k), np.int64)
    similarities = np.empty((len(features), k), np.float32)
    for start in range(0, len(features), step):
        found = unit(features[start : start + step]) @ units.T
        chosen = np.argpartition(-found, k - 1, axis=1)[:, :k]
        values = np.take_along_axis(found, chosen, 1)
        order = np.argsort(-values, axis=1, kind="stable")
        indices[start : start + step] = np.take_along_axis(chosen, order, 1)
        similarities[start : start + step] = np.take_along_axis(values, order, 1)
    return Neighbours(indices, similarities)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to length 1, in float32; zeros stay zeros."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def duplicates(
    source: Source, other: Source, found: Neighbours, *, same: float = SAME
) -> list[Duplicate]:
    """Returns the pairs of images of two splits that are the same up to small changes.

    Pairs are proposed by features, and by small thumbnails of 16 x 16 in eight rotations and mirror
    images; thumbnails of 64 x 64 decide. What the images of the second split have in common (their
    mean) is taken away first. Copies that were compressed, resized, brightened, rotated by quarters
    or mirrored are found; one that was cropped may not be. Of objects of several images the first
    ones are compared.

    Args:
      source: the first split, whose examples the rows of `found` are.
      other: the second split.
      found: neighbours in `other` of each example.
      same: the least correlation of a pair that is returned.

    Returns:
      The pairs, the most correlated first, one for each example of `source` at most.
    """
    common = _mean_thumbnail(other)
    proposed = np.concatenate([found.indices, _alike(source, other, common)], axis=1)
    needed = np.unique(proposed).tolist()
    second = {index: _details(_moves(_thumbnail(other[index])), common) for index in needed}
    pairs = []
    for index, row in enumerate(proposed.tolist()):
        [first] = _details([_thumbnail(source[index])], common)
        scores = np.stack([second[candidate] @ first for candidate in row])
        place, move = np.unravel_index(scores.argmax(), scores.shape)
        if scores[place, move] >= same:
            turns, mirrored = _MOVES[move]
            words = ["mirrored"] * mirrored + ["rotated"] * bool(turns)
            known = dict(zip(found.indices[index].tolist(), found.similarities[index], strict=True))
            similarity = float(known[row[place]]) if row[place] in known else None
            score = float(scores[place, move])
            pairs.append(Duplicate(index, row[place], similarity, score, " and ".join(words)))
    return sorted(pairs, key=lambda pair: -pair.correlation)


def first_image(image: np.ndarray | Sequence[np.ndarray | None]) -> np.ndarray:
    """Returns the image of an example, uint8 [H, W, 3]; of several views the first there is."""
    if isinstance(image, np.ndarray) and image.ndim == 3:
        return image
    return next(view for view in image if view is not None)


def _thumbnail(example: Example) -> np.ndarray:
    """Returns gray pixels [64, 64] with mean 0 and variance 1; zeros of an image of one colour."""
    small = Image.fromarray(first_image(example["image"])).convert("L").resize((_SIDE, _SIDE))
    pixels = np.asarray(small, np.float32)
    return (pixels - pixels.mean()) / max(float(pixels.std()), 1e-6)


def _alike(source: Source, other: Source, common: np.ndarray) -> np.ndarray:
    """Returns the example of another split that is most like each one, in each turn: [N, 8]."""
    small = _small(common)
    searched = np.stack([_small(_thumbnail(other[i])) - small for i in range(len(other))])
    searched = searched.reshape(len(other), -1)
    thumbnails = [_small(_thumbnail(source[i])) for i in range(len(source))]
    turned = np.stack([np.stack(list(_moves(each))) - small for each in thumbnails], axis=1)
    rows = [nearest(of_move.reshape(len(source), -1), searched, 1) for of_move in turned]
    return np.concatenate([row.indices for row in rows], axis=1)


def _small(thumbnail: np.ndarray) -> np.ndarray:
    """Returns the means of squares of a thumbnail, [16, 16]."""
    squares = thumbnail.reshape(_SMALL, _SIDE // _SMALL, _SMALL, _SIDE // _SMALL)
    return np.asarray(squares.mean((1, 3)))


def _mean_thumbnail(source: Source) -> np.ndarray:
    """Returns the mean thumbnail of an even selection of a split."""
    places = np.unique(np.linspace(0, len(source) - 1, min(len(source), _AVERAGED)).astype(int))
    return np.mean([_thumbnail(source[index]) for index in places.tolist()], axis=0)


def _details(thumbnails: Iterable[np.ndarray], common: np.ndarray) -> np.ndarray:
    """Returns what tells thumbnails from the others of their set, rows of length 1."""
    return unit(np.stack([(each - common).ravel() for each in thumbnails]))


def _moves(thumbnail: np.ndarray) -> Iterator[np.ndarray]:
    for turns, mirrored in _MOVES:
        yield np.rot90(thumbnail[:, ::-1] if mirrored else thumbnail, turns)
