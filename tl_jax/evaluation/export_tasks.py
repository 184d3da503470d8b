"""The JSON beside exported weights: what goes in, and what the outputs of each task mean."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tl_jax import files
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.head import MLP, Cosine
from tl_jax.heads.poolings import Pooling
from tl_jax.heads.task_network import TaskNetwork
from tl_jax.models.model import Model
from tl_jax.models.network import Network
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.run.folder import Run
from tl_jax.run.objective import num_outputs

_LEVELS = "are the probabilities of a level above 0, 1, ...; the level is how many exceed 0.5"


def as_text(run: Run, model: Model, *, heads_file: str | None, absent: Sequence[str]) -> str:
    """Returns the text of the JSON.

    Args:
      run: the run.
      model: its network without what was merged.
      heads_file: name of the file of the parameters outside the backbone; None if there are none.
      absent: keys that timm's network without a classifier has and the exported one lacks.
    """
    preprocess, info = run.info.preprocess, run.info
    fields = {
        "architecture": run.config.model.name,
        "preprocess": dataclasses.asdict(preprocess),
        "inputs": {
            **dataclasses.asdict(info.inputs),
            "numeric_mean": info.numeric_mean,
            "numeric_std": info.numeric_std,
        },
        "heads_file": heads_file,
        "network": _network(model),
        "absent_in_backbone": list(absent),
        "tasks": _tasks(run, model),
    }
    return files.json_text(fields, indent=2) + "\n"


def _network(model: Model) -> dict[str, Any]:
    """Returns how the heads' input is made of the backbone's outputs."""
    if isinstance(model, Network):
        return {"output_of_backbone": "logits"}
    if not isinstance(model, TaskNetwork):
        average = dataclasses.asdict(Pooling())
        return {"output_of_backbone": _output(model), "pooling": average}
    neck = model.neck
    return {
        "output_of_backbone": list(model.stages) or _output(model),
        "scales": model.scales,
        "pooling": dataclasses.asdict(neck.pooling),
        "scale_fusion": dataclasses.asdict(neck.scale_fusion),
        "view_fusion": dataclasses.asdict(neck.view_fusion),
        "join": neck.join,
    }


def _output(model: Any) -> str:
    """Returns what the backbone gives: pooled features, or a map that is pooled afterwards."""
    return "features" if getattr(model.backbone, "global_pool", "") else "map"


def _tasks(run: Run, model: Model) -> list[dict[str, Any]]:
    """Returns what is learned: the place of each head, and how its outputs are read."""
    objective, tasks = run.calibrated, run.info.example_facts.tasks
    found = []
    for index, task in enumerate(tasks):
        of_task = objective.tasks[task.name] if isinstance(objective, MultiTask) else objective
        found.append({
            "name": task.name,
            "kind": task.kind,
            "class_names": task.class_names,
            "outputs": num_outputs(task),
            "head": _head(model, index),
            **_reading(of_task),
        })  # fmt: skip
    return found


def _head(model: Model, index: int) -> dict[str, Any]:
    """Returns the kind of a task's head, and the name above its parameters."""
    if isinstance(model, TaskNetwork):
        head = model.tasks[index]
        name = f"{model.classifier}.{head.name}" if head.name else model.classifier
        hidden = {"hidden": head.hidden} if head.kind == "mlp" else {}
        return {"parameters": name, "kind": head.kind, **hidden}
    if isinstance(model, Classifier):
        kind = {MLP: "mlp", Cosine: "cosine"}.get(type(model.head), "linear")
        hidden = {"hidden": model.head.hidden} if isinstance(model.head, MLP) else {}
        return {"parameters": model.classifier, "kind": kind, **hidden}
    return {"parameters": model.classifier, "kind": "linear"}


def _reading(objective: Any) -> dict[str, Any]:
    """Returns how outputs become predictions, with its numbers."""
    if isinstance(objective, MultiLabel):
        return {
            "prediction": "sigmoid(outputs) are probabilities, and a class is predicted from its "
            "threshold on",
            "thresholds": objective.thresholds,
        }
    if isinstance(objective, Ordinal):
        formula = "cummin" if objective.loss_name == "coral" else "cumprod"
        return {"prediction": f"{formula}(sigmoid(outputs)) {_LEVELS}"}
    if isinstance(objective, Regression):
        return {
            "prediction": "outputs * std + mean",
            "mean": objective.mean,
            "std": objective.std,
        }
    return {
        "prediction": "softmax(outputs / temperature)",
        "temperature": objective.temperature,
    }
