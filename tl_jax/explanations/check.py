"""Checks on images how far the explanations of a run or a network are true of it."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tl_jax import trees
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import NetworkInput
from tl_jax.data.source import Source
from tl_jax.evaluation.prediction_batches import ByTask
from tl_jax.evaluation.prediction_inputs import Arrays
from tl_jax.evaluation.prediction_source import Part
from tl_jax.explanations import faithfulness, randomisation
from tl_jax.explanations.explain import Explainer, Methods, find_target, find_task
from tl_jax.explanations.methods import resolve
from tl_jax.explanations.target import Target
from tl_jax.models.model import Model


@dataclasses.dataclass(frozen=True)
class Check:
    """How far the maps of a method are true of a network, means over the images.

    Attributes:
      insertion: area of the curve, as in `tl_jax.explanations.faithfulness.Curves`; high is good.
      deletion: the same; low is good.
      correlations: by part, from the head down, the rank correlation of the maps with those of the
        network of which this part and all above it are random; near 1 to the end is bad.
    """

    insertion: float
    deletion: float
    correlations: Mapping[str, float]


def check(
    explainer: Explainer,
    images: ImageLike | Iterable[Any] | None = None,
    *,
    method: Methods = "grad_cam",
    task: str | None = None,
    target: str | int | None = None,
    stage: str | None = None,
    source: str | Source | None = None,
    split: str | None = None,
    image_column: str | Sequence[str] | None = None,
    group: str | None = None,
    seed: int = 0,
) -> dict[str, Check]:
    """Measures insertion, deletion and the sanity check of methods on images.

    Args:
      explainer: of the network.
      images, method, task, target, stage, source, split, image_column, group: as in
        `tl_jax.explain`.
      seed: of the random weights.

    Returns:
      The check of each method, by its name.

    Raises:
      ValueError, FileNotFoundError, TypeError: as `tl_jax.explain`.
    """
    methods = resolve(method, stage, explainer.stages)
    chosen = find_task(explainer.tasks, task)
    index, parts = find_target(chosen, target), list[str]()

    def compute(batch: Arrays) -> ByTask:
        inputs, explained, _, _ = explainer.targets(batch, chosen, index)
        model, variables, found = explainer.model, explainer.variables, dict[str, Any]()
        for each in methods:
            maps = explainer.maps(inputs, explained, each)
            insertion, deletion = _areas(variables, inputs, explained, maps, model=model)
            cascade = randomisation.cascade(
                jax.random.key(seed), model, variables, inputs, explained, each,
                stages=explainer.stages,
            )  # fmt: skip
            parts[:] = cascade.parts
            found[each.name] = {
                "insertion": insertion,
                "deletion": deletion,
                "correlations": cascade.correlations.T,
            }
        return found

    examples = explainer.predictor.examples(images, source, Part(split, image_column, group))
    rows = [arrays for _, arrays in explainer.rows(examples, compute)]
    checks = {}
    for each in methods:
        means = {
            name: np.mean([row[each.name][name] for row in rows], axis=0)
            for name in ("insertion", "deletion", "correlations")
        }
        correlations = dict(zip(parts, means["correlations"].tolist(), strict=True))
        checks[each.name] = Check(float(means["insertion"]), float(means["deletion"]), correlations)
    return checks


@functools.partial(jax.jit, static_argnames="model")
def _areas(
    variables: trees.Tree, inputs: NetworkInput, target: Target, maps: jax.Array, *, model: Model
) -> tuple[jax.Array, jax.Array]:
    """Returns the areas of insertion and deletion, float32 [B]."""
    curves = faithfulness.curves(model, variables, inputs, target, maps)
    return curves.insertion_area, curves.deletion_area
