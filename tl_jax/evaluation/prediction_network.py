"""The network that predicts, of a run or pretrained, and what its outputs mean."""

import dataclasses
import sys
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from tl_jax import trees
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import ONE_IMAGE, Inputs, Task
from tl_jax.models import pretrained, weights_reader
from tl_jax.models.model import Model
from tl_jax.models.registry import architecture
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import TaskObjective
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run.folder import Run, is_run, load_run
from tl_jax.run.model import stage_names
from tl_jax.weights.checkpoint import Reading

TaskObjectives = tuple[tuple[str, TaskObjective], ...]
"""The objective of each task, by its name."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its variables, and what it takes and tells.

    Attributes:
      model: the network.
      variables: params and batch_stats.
      preprocess: the evaluation transform.
      class_names: of the main task, in the order of the outputs; two may be equal.
      tasks: what it tells; the names of a task's classes differ.
      objectives: what the outputs of each task mean, with what was chosen after training.
      inputs: what it takes beside one image.
      run: the run; None of a pretrained network.
      is_single_label: whether it tells one class of one image.
      is_calibrated: whether its objectives have what was chosen after training.
      stages: dotted names of the modules that end the backbone's stages, shallow to deep.
    """

    model: Model
    variables: trees.Tree
    preprocess: Preprocess
    class_names: tuple[str, ...]
    tasks: tuple[Task, ...]
    objectives: TaskObjectives
    inputs: Inputs = ONE_IMAGE
    run: Run | None = None
    is_single_label: bool = True
    is_calibrated: bool = False
    stages: tuple[str, ...] = ()

    @property
    def thresholds(self) -> dict[str, tuple[float, ...]]:
        """The thresholds of the classes of each task; none but of multi-label tasks."""
        found = dict.fromkeys((task.name for task in self.tasks), tuple[float, ...]())
        for name, objective in self.objectives:
            if isinstance(objective, MultiLabel):
                given, count = objective.thresholds, objective.num_classes
                found[name] = given if isinstance(given, tuple) else (given,) * count
        return found

    @property
    def view_columns(self) -> tuple[str, ...]:
        """The columns whose images were the views of an object in training, if they had columns."""
        return () if self.run is None else self.run.config.inputs.views

    @property
    def is_grouped(self) -> bool:
        """Whether the views of an object were rows of a group in training."""
        return self.run is not None and self.run.config.inputs.group is not None


def load(
    run_or_model: str | Path,
    weights: str | PathLike[str] | None,
    reading: Reading,
    *,
    calibrated: bool,
) -> Network:
    """Reads a run or a pretrained network; arguments and errors are those of `predict`."""
    if is_run(run_or_model):
        if weights is not None or reading != Reading():
            raise ValueError(
                f"{run_or_model} is a run, which has its own weights; leave out weights="
                f"{weights!r} and the options of reading them"
            )
        return _of_run(load_run(run_or_model), run_or_model, calibrated=calibrated)
    if Path(run_or_model).is_dir() and not weights_reader.is_checkpoint_folder(run_or_model):
        raise ValueError(
            f"{run_or_model} is a folder that holds no run, and no weights with timm's config.json;"
            " pass the folder of a run, or the name of a pretrained network"
        )
    if calibrated:
        raise ValueError(
            f"got calibrated=True for {run_or_model}, which is no run; only a finished run has "
            "chosen a temperature: leave calibrated out"
        )
    return _pretrained(str(run_or_model), weights, reading)


def _of_run(run: Run, workdir: str | Path, *, calibrated: bool) -> Network:
    facts = run.info.example_facts
    kinds = [task.kind for task in facts.tasks]
    is_single_label = kinds == ["multi_class"] and facts.inputs.is_one_image
    if calibrated and not run.calibration:
        raise ValueError(
            f"got calibrated=True, but {workdir} has chosen no temperature, as a run does at its "
            "end on its evaluation split; leave calibrated out"
        )
    # The probabilities of a single label are those of the network that `export` writes.
    is_calibrated = calibrated or not is_single_label
    objective = run.calibrated if is_calibrated else run.objective
    tasks = (
        objective.tasks if isinstance(objective, MultiTask) else {facts.tasks[0].name: objective}
    )
    return Network(
        run.model,
        run.variables,
        run.info.preprocess,
        run.info.class_names,
        facts.tasks,
        tuple(tasks.items()),  # type: ignore[arg-type]
        facts.inputs,
        run,
        is_single_label=is_single_label,
        is_calibrated=is_calibrated,
        stages=stage_names(run.config, run.model),
    )


def _pretrained(name: str, weights: str | PathLike[str] | None, reading: Reading) -> Network:
    loaded = weights_reader.read(name, weights, reading)
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
    task = Task("label", distinct(names))
    objectives = ((task.name, SingleLabel(model.num_classes)),)
    preprocess = Preprocess.of(loaded.config)
    stages = architecture(loaded.name).stages
    return Network(model, variables, preprocess, tuple(names), (task,), objectives, stages=stages)


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names that differ: those that occur again with their place among all.

    Two classes of ImageNet are called "crane".

    Examples:
      >>> distinct(["crane", "cat", "crane"])
      ('crane', 'cat', 'crane (2)')
    """
    seen: Counter[str] = Counter()
    found = []
    for place, name in enumerate(names):
        found.append(f"{name} ({place})" if seen[name] else name)
        seen[name] += 1
    return tuple(found)
