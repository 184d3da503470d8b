"""Predicts the classes of images, with a trained run or with a pretrained network."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from tl_jax import arguments, files, messages, trees
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import Preprocess, as_images, eval_image, normalize
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.models import pretrained, weights_reader
from tl_jax.models.model import Model
from tl_jax.run.folder import is_run, load_run
from tl_jax.weights.checkpoint import Reading

_BATCH_SIZE = 32


def predict(
    run_or_model: str | Path,
    images: ImageLike | Iterable[ImageLike],
    *,
    weights: str | os.PathLike[str] | None = None,
    top: int = 5,
    views: Views = ONE_VIEW,
    value_range: tuple[float, float] | None = None,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> list[list[tuple[str, float]]]:
    """Returns the most probable classes of each image.

    Args:
      run_or_model: folder of a trained run; or a pretrained network: timm's name, a repository of
        the hub ("hf-hub:OWNER/REPO") or a folder with config.json and weights.
      images: paths, PIL images or arrays, of any size; or a single one of these, or an array of
        several images (`tl_jax.data.preprocess.as_images`).
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      top: how many classes.
      views: views of each image; the network's outputs are averaged over them.
      value_range: the values of black and white in images of more than 8 bits and in arrays that
        are not uint8; the default is the run's, or what the images say.
      checkpoint_key, prefix, ignore: what is taken from a checkpoint; see `load_pretrained`.

    Returns:
      For each image its classes, (name, probability), most probable first.

    Raises:
      ValueError: if `run_or_model` is neither, options of weights are given with a run, images
        cannot be read (it names them all), or the images are too small for the views.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> [classes] = predict("runs/digits", np.zeros((8, 8, 3), np.uint8), top=3)
      >>> len(classes)
      3
    """
    arguments.whole_number(
        "top", top, least=1, advice="expected the number of classes to return, at least 1"
    )
    if not isinstance(run_or_model, str | os.PathLike):
        raise TypeError(
            "predict takes the folder of a run, or the name or folder of a pretrained network, but "
            f"got {arguments.kind(run_or_model)}; of images that are normalised arrays "
            "model.apply(variables, images) returns the logits"
        )
    listed = as_images(images)
    _check_files(listed)
    reading = Reading(checkpoint_key, prefix, ignore)
    model, variables, transform, names = _load(run_or_model, weights, reading)
    if value_range is not None:
        transform = dataclasses.replace(transform, value_range=value_range)
    uncropped = views.transform(transform)

    @jax.jit
    def probabilities_fn(variables: trees.Tree, inputs: jax.Array) -> jax.Array:
        logits = views.logits(lambda x: model.apply(variables, x), inputs, transform.size)
        return jax.nn.softmax(logits)

    predictions, errors = [], []
    for start in range(0, len(listed), _BATCH_SIZE):
        inputs = []
        for image in listed[start : start + _BATCH_SIZE]:
            try:
                inputs.append(eval_image(image, uncropped))
            except (ValueError, TypeError, OSError) as error:
                errors.append(error)
        if errors:  # The rest is only looked through, so that all bad images are named at once.
            continue
        normalized = normalize(np.stack(inputs), transform.mean, transform.std)
        for row in np.asarray(probabilities_fn(variables, normalized)):
            order = np.argsort(-row, kind="stable")[:top]
            predictions.append([(names[i], float(row[i])) for i in order])
    if len(errors) == 1:
        raise errors[0]
    if errors:
        head = f"{len(errors)} of {len(listed)} images cannot be read:"
        raise ValueError(messages.report(head, list(map(str, errors)), "leave them out"))
    return predictions


def _check_files(images: Sequence[ImageLike]) -> None:
    """Raises unless every path is of a file, before a network is loaded; names all that are not."""
    paths = [Path(image) for image in images if isinstance(image, str | Path)]
    problems = [_no_file(path) for path in paths if not path.is_file()]
    if len(problems) == 1:
        raise FileNotFoundError(problems[0])
    if problems:
        head = f"{len(problems)} of {len(paths)} paths are of no file (looked from {Path.cwd()}):"
        raise FileNotFoundError(messages.report(head, problems, "give image files"))


def _no_file(path: Path) -> str:
    if path.is_dir():
        return f"{path} is a folder; give its files"
    if files.is_address(path):
        return f"{path} is an address; download the image, and give its file"
    return f"there is no file {path}"


def _load(
    run_or_model: str | Path, weights: str | os.PathLike[str] | None, reading: Reading
) -> tuple[Model, trees.Tree, Preprocess, Sequence[str]]:
    if is_run(run_or_model):
        if weights is not None or reading != Reading():
            raise ValueError(
                f"{run_or_model} is a run, which has its own weights; leave out weights="
                f"{weights!r} and the options of reading them"
            )
        run = load_run(run_or_model)
        return run.model, run.variables, run.info.preprocess, run.info.class_names
    if Path(run_or_model).is_dir() and not weights_reader.is_checkpoint_folder(run_or_model):
        raise ValueError(
            f"{run_or_model} is a folder that holds no run, and no weights with timm's config.json;"
            " pass the folder of a run, or the name of a pretrained network"
        )
    loaded = weights_reader.read(str(run_or_model), weights, reading)
    model, variables, record = pretrained.build(loaded)
    print(record, file=sys.stderr)
    names = loaded.config.class_names
    if model.num_classes == 0:
        raise ValueError(
            f"{record.file} has no classifier, so it predicts nothing; train one on your classes"
        )
    if names is None:
        names = tuple(f"class {i}" for i in range(model.num_classes))
        print(
            f"the names of its {model.num_classes} classes are not known: they are numbered; "
            "label_names in a config.json beside the weights would name them",
            file=sys.stderr,
        )
    elif loaded.assumes_names:
        print(
            f"the file names no classes; its {model.num_classes} are taken for those of "
            f"{loaded.config.name}",
            file=sys.stderr,
        )
    return model, variables, Preprocess.of(loaded.config), names
