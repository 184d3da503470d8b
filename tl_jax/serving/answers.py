"""What the page is told: what a network tells, and what it says of a picture, and why."""

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from tl_jax.data.images.decode import decode
from tl_jax.data.source import Task
from tl_jax.evaluation.prediction_network import Network
from tl_jax.evaluation.predictions import (
    LabelsPrediction,
    LevelPrediction,
    TaskPrediction,
    ValuePrediction,
)
from tl_jax.explanations import overlay
from tl_jax.explanations.attention import Attention
from tl_jax.explanations.explain import Explainer, Explanation, find_target, find_task
from tl_jax.explanations.methods import METHODS, resolve

_TOP = 5  # Classes that are shown of a task, unless more are predicted.


class Answers:
    """A network that is read once, and asked about one picture at a time.

    Attributes:
      network: what the page shows before any picture, as JSON values: the network's `name`, its
        `tasks` with their classes, the `methods` of explaining, and the `method` that comes first.
    """

    def __init__(
        self,
        run_or_model: str | Path,
        *,
        method: str = "grad_cam",
        weights: str | PathLike[str] | None = None,
        value_range: tuple[float, float] | None = None,
        calibrated: bool = False,
    ) -> None:
        """Reads the network; arguments and errors are those of `demo`."""
        resolve(method, None, ("",))  # Before the network is read, which takes seconds.
        self._explainer = Explainer(
            run_or_model, weights=weights, value_range=value_range, calibrated=calibrated
        )
        _check_inputs(run_or_model, self._explainer.predictor.network)
        self._transform = self._explainer.predictor.network.preprocess
        methods = [name for name in METHODS if name != Attention.name or self._has_attention()]
        if method not in methods:
            raise ValueError(
                f"got the method {method!r}, but the network does not pool its maps by attention; "
                f"expected one of {', '.join(methods)}"
            )
        self.network: dict[str, Any] = {
            "name": str(run_or_model),
            "tasks": [
                {"name": task.name, "kind": task.kind, "classes": list(task.class_names)}
                for task in self._explainer.tasks
            ],
            "methods": [{"name": name, "title": METHODS[name].title} for name in methods],
            "method": method,
        }
        # One picture is computed at a time: two would take twice the memory and no less time.
        self._lock = threading.Lock()

    def __call__(
        self,
        picture: bytes,
        *,
        method: str | None = None,
        task: str | None = None,
        target: int | None = None,
        name: str = "picture",
    ) -> dict[str, Any]:
        """Says what the network says of a picture, and where in it is what speaks for that.

        Args:
          picture: the bytes of an image file.
          method: of explaining, by its name; the default is that of the start.
          task, target: the task and the place of its class, label or level that is explained; the
            default is what the network predicts for its main task.
          name: what messages call the picture.

        Returns:
          JSON values: what is said of each of the `tasks`; what is `explained`; and `image` and
          `overlay`, the picture as the network saw it, without and with the map over it, as
          PNG in base64.

        Raises:
          ValueError: if the picture cannot be decoded or has too many pixels, or there is no such
            method, task or class.
        """
        explain, method = self._explainer, method or self.network["method"]
        resolve(method, None, explain.stages)
        find_target(find_task(explain.tasks, task), target)
        with self._lock:
            pixels = decode(picture, name=name, value_range=self._transform.value_range)
            [said] = explain.predictor.stream(pixels)
            if said.error is not None:
                raise ValueError(said.error)
            [found] = explain(pixels, method=method, task=task, target=target)
        [tiles] = overlay.tiles(found)
        return {
            "tasks": [_described(each, said.tasks[each.name]) for each in explain.tasks],
            "explained": _explained(found, method),
            "image": _png(tiles[""]),
            "overlay": _png(tiles[method]),
        }

    def warm_up(self) -> None:
        """Compiles what most answers need, so that the first one comes as fast as the others."""
        blank = io.BytesIO()
        Image.new("RGB", self._transform.size[::-1]).save(blank, "PNG")
        self(blank.getvalue())
        if self._explainer.tasks[0].class_names:
            self(blank.getvalue(), target=0)

    def _has_attention(self) -> bool:
        """Returns whether the network has the weights that `Attention` shows."""
        explainer, transform = self._explainer, self._transform
        shape = (1, *transform.size, transform.channels)
        try:
            jax.eval_shape(
                lambda variables, images: Attention()(explainer.model, variables, images, 0),
                explainer.variables,
                jax.ShapeDtypeStruct(shape, jnp.float32),
            )
        except ValueError:
            return False
        return True


def _check_inputs(name: str | Path, network: Network) -> None:
    """Raises ValueError if the network takes more than one picture."""
    inputs = network.inputs
    if inputs.views:
        raise ValueError(
            f"{name} takes {inputs.views} images of each object, and the page takes one picture; "
            "use predict and explain, with --object IMAGE... or a folder of images for each object"
        )
    if inputs.keys:
        columns: Sequence[str] = inputs.keys
        if network.run is not None and network.run.config.inputs.has_columns:
            given = network.run.config.inputs
            columns = (*given.numeric, *given.categorical, *given.text, *given.vector)
        raise ValueError(
            f"{name} takes {', '.join(columns)} beside the image, which a picture alone lacks; use "
            "predict and explain with a table that has both, such as --source manifest:new.csv"
        )


def _described(task: Task, said: TaskPrediction) -> dict[str, Any]:
    """Returns what is said for a task: its result in a few words, and its classes or levels."""
    found = {"name": task.name, "kind": task.kind, "note": ""}
    if isinstance(said, ValuePrediction):
        return {**found, "result": f"{said.predicted:.6g}", "rows": []}
    rows = _rows(said)
    if isinstance(said, LabelsPrediction):
        result = ", ".join(said.predicted) or "none of its labels"
        found["note"] = "A label is told from its threshold on, the line in its bar."
    elif isinstance(said, LevelPrediction):
        result = said.predicted
        found["note"] = f"The mean level is {said.expected:.2f}, where the lowest is 0."
    else:
        result = said.predicted
        count = f"{len(task.class_names):,}"
        found["note"] = f"It names one of its {count} classes, whatever the picture shows."
    return {**found, "result": result, "rows": rows}


def _rows(said: Any) -> list[dict[str, Any]]:
    """Returns levels from low to high; or the classes that are predicted, then the next ones."""
    is_labels = isinstance(said, LabelsPrediction)
    predicted = said.predicted if is_labels else (said.predicted,)
    thresholds: Mapping[str, float] = said.thresholds if is_labels else {}
    rows = [
        {
            "index": index,
            "name": name,
            "probability": probability,
            "threshold": thresholds.get(name),
            "is_predicted": name in predicted,
        }
        for index, (name, probability) in enumerate(said.probabilities.items())
    ]
    if isinstance(said, LevelPrediction):
        return rows
    rows.sort(key=lambda row: (not row["is_predicted"], -row["probability"]))
    return rows[: max(_TOP, len(predicted))]


def _explained(found: Explanation, method: str) -> dict[str, Any]:
    """Returns what is explained, and how its map is read."""
    if not found.maps[method].any():
        reading = "the map is empty, as nothing was found that speaks for it"
    elif method == Attention.name:
        reading = "the more yellow, the more the pooling looks there, whatever the class"
    elif METHODS[method].is_signed:
        reading = "red speaks for it, blue against it"
    else:
        reading = "the more yellow, the more a place matters for it"
    return {
        "task": found.task,
        "target": found.target,
        "text": found.text,
        "method": METHODS[method].title,
        "reading": reading,
    }


def _png(pixels: np.ndarray) -> str:
    """Returns an image, uint8 [H, W, 3], as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
