"""Predicts the classes of images, with a trained run or with pretrained weights alone."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import Preprocess, preprocess
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.models.pretrained import load_pretrained
from tl_jax.run.folder import is_run, load_run
from tl_jax.weights import classes
from tl_jax.weights.index import pretrained_config

_BATCH = 32


def predict(
    run_or_model: str | Path,
    images: Sequence[ImageLike],
    *,
    weights: str | None = None,
    top: int = 5,
    views: Views = ONE_VIEW,
) -> list[list[tuple[str, float]]]:
    """Returns the most probable classes of each image.

    Args:
      run_or_model: folder of a trained run, or timm's name of a pretrained network.
      images: paths, PIL images or uint8 arrays, of any size.
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      top: how many classes.
      views: of each image, over which the network's outputs are averaged.

    Returns:
      For each image its classes, (name, probability), most probable first.

    Raises:
      ValueError: if `run_or_model` is neither, `weights` is given with a run, or the images have
        no such views.

    Example:
      >>> predict("tf_efficientnet_lite0", ["cat.png"], top=1)               # doctest: +SKIP
      [[('Egyptian cat', 0.53)]]
    """
    model, variables, transform, names = _load(run_or_model, weights)
    whole = views.transform(transform)

    @jax.jit
    def probabilities_of(variables: Any, inputs: jax.Array) -> jax.Array:
        network = functools.partial(model.apply, variables)
        return jax.nn.softmax(views.logits(network, inputs, transform.size))

    results = []
    for start in range(0, len(images), _BATCH):
        inputs = preprocess(images[start : start + _BATCH], whole)
        probabilities = np.asarray(probabilities_of(variables, inputs))
        results += [_top(row, names, top) for row in probabilities]
    return results


def _load(
    run_or_model: str | Path, weights: str | None
) -> tuple[nn.Module, Any, Preprocess, Sequence[str]]:
    if is_run(run_or_model):
        if weights is not None:
            raise ValueError(
                f"{run_or_model} is a run and has weights of its own; drop {weights!r}"
            )
        run = load_run(run_or_model)
        return run.model, run.variables, run.info.preprocess, run.info.class_names
    if Path(run_or_model).is_dir():
        raise ValueError(f"{run_or_model} is a folder, but holds no run")
    name = str(run_or_model)
    config = pretrained_config(name)
    model, variables = load_pretrained(name, weights=weights)
    names = classes.class_names(model.num_classes)
    names = names or [f"class {i}" for i in range(model.num_classes)]
    return model, variables, Preprocess.of(config), names


def _top(probabilities: np.ndarray, names: Sequence[str], top: int) -> list[tuple[str, float]]:
    order = np.argsort(-probabilities, kind="stable")[:top]
    return [(names[i], float(probabilities[i])) for i in order]
