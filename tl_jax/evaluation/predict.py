"""Predicts the classes of images, with a trained run or with a pretrained network."""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import numpy as np

from tl_jax import arguments, files, messages, process, trees
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import Preprocess, as_images, eval_image
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation.single_label import load_single_label
from tl_jax.models import pretrained, weights_reader
from tl_jax.models.model import Model
from tl_jax.run.folder import is_run
from tl_jax.training.evaluator import evaluation_outputs
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

    Each call reads the network; `Predictor` reads it once for many calls.

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
    _check_top(top)
    _check_network(run_or_model)
    listed = as_images(images)
    _check_files(listed)
    predictor = Predictor(
        run_or_model,
        weights=weights,
        views=views,
        value_range=value_range,
        checkpoint_key=checkpoint_key,
        prefix=prefix,
        ignore=ignore,
    )
    return predictor._predict(listed, top)


class Predictor:
    """`predict` for many calls: the network is read once, and compiled once for each batch size.

    Attributes:
      class_names: names of the classes, in the order of the logits.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> predictor = Predictor("runs/digits")
      >>> [[(name, probability)]] = predictor(np.zeros((8, 8, 3), np.uint8), top=1)
      >>> 0.1 <= probability <= 1
      True
    """

    def __init__(
        self,
        run_or_model: str | Path,
        *,
        weights: str | os.PathLike[str] | None = None,
        views: Views = ONE_VIEW,
        value_range: tuple[float, float] | None = None,
        checkpoint_key: str = "",
        prefix: str = "",
        ignore: Sequence[str] = (),
    ) -> None:
        """Reads the network; arguments and errors are those of `predict`."""
        _check_network(run_or_model)
        process.prepare()
        reading = Reading(checkpoint_key, prefix, ignore)
        model, variables, transform, names = _load(run_or_model, weights, reading)
        if value_range is not None:
            transform = dataclasses.replace(transform, value_range=value_range)
        self.class_names = tuple(names)
        self._uncropped = views.transform(transform)
        self._variables = jax.device_put(variables)
        self._probabilities = functools.partial(
            _probabilities,
            model=model,
            views=views,
            size=tuple(transform.size),
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )

    def __call__(
        self, images: ImageLike | Iterable[ImageLike], *, top: int = 5
    ) -> list[list[tuple[str, float]]]:
        """Returns the most probable classes of each image.

        The first call with 1, 2, 3 or 4, 5 to 8 and so on up to 32 or more images compiles.

        Args:
          images: as those of `predict`.
          top: how many classes.

        Raises:
          ValueError: if images cannot be read (it names them all).
        """
        _check_top(top)
        listed = as_images(images)
        _check_files(listed)
        return self._predict(listed, top)

    def _predict(self, listed: Sequence[ImageLike], top: int) -> list[list[tuple[str, float]]]:
        """Predicts images whose files exist, in full batches."""
        batch_size = min(_next_power_of_two(len(listed)), _BATCH_SIZE)
        predictions: list[list[tuple[str, float]]] = []
        errors: list[Exception] = []
        computing: jax.Array | None = None
        for start in range(0, len(listed), batch_size):
            prepared = self._prepare(listed[start : start + batch_size], errors)
            if errors:  # The rest is only looked through, so that all bad images are named at once.
                continue
            before, computing = computing, self._compute(prepared, batch_size)
            predictions += self._named(before, top)  # While the devices compute the next batch.
        _raise_all(errors, len(listed))
        predictions += self._named(computing, top)
        return predictions[: len(listed)]

    def _prepare(self, images: Sequence[ImageLike], errors: list[Exception]) -> list[np.ndarray]:
        """Returns the images for the network; appends to `errors` those that cannot be read."""
        prepared = []
        for image in images:
            try:
                prepared.append(eval_image(image, self._uncropped))
            except (ValueError, TypeError, OSError) as error:
                errors.append(error)
        return prepared

    def _compute(self, prepared: list[np.ndarray], batch_size: int) -> jax.Array:
        """Returns the probabilities of a batch, filled up with copies of its first image."""
        filled = prepared + prepared[:1] * (batch_size - len(prepared))
        return self._probabilities(self._variables, np.stack(filled))

    def _named(self, probabilities: jax.Array | None, top: int) -> list[list[tuple[str, float]]]:
        """Returns the most probable classes of each image of a batch."""
        rows = () if probabilities is None else np.asarray(probabilities)
        orders = (np.argsort(-row, kind="stable")[:top] for row in rows)
        return [
            [(self.class_names[i], float(row[i])) for i in order]
            for row, order in zip(rows, orders, strict=True)
        ]


@functools.partial(jax.jit, static_argnames=("model", "views", "size", "mean", "std"))
def _probabilities(
    variables: trees.Tree,
    images: jax.Array,
    *,
    model: Model,
    views: Views,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """Returns the probabilities [B, C] of images, uint8 [B, ...], that may be uncropped.

    It is a function of the module, so that it is compiled once for all predictors of a network.
    """
    batch = {"image": images}
    logits = evaluation_outputs(model, variables, batch, views=views, size=size, mean=mean, std=std)
    return jax.nn.softmax(logits)


def _next_power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _check_top(top: int) -> None:
    arguments.whole_number(
        "top", top, least=1, advice="expected the number of classes to return, at least 1"
    )


def _check_network(run_or_model: object) -> None:
    if not isinstance(run_or_model, str | os.PathLike):
        raise TypeError(
            "predict takes the folder of a run, or the name or folder of a pretrained network, but "
            f"got {arguments.kind(run_or_model)}; of images that are normalised arrays "
            "model.apply(variables, images) returns the logits"
        )


def _raise_all(errors: Sequence[Exception], count: int) -> None:
    """Raises the error of the images that cannot be read, if there are any."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        head = f"{len(errors)} of {count} images cannot be read:"
        raise ValueError(messages.report(head, list(map(str, errors)), "leave them out"))


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
        run = load_single_label(run_or_model, "predict")
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
