"""Predicts the classes of images, with a trained run or with a pretrained network."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tl_jax import trees
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import Preprocess, preprocess
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.models.model import Model
from tl_jax.models.pretrained import load_pretrained
from tl_jax.run.folder import is_run, load_run
from tl_jax.weights.classes import class_names
from tl_jax.weights.index import pretrained_config

_BATCH_SIZE = 32


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
      views: views of each image; the network's outputs are averaged over them.

    Returns:
      For each image its classes, (name, probability), most probable first.

    Raises:
      ValueError: if `run_or_model` is neither, `weights` is given with a run, or the images are
        too small for the views.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> [classes] = predict("runs/digits", [np.zeros((8, 8, 3), np.uint8)], top=3)
      >>> len(classes)
      3
    """
    model, variables, transform, names = _load(run_or_model, weights)
    uncropped = views.transform(transform)

    @jax.jit
    def probabilities_fn(variables: trees.Tree, inputs: jax.Array) -> jax.Array:
        logits = views.logits(lambda x: model.apply(variables, x), inputs, transform.size)
        return jax.nn.softmax(logits)

    predictions = []
    for start in range(0, len(images), _BATCH_SIZE):
        inputs = preprocess(images[start : start + _BATCH_SIZE], uncropped)
        for row in np.asarray(probabilities_fn(variables, inputs)):
            order = np.argsort(-row, kind="stable")[:top]
            predictions.append([(names[i], float(row[i])) for i in order])
    return predictions


def _load(
    run_or_model: str | Path, weights: str | None
) -> tuple[Model, trees.Tree, Preprocess, Sequence[str]]:
    if is_run(run_or_model):
        if weights is not None:
            raise ValueError(
                f"{run_or_model} is a run, which has its own weights; leave out weights={weights!r}"
            )
        run = load_run(run_or_model)
        return run.model, run.variables, run.info.preprocess, run.info.class_names
    if Path(run_or_model).is_dir():
        raise ValueError(
            f"{run_or_model} is a folder that holds no run; pass the folder of a run, or the name "
            "of a pretrained network"
        )
    name = str(run_or_model)
    config = pretrained_config(name)
    model, variables = load_pretrained(name, weights=weights)
    names = class_names(model.num_classes) or [f"class {i}" for i in range(model.num_classes)]
    return model, variables, Preprocess.of(config), names
