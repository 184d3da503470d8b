"""The composed sets: what an example of each is made of, drawn from real pictures.

An example is a dict of columns: images are uint8 arrays, the others are text, None where one is
missing. Articles are those of Fashion-MNIST (MIT), stamps those of Tux Paint (GPL-2 and other free
licences). What stands beside an image is measured on the pictures with an error, or was written by
others for another purpose; each function says which, and how unreliable it is.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from experiments import strategies_stamps as stamps
from tl_jax.data import splits
from tl_jax.data.sources import fashion_mnist
from tl_jax.data.sources.fashion_mnist import CLASS_NAMES
from tl_jax.data.sources.options import OpenOptions

Row = dict[str, Any]

COUNTS = {"train": 600, "validation": 120, "test": 400}
"""Examples of each split, where a set does not say otherwise."""
LONG_TAIL = {"train": 300, "validation": 60, "test": 400}
"""Articles of the most frequent class of `long_tail`."""
# No picture is in two splits.
_PARTS = {"train": "train[:80%]", "validation": "train[80%:]", "test": "test"}
_SIDE = 28


@dataclasses.dataclass(frozen=True)
class Packages:
    """Where the pictures come from: each a folder or a Debian package."""

    fashion: Path = fashion_mnist.INSTALLED
    stamps: Path = stamps.INSTALLED


class Articles:
    """The articles of a split in random order, each taken once at most."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Takes images uint8 [N, 28, 28] and their labels [N]."""
        self._images, self._labels = images, labels
        self._order = iter(rng.permutation(len(labels)).tolist())

    def take(self) -> tuple[np.ndarray, str]:
        """Returns the next article, uint8 [28, 28], and the name of its class."""
        index = next(self._order)
        return self._images[index], CLASS_NAMES[self._labels[index]]


def rows(name: str, seed: int, packages: Packages) -> Iterator[tuple[str, Row]]:
    """Yields the examples of a set, each with its split.

    Args:
      name: of the set, in `NAMES`.
      seed: of all that is random; another seed gives other examples of the same kind.
      packages: where the pictures come from.
    """
    if name == "multi_modal_text":
        yield from described_stamps(packages.stamps, seed)
        return
    for place, (split, part) in enumerate(_PARTS.items()):
        rng = np.random.default_rng([seed, place])
        source = fashion_mnist.open(str(packages.fashion), part, OpenOptions())
        articles = Articles(np.asarray(source.images), source.labels(), rng)
        if name == "long_tail":
            examples = long_tail(articles, split, np.random.default_rng(seed).permutation(10))
        else:
            examples = (COMPOSED[name](articles, rng) for _ in range(COUNTS[split]))
        for example in examples:
            yield split, example


def multi_label(articles: Articles, rng: np.random.Generator) -> Row:
    """Returns a picture of 64 pixels with one to four articles; the label is their classes.

    The articles have their own size and lie in different quarters of the picture.
    """
    canvas = np.zeros((64, 64), np.uint8)
    names = set()
    for quarter in rng.choice(4, rng.integers(1, 5), replace=False):
        article, name = articles.take()
        row, column = divmod(int(quarter), 2)
        top, left = 32 * row + rng.integers(0, 5), 32 * column + rng.integers(0, 5)
        canvas[top : top + _SIDE, left : left + _SIDE] = article
        names.add(name)
    return {"image": canvas, "articles": "|".join(sorted(names))}


def multi_view(articles: Articles, rng: np.random.Generator) -> Row:
    """Returns three close-ups of an article, each of a quarter of its area; the label is its class.

    The places are random, and each view is rotated by up to 20 degrees. Every view but the first is
    missing with a probability of 0.2.
    """
    article, name = articles.take()
    views = {f"view{i}": close_up(article, 14, 48, rng) for i in range(1, 4)}
    missing = [f"view{i}" for i in range(2, 4) if rng.random() < 0.2]
    return {**views, **dict.fromkeys(missing), "article": name}


def multi_scale(articles: Articles, rng: np.random.Generator) -> Row:
    """Returns a picture of 64 pixels with a large article and a small one; each class is a label.

    The large one is 40 pixels wide and lies in the corner, the small one, of 20 pixels, in the
    strip below or beside it.
    """
    canvas = np.zeros((64, 64), np.uint8)
    (large, large_name), (small, small_name) = articles.take(), articles.take()
    canvas[:40, :40] = resized(large, 40)
    across, along = rng.integers(41, 45), rng.integers(0, 45)
    top, left = (across, along) if rng.random() < 0.5 else (along, across)
    canvas[top : top + 20, left : left + 20] = resized(small, 20)
    return {"image": canvas, "large": large_name, "small": small_name}


def multi_modal_columns(articles: Articles, rng: np.random.Generator) -> Row:
    """Returns a poor picture of an article, cut to its outline, and what was measured on the whole.

    The picture is stretched to a square, so that the article's size and proportions are lost, its
    brightest pixel is made white, and its detail is reduced to 6 x 6 pixels. The columns
    `height`, `width` and `area` (in pixels) and `brightness` (mean of the pixels, 0 to 255) are
    measured on the original, times a random factor with a standard deviation of 0.05; each is
    missing with a probability of 0.1. The label is the class.
    """
    article, name = articles.take()
    places = outline(article)
    (top, left), (bottom, right) = places.min(0), places.max(0) + 1
    cut = article[top:bottom, left:right]
    white = np.clip(cut.astype(float) * 255 / cut.max(), 0, 255).astype(np.uint8)
    height, width = cut.shape
    measured = {"height": height, "width": width, "area": len(places), "brightness": cut.mean()}
    noisy = {key: f"{value * rng.normal(1, 0.05):.2f}" for key, value in measured.items()}
    hidden = [key for key in noisy if rng.random() < 0.1]
    poor = resized(resized(white, 6), 48)
    return {"image": poor, **noisy, **dict.fromkeys(hidden), "article": name}


def combined(articles: Articles, rng: np.random.Generator) -> Row:
    """Returns three photographs of a parcel with one to three articles, its weight and its box.

    In each photograph of 48 pixels the articles lie elsewhere, at a size between 12 and 32 pixels,
    one over the other, and a gray card of 16 pixels hides a part. `weight` is the sum of the
    articles' pixels, in thousands, `box` "small", "medium" or "large" by the area that they cover
    in pixels, each measured on the originals times a random factor with a standard deviation of
    0.1. Labels are the classes of the articles, and their number.
    """
    count = int(rng.integers(1, 4))
    contents = [articles.take() for _ in range(count)]
    weight = sum(article.sum() for article, _ in contents) / 1000 * rng.normal(1, 0.1)
    area = sum(len(outline(article)) for article, _ in contents) * rng.normal(1, 0.1)
    return {
        **{f"photo{i}": scattered([a for a, _ in contents], rng) for i in range(1, 4)},
        "weight": f"{weight:.2f}",
        "box": "small" if area < 450 else "medium" if area < 900 else "large",
        "articles": "|".join(sorted({name for _, name in contents})),
        "number": str(count),
    }


def scattered(articles: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Returns a picture of 48 pixels with the articles at random places, and a card over them."""
    canvas = np.zeros((48, 48), np.uint8)
    for article in articles:
        side = int(rng.integers(12, 33))
        top, left = rng.integers(0, 49 - side, 2)
        under = canvas[top : top + side, left : left + side]
        np.maximum(under, resized(article, side), out=under)
    top, left = rng.integers(0, 33, 2)
    canvas[top : top + 16, left : left + 16] = 128
    return canvas


def close_up(article: np.ndarray, side: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Returns a rotated, enlarged square of an article around a random one of its pixels."""
    y, x = rng.choice(outline(article))
    turned = Image.fromarray(article).rotate(
        float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, center=(int(x), int(y))
    )
    left, top = int(x) - side // 2, int(y) - side // 2
    # What lies outside is black, as the background.
    return resized(np.asarray(turned.crop((left, top, left + side, top + side))), size)


def outline(article: np.ndarray) -> np.ndarray:
    """Returns the places of an article's pixels that are not background, int64 [N, 2]."""
    return np.argwhere(article >= max(1, article.max() // 8))


def resized(image: np.ndarray, side: int) -> np.ndarray:
    """Returns a gray picture, stretched to a square."""
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def long_tail(articles: Articles, split: str, order: np.ndarray) -> Iterator[Row]:
    """Yields single articles, 300 of the most frequent class and 6 of the rarest for training.

    The numbers fall from class to class by one factor; which class is frequent is random. The
    other splits have the same proportions.
    """
    counts = np.maximum(1, np.round(LONG_TAIL[split] * 50 ** -(np.arange(10) / 9))).astype(int)
    wanted = {CLASS_NAMES[label]: n for label, n in zip(order, counts.tolist(), strict=True)}
    while any(wanted.values()):
        article, name = articles.take()
        if wanted[name]:
            wanted[name] -= 1
            yield {"image": article, "article": name}


def described_stamps(source: Path, seed: int) -> Iterator[tuple[str, Row]]:
    """Yields stamps as thumbnails of 8 pixels, each with the sentence that is shown with it.

    The label is the folder of the stamp: animals, food, symbols and so on, for folders of 20
    stamps or more. Tux Paint shows the sentence to its users ("A walnut.", "The letter q."); most
    of its words occur once. Where there is none, or with a probability of 0.1, it is missing.
    """
    rng = np.random.default_rng(seed)
    files = stamps.read_files(source, (".png", ".txt"))
    by_class: dict[str, list[str]] = {}
    for name in sorted(name for name in files if name.endswith(".png")):
        by_class.setdefault(PurePosixPath(name).parts[0], []).append(name)
    shares = {"train": 0.6, "validation": 0.1, "test": 0.3}
    for label, names in by_class.items():
        if len(names) < stamps.MIN_COUNT:
            continue
        parts = splits.partition(names, shares=list(shares.values()), seed=seed)
        for split, part in zip(shares, parts, strict=True):
            for name in part:
                with Image.open(io.BytesIO(files[name])) as image:
                    small = stamps.on_white(image).resize((8, 8), Image.Resampling.BICUBIC)
                sentence = files.get(f"{name.removesuffix('.png')}.txt", b"").decode()
                text = sentence.strip().partition("\n")[0] or None
                picture = np.asarray(small.resize((64, 64), Image.Resampling.BICUBIC))
                hidden = rng.random() < 0.1
                yield split, {"image": picture, "text": None if hidden else text, "folder": label}


COMPOSED: dict[str, Callable[[Articles, np.random.Generator], Row]] = {
    "multi_label": multi_label,
    "multi_view": multi_view,
    "multi_scale": multi_scale,
    "multi_modal_columns": multi_modal_columns,
    "combined": combined,
}
NAMES = (*COMPOSED, "multi_modal_text", "long_tail")
