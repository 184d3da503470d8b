"""The record of a run, `run.json`: what decides the meaning and the order of what it trains on."""

import dataclasses
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Self

from jax.sharding import Mesh

from tl_jax import determinism, files, onednn
from tl_jax.config import Config, checks, json_format
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import ONE_IMAGE, Inputs, Task
from tl_jax.data.sources.open import own_splits
from tl_jax.run import examples
from tl_jax.run.examples import Examples
from tl_jax.run.objective import LabelStatistics
from tl_jax.run.task_network import ExampleFacts
from tl_jax.weights.sources import WeightsRecord

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What a run records beside its configuration, so that it can be used without its data.

    The fields with a default are missing in runs of earlier versions.

    Attributes:
      class_names: of the main task, in the order of the logits; none of a number.
      preprocess: the evaluation transform.
      weights: where the backbone's weights came from, with their hash; None if random.
      parameters: number of parameters.
      examples: number of examples by split.
      skipped: corrupt images that were left out, by split.
      subsets: which examples of a split were chosen (`Subset.record`), by split.
      versions: what `versions` returned.
      digests: `Examples.digest` of each split: identity, label and order of its examples.
      head: shape of each parameter of the classifier, by dotted name.
      resolved: what was chosen for options that depend on the data, by dotted name.
      warnings: what looks wrong in the values of the training images, and which splits share
        examples with the training split, a sentence each.
      tasks: what is learned, the main task first.
      inputs: what an example holds beside one image: categories and words in their order.
      label_statistics: of the training labels of each task.
      numeric_mean: of each column of numbers over the training examples.
      numeric_std: standard deviation of each.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    weights: WeightsRecord | None
    parameters: int
    examples: dict[str, int]
    skipped: dict[str, list[str]]
    subsets: dict[str, dict[str, Any]]
    versions: dict[str, str]
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    head: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    resolved: dict[str, Any] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    tasks: tuple[Task, ...] = ()
    inputs: Inputs = ONE_IMAGE
    label_statistics: tuple[LabelStatistics, ...] = ()
    numeric_mean: tuple[float, ...] = ()
    numeric_std: tuple[float, ...] = ()

    @property
    def example_facts(self) -> ExampleFacts:
        """What the network was built by; runs of earlier versions have one class for each image."""
        tasks = self.tasks or (Task("label", self.class_names),)
        return ExampleFacts(tasks, self.inputs, self.numeric_mean, self.numeric_std)

    def to_json(self) -> str:
        """Returns the record as JSON; `from_json` reads it."""
        return files.json_text(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a record that `to_json` wrote.

        Raises:
          ValueError: if the text is not JSON, or a field is missing, unknown or of another type.
        """
        info = json_format.read(cls, text, "the record")
        checks.check("", info)
        return info


def differences(
    before: RunInfo,
    now: RunInfo,
    examples_before: Mapping[str, Examples],
    examples_now: Mapping[str, Examples],
) -> list[str]:
    """Lists what a run would be trained on now that differs from what it was trained on.

    Args:
      before: the record of the run.
      now: the record that it would have now.
      examples_before, examples_now: the examples by split; a split may be missing.
    """
    lines = _classes(before.class_names, now.class_names)
    lines = lines or _tasks(before.tasks, now.tasks)
    renamed = bool(lines)
    lines += _inputs(before, now)
    for split, count in now.examples.items():
        if split not in before.examples:
            lines.append(f"split {split!r} is new")
            continue
        same_digest = before.digests.get(split, "") == now.digests.get(split, "")
        if split in before.digests and same_digest:
            continue
        one, other = examples_before.get(split), examples_now.get(split)
        if renamed or one is None or other is None or one.names is None or other.names is None:
            lines += examples.count_difference(split, before.examples[split], count)
            if split in before.digests and not renamed and count == before.examples[split]:
                lines.append(f"{split}: labels, order, content or weights of the images differ")
        else:
            lines += examples.differences(split, one, other, now.class_names)
    lines += [f"split {split!r} is gone" for split in before.examples if split not in now.examples]
    return lines + _network(before, now)


def is_divided_otherwise(config: Config, before: RunInfo) -> bool:
    """Returns whether a run of an earlier version held out other images than this version would.

    Earlier versions held out the images of lowest rank, and this one those below a threshold; runs
    whose record has digests were divided as they are now.
    """
    if before.digests:
        return False
    if config.data.carve is not None:
        return True
    is_listed = config.data.source.startswith(("folder:", "manifest:"))
    return is_listed and not own_splits(config.data.source, data_dir=config.data.data_dir)


def versions(mesh: Mesh) -> dict[str, str]:
    """Returns the versions of the libraries that numbers depend on, and what is switched on.

    "onednn" says whether a CPU computes by it, "determinism" whether a GPU repeats its bits.
    """
    found = {library: metadata.version(library) for library in _LIBRARIES}
    platform = mesh.devices.flat[0].platform
    if platform == "cpu":
        found["onednn"] = onednn.used_version(mesh.size) or "not used"
    if platform == "gpu":
        found["determinism"] = "on" if determinism.is_on() else "off"
    return found


def version_notes(before: RunInfo, now: RunInfo) -> list[str]:
    """Lists the libraries and switches that are other ones than when the run was trained."""
    return [
        f"{library} {before.versions[library]} then, {version} now"
        for library, version in now.versions.items()
        if before.versions.get(library, version) != version
    ]


def _classes(before: tuple[str, ...], now: tuple[str, ...]) -> list[str]:
    if before == now:
        return []
    gone = [name for name in before if name not in now]
    new = [name for name in now if name not in before]
    if not gone and not new:
        return [f"the order of the classes: {_first(before)} then, {_first(now)} now"]
    places = [before.index(name) for name in gone]
    if len(before) == len(now) and places == [now.index(name) for name in new]:
        pairs = zip(gone, new, strict=True)
        return [f"class {old!r} is called {name!r} now" for old, name in pairs]
    if len(gone) == len(new) == 1:
        return [f"class {gone[0]!r} is gone and {new[0]!r} is new, in another place of the order"]
    lines = []
    if gone:
        lines.append(f"{_number(len(gone), 'class', 'classes')} gone: {_first(gone)}")
    if new:
        lines.append(f"{_number(len(new), 'new class', 'new classes')}: {_first(new)}")
    return lines


def _tasks(before: tuple[Task, ...], now: tuple[Task, ...]) -> list[str]:
    """Lists the differences of tasks; earlier versions did not record them."""
    if not before or before == now:
        return []
    if [task.name for task in before] != [task.name for task in now]:
        names = [_first([task.name for task in tasks]) for tasks in (before, now)]
        return [f"tasks: {names[0]} then, {names[1]} now"]
    lines = []
    for one, other in zip(before, now, strict=True):
        if one.kind != other.kind:
            lines.append(f"task {one.name!r} was of the kind {one.kind!r}, and is {other.kind!r}")
        elif one != other:
            lines += [
                f"task {one.name!r}, {line}"
                for line in _classes(one.class_names, other.class_names)
            ]
    return lines


def _inputs(before: RunInfo, now: RunInfo) -> list[str]:
    """Lists the differences of the inputs beside the image; earlier versions had none."""
    old, new = dataclasses.asdict(before.inputs), dataclasses.asdict(now.inputs)
    lines = [
        f"inputs, {name}: {_shown(old[name])} then, {_shown(new[name])} now"
        for name in new
        if old[name] != new[name]
    ]
    for name in ("numeric_mean", "numeric_std"):
        values = vars(before)[name], vars(now)[name]
        if not lines and values[0] != values[1]:
            lines.append(f"the numbers of the training examples differ ({name})")
    return lines


def _shown(value: Any) -> str:
    """Returns the start of a value, which may be a vocabulary."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _network(before: RunInfo, now: RunInfo) -> list[str]:
    """Lists the differences of weights, evaluation transform and shapes."""
    lines = []
    if (before.weights is None) != (now.weights is None):
        lines.append(f"weights: {before.weights or 'random'} then, {now.weights or 'random'} now")
    elif before.weights and now.weights and before.weights.sha256 != now.weights.sha256:
        lines.append(f"other weights: {before.weights} then, {now.weights} now")
    for field, value in vars(now.preprocess).items():
        if (old := getattr(before.preprocess, field)) != value:
            lines.append(f"preprocessing, {field}: {old} then, {value} now")
    if before.parameters != now.parameters:
        lines.append(f"parameters: {before.parameters:,} then, {now.parameters:,} now")
    for name, shape in now.head.items():
        old_shape = before.head.get(name, shape if not before.head else None)
        if old_shape != shape:
            lines.append(f"{name} had the shape {old_shape}, and has {shape} now")
    for name, value in now.resolved.items():
        if name in before.resolved and before.resolved[name] != value:
            lines.append(f"{name}: {before.resolved[name]!r} was chosen then, {value!r} now")
    return lines


def _number(count: int, one: str, several: str) -> str:
    return f"{count} {one if count == 1 else several}"


def _first(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
