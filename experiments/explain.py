"""Measures whether explanations of a pretrained network find what carries the class.

    python -m experiments.explain [--network tf_efficientnet_lite0] [--results FOLDER]

Photographs of scikit-image that the network is sure of are put into one quadrant of an image whose
other three hold textures, so that this quadrant alone carries the class. For each method it states
the share of the map in that quadrant, with the network's weights and with random ones; the areas of
insertion and deletion on the photographs themselves; and how far maps of the photographs keep
their order when the network is randomised from its head down. Two controls that do not look at the
network, the edges of the image and noise, are measured like the methods. It writes `explain.json`,
`explain.md` and `explain.png`, and takes some ten minutes on two cores.
"""

import argparse
import dataclasses
import functools
import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from matplotlib.figure import Figure
from PIL import Image
from skimage import data

import tl_jax
from tl_jax import files
from tl_jax.data.preprocess import NetworkInput, Preprocess, eval_image, normalize
from tl_jax.explanations import faithfulness, overlay, randomisation
from tl_jax.explanations.cam import GradCAM, GradCAMPlusPlus, HiResCAM
from tl_jax.explanations.gradients import IntegratedGradients, Saliency, SmoothGrad
from tl_jax.explanations.method import Method, maps_of
from tl_jax.explanations.occlusion import Occlusion
from tl_jax.explanations.target import Target, images_of
from tl_jax.models.model import Model
from tl_jax.weights.classes import class_names

RESULTS = Path("experiments/results/explain")
PHOTOGRAPHS = ("chelsea", "coffee", "rocket")
TEXTURES = ("brick", "grass", "gravel")
SURE = 0.3
_BATCH = 4  # One for each quadrant; all programs are compiled for this many images.


@dataclasses.dataclass(frozen=True)
class Edges(Method):
    """A control: the edges of the image, whatever the network."""

    name: ClassVar[str] = "edges"
    title: ClassVar[str] = "edges (control)"

    def __call__(
        self, model: Model, variables: Mapping[str, Any], inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:  # fmt: skip
        """As in `Method`."""
        gray = images_of(inputs).mean(-1)
        return jnp.hypot(jnp.gradient(gray, axis=-1), jnp.gradient(gray, axis=-2))


@dataclasses.dataclass(frozen=True)
class Noise(Method):
    """A control: random numbers, whatever the network."""

    name: ClassVar[str] = "noise"
    title: ClassVar[str] = "noise (control)"

    def __call__(
        self, model: Model, variables: Mapping[str, Any], inputs: NetworkInput,
        target: Target | ArrayLike,
    ) -> jax.Array:  # fmt: skip
        """As in `Method`."""
        return jax.random.uniform(jax.random.key(5), images_of(inputs).shape[:-1])


@dataclasses.dataclass(frozen=True)
class Subject:
    """A photograph that the network is sure of."""

    name: str
    pixels: np.ndarray
    index: int
    class_name: str
    probability: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    results, figure = measure(arguments.network)
    arguments.results.mkdir(parents=True, exist_ok=True)
    files.write_text(arguments.results / "explain.json", files.json_text(results, indent=2) + "\n")
    table = markdown(results)
    files.write_text(arguments.results / "explain.md", table)
    save(figure, arguments.results / "explain.png")
    print(table)


def measure(network: str) -> tuple[dict[str, Any], Figure]:
    """Returns all numbers, and the picture of one composed image of each photograph."""
    model, variables = tl_jax.load_pretrained(network)
    stages = tl_jax.architecture(network).stages
    transform = Preprocess.of(tl_jax.pretrained_config(network))
    outputs_fn = jax.jit(lambda images: model.apply(variables, images, train=False))
    subjects = sure_subjects(outputs_fn, transform, class_names(network) or ())
    composed, quadrants = compose(subjects, transform)
    photographs = np.stack([subject.pixels for subject in subjects])
    photographs = np.concatenate([photographs, photographs[:, :, ::-1]])[:_BATCH]
    index = np.resize([subject.index for subject in subjects], _BATCH)
    inputs = normalize(photographs, transform.mean, transform.std)
    random = randomisation.randomised(jax.random.key(0), model, variables, inputs)
    target = Target(jnp.asarray(index))
    curves_fn = jax.jit(
        lambda maps: faithfulness.curves(model, variables, inputs, target, maps, steps=12)
    )
    measured, pictures = dict[str, Any](), dict[str, list[np.ndarray]]()
    for method in methods(stages[-1]):
        explain = functools.partial(maps_of, model=model, method=method)
        start = time.monotonic()
        shares, drawn = localise(
            explain, (variables, random), subjects, composed, quadrants, transform
        )
        pictures[method.name] = drawn
        curves = curves_fn(explain(variables, inputs, target))
        cascade = randomisation.cascade(
            jax.random.key(1), model, variables, inputs, target, method, stages=stages[2::2]
        )
        correlations = np.asarray(cascade.correlations).mean(1).tolist()
        measured[method.name] = {
            "title": method.title,
            "share": float(np.mean(shares[0])),
            "share_by_image": shares[0],
            "share_of_random_weights": float(np.mean(shares[1])),
            "insertion": float(np.mean(curves.insertion_area)),
            "deletion": float(np.mean(curves.deletion_area)),
            "rank_correlation": dict(zip(cascade.parts, correlations, strict=True)),
        }
        print(f"{method.name}: {time.monotonic() - start:.0f} s", flush=True)
    with_it, without = carried(outputs_fn, subjects, composed, quadrants, transform)
    results = {
        "network": network,
        "subjects": [
            {"photograph": s.name, "class": s.class_name, "probability": s.probability}
            for s in subjects
        ],
        "composed_images": len(composed),
        "probability_in_composed": with_it,
        "probability_without_quadrant": without,
        "methods": measured,
    }
    return results, draw(composed, subjects, pictures)


def methods(stage: str) -> list[Method]:
    """Returns the methods that are measured, and the controls."""
    cams = [GradCAM(stage), GradCAMPlusPlus(stage), HiResCAM(stage)]
    others = [Saliency(), SmoothGrad(8), IntegratedGradients(8), Occlusion(32, 32)]
    return [*cams, *others, Edges(), Noise()]


def sure_subjects(outputs_fn: Any, transform: Preprocess, names: Sequence[str]) -> list[Subject]:
    """Returns the photographs of which the network is sure, with the classes it sees in them."""
    pixels = [eval_image(getattr(data, name)(), transform) for name in PHOTOGRAPHS]
    images = normalize(np.stack(pixels), transform.mean, transform.std)
    probabilities = np.asarray(jax.nn.softmax(outputs_fn(images)))
    found = [
        Subject(name, image, int(row.argmax()), names[int(row.argmax())], float(row.max()))
        for name, image, row in zip(PHOTOGRAPHS, pixels, probabilities, strict=True)
    ]
    return [subject for subject in found if subject.probability >= SURE]


def compose(subjects: Sequence[Subject], transform: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Returns images uint8 [4 * subjects, H, W, 3], and the quadrant of each, bool [.., H, W]."""
    height, width = transform.size
    half = dataclasses.replace(transform, size=(height // 2, width // 2), crop_pct=1.0)
    fillers = [eval_image(getattr(data, name)(), half) for name in TEXTURES]
    images, quadrants = [], []
    for number, subject in enumerate(subjects):
        picture = eval_image(getattr(data, subject.name)(), half)
        for place in range(4):
            others = [fillers[(number + place + i) % len(fillers)] for i in range(3)]
            tiles = [*others[:place], picture, *others[place:]]
            rows = [np.concatenate(tiles[i : i + 2], axis=1) for i in (0, 2)]
            images.append(np.concatenate(rows))
            inside = np.zeros((2, 2), bool)
            inside[divmod(place, 2)] = True
            quadrants.append(np.kron(inside, np.ones((height // 2, width // 2), bool)))
    return np.stack(images), np.stack(quadrants)


def localise(
    explain: Any,
    both: Sequence[Any],
    subjects: Sequence[Subject],
    composed: np.ndarray,
    quadrants: np.ndarray,
    transform: Preprocess,
) -> tuple[list[list[float]], list[np.ndarray]]:
    """Returns the shares of the maps in the quadrants by weights, and each subject's first maps."""
    shares: list[list[float]] = [[] for _ in both]
    drawn = []
    for number, subject in enumerate(subjects):
        part = slice(4 * number, 4 * number + 4)
        inputs = normalize(composed[part], transform.mean, transform.std)
        target = Target(jnp.full(4, subject.index))
        for found, variables in zip(shares, both, strict=True):
            maps = explain(variables, inputs, target)
            found += np.asarray(faithfulness.share_in(maps, quadrants[part])).tolist()
            drawn.append(np.asarray(maps)[number % 4])
    return shares, drawn


def carried(
    outputs_fn: Any,
    subjects: Sequence[Subject],
    composed: np.ndarray,
    quadrants: np.ndarray,
    transform: Preprocess,
) -> tuple[float, float]:
    """Returns the mean probability of the classes in the composed images, and without quadrants."""
    index = np.repeat([subject.index for subject in subjects], 4)
    found = []
    for hides in (False, True):
        images = normalize(composed, transform.mean, transform.std)
        images = jnp.where(quadrants[..., None], 0, images) if hides else images
        parts = jnp.split(images, len(subjects))
        probabilities = jnp.concatenate([jax.nn.softmax(outputs_fn(part)) for part in parts])
        found.append(float(probabilities[jnp.arange(len(index)), index].mean()))
    return found[0], found[1]


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the table of all methods."""
    head = (
        "| method | share in the quadrant | random weights | insertion | deletion "
        "| head random | all random |\n|---|---|---|---|---|---|---|\n"
    )
    rows = ""
    for row in results["methods"].values():
        correlations = list(row["rank_correlation"].values())
        numbers = [row["share"], row["share_of_random_weights"], row["insertion"], row["deletion"]]
        numbers += [correlations[0], correlations[-1]]
        rows += f"| {row['title']} | " + " | ".join(f"{x:.2f}" for x in numbers) + " |\n"
    seen = ", ".join(
        f"{s['photograph']} ({s['class']} {s['probability']:.0%})" for s in results["subjects"]
    )
    return (
        f"# Explanations of {results['network']}\n\nPhotographs: {seen}. In the "
        f"{results['composed_images']} composed images the class has a mean probability of "
        f"{results['probability_in_composed']:.2f}, and of "
        f"{results['probability_without_quadrant']:.3f} with the quadrant painted over. A map that "
        "says nothing has a quarter of itself in the quadrant.\n\n"
        f"{head}{rows}\n"
        "Insertion and deletion are areas on the photographs: high and low is good. The last two "
        "columns are rank correlations of the maps with those of the network whose head, or all of "
        "it, is random: a map that stays near 1 does not show what the network has learned.\n"
    )


def draw(
    composed: np.ndarray, subjects: Sequence[Subject], pictures: Mapping[str, Sequence[np.ndarray]]
) -> Figure:
    """Draws an image of each photograph: its maps, and below them those of random weights."""
    listed = {method.name: method for method in methods("")}
    rows, columns = 2 * len(subjects), 1 + len(pictures)
    figure = Figure(figsize=(1.75 * columns, 1.85 * rows), layout="constrained")
    axes = figure.subplots(rows, columns)
    for row in range(rows):
        image = composed[4 * (row // 2) + (row // 2) % 4]
        axes[row, 0].imshow(image)
        axes[row, 0].set_ylabel("random weights" if row % 2 else subjects[row // 2].class_name)
        for column, (name, maps) in enumerate(pictures.items(), start=1):
            blended = overlay.blended(image, maps[row], is_signed=listed[name].is_signed)
            axes[row, column].imshow(blended)
            if row == 0:
                axes[row, column].set_title(listed[name].title, fontsize=9)
    for each in axes.ravel():
        each.set(xticks=[], yticks=[])
        each.spines[:].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes a picture in 256 colours: maps of pixels are noise, which PNG hardly compresses."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=70, format="png")
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()
