"""Predicts what a trained run, or a pretrained network, says of images, objects and tables."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from tl_jax import arguments, process
from tl_jax.data.images import pixel_limit
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import as_images
from tl_jax.data.source import Source
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation import prediction_inputs, prediction_source, predictions
from tl_jax.evaluation.prediction_batches import Batches, ByTask
from tl_jax.evaluation.prediction_inputs import Examples, Unread
from tl_jax.evaluation.prediction_network import load
from tl_jax.evaluation.prediction_source import Part
from tl_jax.evaluation.predictions import Prediction
from tl_jax.objectives.objective import one_of
from tl_jax.weights.checkpoint import Reading

_TOP = 5


def predict(
    run_or_model: str | Path,
    images: ImageLike | Iterable[Any] | None = None,
    *,
    source: str | Source | None = None,
    split: str | None = None,
    image_column: str | Sequence[str] | None = None,
    group: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    top: int | None = None,
    views: Views = ONE_VIEW,
    value_range: tuple[float, float] | None = None,
    on_corrupt: OnCorrupt = "raise",
    calibrated: bool = False,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> list[Any]:
    """Returns what a network says of each image, or of each object of several images.

    Each call reads the network; `Predictor` reads it once for many calls, and its `stream` does not
    wait for the last image before it returns the first prediction.

    Args:
      run_or_model: folder of a trained run; or a pretrained network: timm's name, a repository of
        the hub ("hf-hub:OWNER/REPO") or a folder with config.json and weights.
      images: paths, PIL images or arrays, of any size; or a single one of these, or an array of
        several images (`tl_jax.data.preprocess.as_images`). Of a folder all images below it are
        taken, sorted by path. For a run that learned from several views of an object: for each
        object a list of images, None where one is missing, or a folder of images
        (`prediction_inputs.of_objects`).
      source: data in place of images, which a run needs that learned from columns too:
        "manifest:new.csv", a table with the columns that the run learned from, labels not among
        them; another specification of `open_source`; or an opened source.
      split: of the source; the default is all of it.
      image_column: column of a manifest that holds the images, or several, which are views of an
        object; the default is the run's.
      group: column of a manifest that joins the rows of one object; the default is the run's.
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      top: how many classes of a single-label network, 5 by default. Other predictions hold all.
      views: views of each image; the network's outputs are averaged over them. They are for
        networks of one image.
      value_range: the values of black and white in images of more than 8 bits and in arrays that
        are not uint8; the default is the run's, or what the images say.
      on_corrupt: what to do with images that cannot be read: "raise", or "skip" to go on, with an
        empty list or a `Prediction` with its `error` in their places.
      calibrated: whether the temperature that a single-label run chose after training divides its
        logits. The temperatures and thresholds of other runs always apply.
      checkpoint_key, prefix, ignore: what is taken from a checkpoint; see `load_pretrained`.

    Returns:
      Of a network that tells the class of one image: for each image its classes, (name,
      probability), most probable first. Of any other run: a
      `tl_jax.evaluation.predictions.Prediction` for each example.

    Raises:
      ValueError: if `run_or_model` is neither, options of weights are given with a run, images
        cannot be read (it names them all), or the images are too small for the views.
      FileNotFoundError: if paths lead nowhere (it names them all).

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
    one_of("on_corrupt", on_corrupt, get_args(OnCorrupt))
    if images is not None:
        images = as_images(images)
        examples = prediction_inputs.of_images(images)
        prediction_inputs.check_named(examples, all_needed=on_corrupt == "raise")
    predictor = Predictor(
        run_or_model,
        weights=weights,
        views=views,
        value_range=value_range,
        calibrated=calibrated,
        checkpoint_key=checkpoint_key,
        prefix=prefix,
        ignore=ignore,
    )
    return predictor(
        images, source=source, split=split, image_column=image_column, group=group, top=top,
        on_corrupt=on_corrupt,
    )  # fmt: skip


class Predictor:
    """`predict` for many calls: the network is read once, and compiled once for each batch size.

    Attributes:
      class_names: names of the main task's classes, in the order of the logits.
      tasks: what the network tells, the main task first.
      is_single_label: whether that is one class of one image; calls then return lists of classes.
      network: the network, with what it takes.
      batches: computes what the network says, batch by batch.

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
      >>> [said] = predictor.stream(np.zeros((8, 8, 3), np.uint8))
      >>> said.tasks["label"].predicted == name
      True
    """

    def __init__(
        self,
        run_or_model: str | Path,
        *,
        weights: str | os.PathLike[str] | None = None,
        views: Views = ONE_VIEW,
        value_range: tuple[float, float] | None = None,
        calibrated: bool = False,
        checkpoint_key: str = "",
        prefix: str = "",
        ignore: Sequence[str] = (),
    ) -> None:
        """Reads the network; arguments and errors are those of `predict`."""
        _check_network(run_or_model)
        pixel_limit.limit()  # A wrong variable is an error before the network is read.
        process.prepare()
        reading = Reading(checkpoint_key, prefix, ignore)
        network = load(run_or_model, weights, reading, calibrated=calibrated)
        if network.inputs.views and views != ONE_VIEW:
            raise ValueError(
                "got crops, flips or scales (views) for a network that takes several images of "
                "each object, whose views they are; leave them out"
            )
        if value_range is not None:
            transform = dataclasses.replace(network.preprocess, value_range=value_range)
            network = dataclasses.replace(network, preprocess=transform)
        self.class_names, self.tasks = network.class_names, network.tasks
        self.is_single_label = network.is_single_label
        self.network = network
        self.batches = Batches(network, views)

    def __call__(
        self,
        images: ImageLike | Iterable[Any] | None = None,
        *,
        source: str | Source | None = None,
        split: str | None = None,
        image_column: str | Sequence[str] | None = None,
        group: str | None = None,
        top: int | None = None,
        on_corrupt: OnCorrupt = "raise",
    ) -> list[Any]:
        """Returns what the network says; arguments, results and errors are those of `predict`.

        The first call with 1, 2, 3 or 4, 5 to 8 and so on up to 32 or more images compiles.
        """
        _check_top(top)
        one_of("on_corrupt", on_corrupt, get_args(OnCorrupt))
        if top is not None and not self.is_single_label:
            raise ValueError(
                f"got top={top} for a network whose predictions hold all classes; leave it out"
            )
        examples = self.examples(images, source, Part(split, image_column, group))
        return self._predicted(examples, top or _TOP, raises=on_corrupt == "raise")

    def stream(
        self,
        images: ImageLike | Iterable[Any] | None = None,
        *,
        source: str | Source | None = None,
        split: str | None = None,
        image_column: str | Sequence[str] | None = None,
        group: str | None = None,
    ) -> "Stream":
        """Returns predictions that are computed as they are asked for, of any number of images.

        No more than some batches of images are in memory. What cannot be read has a prediction
        with its `error`, and the others go on.

        Args:
          images, source, split, image_column, group: as in `predict`.
        """
        return Stream(self, self.examples(images, source, Part(split, image_column, group)))

    def attention(
        self,
        images: ImageLike | Iterable[Any] | None = None,
        *,
        source: str | Source | None = None,
        split: str | None = None,
        image_column: str | Sequence[str] | None = None,
        group: str | None = None,
    ) -> list[dict[str, np.ndarray]]:
        """Returns the weights of each pooling or fusion by attention, for each example.

        Args:
          images, source, split, image_column, group: as in `predict`.

        Returns:
          By the path of the module: of "neck.views" [views, heads], of "neck.scales" and
          "neck.space" [scales, heads] and [places, heads], row by row, with an axis of the views
          before them if the network takes several. Where a module is used at several scales, each
          has a number behind that path. They add up to 1 over views, scales or places.

        Raises:
          ValueError: if the network has no attention; and as `predict`.
        """
        examples = self.examples(images, source, Part(split, image_column, group))
        prediction_inputs.check_named(examples, all_needed=True)
        compute, unread = self.batches.attention, examples.unread
        found, errors = list[dict[str, np.ndarray]](), list[Exception]()
        for _, error, arrays in self.batches.run(unread, raises=True, compute=compute):
            if error is not None:
                errors.append(error)
            elif arrays is not None:
                found.append(dict(arrays["attention"]))
        prediction_inputs.raise_all(errors, len(unread))
        return found

    def examples(
        self,
        images: ImageLike | Iterable[Any] | None,
        source: str | Source | None,
        part: Part,
    ) -> Examples:
        """Returns what is given as examples that are read later; as in `predict`."""
        inputs = self.network.inputs
        if source is not None and images is None:
            opened = prediction_source.open_for(self.network, source, part)
            return prediction_inputs.of_source(opened, inputs)
        if images is None or source is not None:
            raise ValueError("expected images, or a source (--source) in their place")
        if part != Part():
            raise ValueError("got a split or columns with images; they are for a source (--source)")
        if inputs.keys:
            raise ValueError(
                f"the network takes {', '.join(inputs.keys)} beside images; give a table that has "
                "both as source, such as --source manifest:new.csv"
            )
        if inputs.views:
            columns, is_grouped = self.network.view_columns, self.network.is_grouped
            return prediction_inputs.of_objects(images, inputs, columns, is_grouped=is_grouped)
        return prediction_inputs.of_images(images)

    def _predicted(self, examples: Examples, top: int, *, raises: bool) -> list[Any]:
        if raises:
            prediction_inputs.check_named(examples, all_needed=True)
        found, errors = list[Any](), list[Exception]()
        for each, error, arrays in self.batches.run(examples.unread, raises=raises):
            if error is not None:
                errors.append(error)
            if not self.is_single_label:
                found.append(self._prediction(each, error, arrays))
            else:
                found.append([] if arrays is None else self._most_probable(arrays, top))
        if raises:
            prediction_inputs.raise_all(errors, len(examples.unread))
        return found

    def _most_probable(self, arrays: ByTask, top: int) -> list[tuple[str, float]]:
        """Returns the most probable classes of one image."""
        row = arrays[self.tasks[0].name]["probabilities"]
        order = np.argsort(-row, kind="stable")[:top]
        return [(self.class_names[i], float(row[i])) for i in order]

    def _prediction(
        self, each: Unread, error: Exception | None, arrays: ByTask | None
    ) -> Prediction:
        if arrays is None:
            return Prediction(each.paths, {}, None if error is None else str(error))
        thresholds = self.network.thresholds
        if self.is_single_label:
            [(name, of_one)] = arrays.items()
            arrays = {name: {"predicted": np.argmax(of_one["probabilities"]), **of_one}}
        tasks = {
            task.name: predictions.of_task(task, arrays[task.name], thresholds[task.name])
            for task in self.tasks
        }
        return Prediction(each.paths, tasks)


class Stream(Iterable[Prediction]):
    """Predictions of examples, in their order, computed as they are asked for.

    Attributes:
      notes: what was passed over, is missing or was decided, a sentence each.
    """

    def __init__(self, predictor: Predictor, examples: Examples) -> None:
        """Computes nothing yet."""
        self._predictor, self._examples = predictor, examples
        self.notes = examples.notes

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self._examples.unread)

    def __iter__(self) -> Iterator[Prediction]:
        """Begins with the first example."""
        for each, error, arrays in self._predictor.batches.run(self._examples.unread, raises=False):
            yield self._predictor._prediction(each, error, arrays)


def _check_top(top: int | None) -> None:
    if top is not None:
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
