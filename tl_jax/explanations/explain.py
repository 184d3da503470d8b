"""Explains what a run or a pretrained network says of images: maps of each image, by method."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import messages, trees
from tl_jax.data.images.decode import ImageLike
from tl_jax.data.preprocess import NetworkInput, evaluation_input
from tl_jax.data.source import Source, Task
from tl_jax.evaluation import prediction_inputs
from tl_jax.evaluation.predict import Predictor
from tl_jax.evaluation.prediction_batches import ByTask, Compute
from tl_jax.evaluation.prediction_inputs import Arrays, Examples
from tl_jax.evaluation.prediction_source import Part
from tl_jax.explanations.method import Method, maps_of
from tl_jax.explanations.methods import resolve
from tl_jax.explanations.target import Target, outputs_of, predicted_index
from tl_jax.models.model import Model
from tl_jax.objectives.objective import TaskObjective

Methods = str | Method | Sequence[str | Method]


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What speaks for one output of a network in one example.

    Attributes:
      paths: as in `tl_jax.evaluation.predictions.Prediction`.
      image: as the network saw it, uint8 [H, W, C]; of several views [V, H, W, C].
      maps: by the name of the method, float32 [H, W], of several views [V, H, W]: pixel by pixel
        over `image`. What they say, and in which unit, is the method's.
      task: name of the task.
      target: name of the class, label or level that is explained; "" for a number.
      value: its probability; or the number, in the unit of the training labels.
      predicted: name of the class, label or level that the network predicts; "" for a number.
    """

    paths: tuple[str, ...]
    image: np.ndarray
    maps: Mapping[str, np.ndarray]
    task: str
    target: str
    value: float
    predicted: str

    @property
    def text(self) -> str:
        """What is explained, with its probability, in a few words."""
        if not self.target:
            return f"{self.task} {self.value:.4g}"
        return f"{self.target} {self.value:.1%}"


def explain(
    run_or_model: str | Path,
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
    weights: str | os.PathLike[str] | None = None,
    value_range: tuple[float, float] | None = None,
    calibrated: bool = False,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: Sequence[str] = (),
) -> list[Explanation]:
    """Says where in each image is what speaks for a class, a label, a level or a number.

    Each call reads the network; `Explainer` reads it once for many calls.

    Args:
      run_or_model, images: as in `tl_jax.predict`.
      method: a method or several: "grad_cam", "grad_cam_plus_plus", "hires_cam", "saliency",
        "smooth_grad", "integrated_gradients", "occlusion", "attention"; or methods of
        `tl_jax.explanations` with options of their own, such as `SmoothGrad(samples=50)`.
      task: what the network tells, by its name; the default is the main task.
      target: the class, label or level of the task that is explained, by its name or place; the
        default is the one that the network predicts for each image. A number has none.
      stage: dotted name of the module whose maps class activation maps weigh, such as "layer3"; the
        default is the last stage. Of "attention" it is the stage that is pooled.
      source, split, image_column, group, weights, value_range, calibrated, checkpoint_key, prefix,
        ignore: as in `tl_jax.predict`.

    Returns:
      An explanation of each example; `tl_jax.explanations.overlay.draw` draws them.

    Raises:
      ValueError, FileNotFoundError, TypeError: as `tl_jax.predict`; and if there is no such method,
        task, target or stage, or the method is not for this network.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> [found] = explain("runs/digits", np.zeros((8, 8, 3), np.uint8), target="3")
      >>> found.target, found.maps["grad_cam"].shape
      ('3', (16, 16))
    """
    explainer = Explainer(
        run_or_model,
        weights=weights,
        value_range=value_range,
        calibrated=calibrated,
        checkpoint_key=checkpoint_key,
        prefix=prefix,
        ignore=ignore,
    )
    return explainer(
        images, method=method, task=task, target=target, stage=stage, source=source, split=split,
        image_column=image_column, group=group,
    )  # fmt: skip


class Explainer:
    """`explain` for many calls: the network is read once, and compiled once for each batch size.

    Attributes:
      tasks: what the network tells, the main task first.
      stages: dotted names of the modules that end its stages, shallow to deep.
      predictor: predicts by the same network.
      variables: params and batch_stats, on the device.
    """

    def __init__(
        self,
        run_or_model: str | Path,
        *,
        weights: str | os.PathLike[str] | None = None,
        value_range: tuple[float, float] | None = None,
        calibrated: bool = False,
        checkpoint_key: str = "",
        prefix: str = "",
        ignore: Sequence[str] = (),
    ) -> None:
        """Reads the network; arguments and errors are those of `explain`."""
        self.predictor = Predictor(
            run_or_model,
            weights=weights,
            value_range=value_range,
            calibrated=calibrated,
            checkpoint_key=checkpoint_key,
            prefix=prefix,
            ignore=ignore,
        )
        self._network = self.predictor.network
        self.tasks, self.stages = self._network.tasks, self._network.stages
        self.variables = jax.device_put(self._network.variables)

    def __call__(
        self,
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
    ) -> list[Explanation]:
        """Returns an explanation of each example; arguments and errors are those of `explain`."""
        methods = resolve(method, stage, self.stages)
        chosen = find_task(self.tasks, task)
        index = find_target(chosen, target)

        def compute(batch: Arrays) -> ByTask:
            inputs, explained, value, predicted = self.targets(batch, chosen, index)
            maps = {each.name: self.maps(inputs, explained, each) for each in methods}
            said = {"image": batch["image"], "index": explained.index}
            return {"said": {**said, "value": value, "predicted": predicted}, "maps": maps}

        part = Part(split, image_column, group)
        rows = self.rows(self.predictor.examples(images, source, part), compute)
        names = [each.name for each in methods]
        return [_explanation(paths, chosen, names, arrays) for paths, arrays in rows]

    def rows(self, examples: Examples, compute: Compute) -> list[tuple[tuple[str, ...], ByTask]]:
        """Returns the files of each example, and its part of what is computed of its batch.

        Args:
          examples: of `Predictor.examples`.
          compute: what is computed of a batch.

        Raises:
          ValueError, FileNotFoundError: if examples cannot be read; all are named.
        """
        prediction_inputs.check_named(examples, all_needed=True)
        found, errors = list[tuple[tuple[str, ...], ByTask]](), list[Exception]()
        run = self.predictor.batches.run
        for each, error, arrays in run(examples.unread, raises=True, compute=compute):
            if error is not None:
                errors.append(error)
            elif arrays is not None:
                found.append((each.paths, arrays))
        prediction_inputs.raise_all(errors, len(examples.unread))
        return found

    def targets(
        self, batch: Arrays, task: Task, index: int | None
    ) -> tuple[NetworkInput, Target, jax.Array, jax.Array]:
        """Returns the network's input for a batch, its target, and what the network says of it.

        Args:
          batch: what was read, with "image", uint8.
          task: that is explained.
          index: place of the class, label or level; None for the predicted one.

        Returns:
          The input, the target, its probabilities or numbers [B], and the predicted places [B].
        """
        network = self._network
        arrays = {key: jnp.asarray(array) for key, array in batch.items()}
        inputs = evaluation_input(arrays, network.preprocess.mean, network.preprocess.std)
        said = _said(
            self.variables,
            inputs,
            None if index is None else jnp.full(len(batch["image"]), index, jnp.int32),
            model=network.model,
            task=task.name if len(network.tasks) > 1 else "",
            objective=dict(network.objectives)[task.name],
        )
        return inputs, *said

    def maps(self, inputs: NetworkInput, target: Target, method: Method) -> jax.Array:
        """Returns the maps of a batch in the size of its images, as `maps_of`."""
        return maps_of(self.variables, inputs, target, model=self._network.model, method=method)

    @property
    def model(self) -> Model:
        """The network, a function of `variables`."""
        return self._network.model


def find_task(tasks: Sequence[Task], name: str | None) -> Task:
    """Returns a task by its name, or the main one.

    Raises:
      ValueError: if there is no such task; it names the nearest.
    """
    if name is None:
        return tasks[0]
    names = [task.name for task in tasks]
    if name not in names:
        raise ValueError(
            f"the network tells nothing of {name!r}{messages.hint(name, names)}; its tasks are "
            f"{messages.some(names)}"
        )
    return tasks[names.index(name)]


def find_target(task: Task, target: str | int | None) -> int | None:
    """Returns the place of a class, label or level; None for the predicted one.

    Raises:
      ValueError: if the task has no such class, or is a number; it names the nearest.

    Examples:
      >>> find_target(Task("kind", ("cat", "dog")), "dog")
      1
    """
    if target is None:
        return None
    names = task.class_names
    if task.kind == "regression":
        raise ValueError(
            f"got the target {target!r}, but {task.name!r} is a number, which is explained as a "
            "whole; leave the target out"
        )
    if isinstance(target, str) and target in names:
        return names.index(target)
    if isinstance(target, int) and not isinstance(target, bool) and 0 <= target < len(names):
        return target
    raise ValueError(
        f"{task.name!r} has no class {target!r}{messages.hint(str(target), names)}; its classes "
        f"are {messages.some(names)}, or their places, 0 to {len(names) - 1}"
    )


def _explanation(
    paths: tuple[str, ...], task: Task, methods: Sequence[str], arrays: ByTask
) -> Explanation:
    said, names = arrays["said"], task.class_names
    is_number = task.kind == "regression"
    return Explanation(
        paths,
        said["image"],
        # In the order that was asked for: what comes from the device is sorted by name.
        {name: arrays["maps"][name] for name in methods},
        task.name,
        "" if is_number else names[int(said["index"])],
        float(said["value"]),
        "" if is_number else names[int(said["predicted"])],
    )


@functools.partial(jax.jit, static_argnames=("model", "task", "objective"))
def _said(
    variables: trees.Tree,
    inputs: NetworkInput,
    index: jax.Array | None,
    *,
    model: Model,
    task: str,
    objective: TaskObjective,
) -> tuple[Target, jax.Array, jax.Array]:
    """Returns the target of a batch, its probabilities or numbers [B], and what is predicted [B].

    It is a function of the module, so that it is compiled once for all explainers of a network.
    """
    outputs = outputs_of(model, variables, inputs)
    predicted = predicted_index(outputs, task, objective)
    target = Target(predicted if index is None else index, task, objective)
    return target, target.values(outputs), predicted
