"""What a run says of itself: its first lines, and the table of each phase."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from tl_jax import determinism, messages, onednn, processor, trees
from tl_jax.config import Config
from tl_jax.data.source import Source
from tl_jax.run import parallel
from tl_jax.run.initial import Initial
from tl_jax.run.record import RunInfo
from tl_jax.transfer import freeze, groups

_LONGEST_NAME = 30
_SLOW_BFLOAT16 = (
    "this processor has no instructions for bfloat16 and computes in it more slowly than in "
    "float32; leave out model.dtype"
)
_COLUMNS = ("group", "parameters", "trained", "rate", "decay", "BatchNorm")


def describe_start(
    config: Config,
    info: RunInfo,
    *,
    splits: Sequence[Source],
    labels: Iterable[int],
    initial: Initial,
    defaults: Sequence[str],
    mesh: Mesh,
    notes: Sequence[str] = (),
) -> str:
    """Returns the first lines of a run: data, network, weights, decisions and devices.

    Args:
      config: the experiment.
      info: the record of the run.
      splits: the splits, that of training first.
      labels: of the training examples.
      initial: what training starts from.
      defaults: what was chosen for options that are "auto", a sentence each.
      mesh: the devices.
      notes: what is odd about the labels of the splits, a sentence each.
    """
    counts = ", ".join(f"{count:,} {split}" for split, count in info.examples.items())
    height, width = info.preprocess.size
    if [task.kind for task in info.tasks] in ([], ["multi_class"]):
        lines = [
            ("data", f"{config.data.source}: {counts}; {len(info.class_names):,} classes"),
            ("classes", class_counts(info.class_names, labels)),
        ]
    else:
        lines = [("data", f"{config.data.source}: {counts}"), *_tasks(info)]
    lines += _inputs(info)
    said = dict.fromkeys(note for split in splits for note in split.notes)
    lines += [("note", note) for note in {**said, **dict.fromkeys(notes)}]
    lines += [("warning", text) for text in info.warnings]
    lines += [
        ("skipped", f"{len(names)} corrupt images of {split}: {messages.some(names, quoted=False)}")
        for split, names in info.skipped.items()
        if names
    ]
    lines += _repeated(len(splits[0]), config.data.batch_size)
    parameters = f"{info.parameters:,} parameters"
    lines += [
        ("model", f"{config.model.name}: {parameters}, images {height}x{width}"),
        ("start", str(info.weights or "random weights")),
    ]
    if initial.trained_with is not None:
        departures = info.preprocess.departures(initial.trained_with)
        lines += [("warning", text) for text in departures]
    if initial.mapping is not None:
        lines.append(("mapping", str(initial.mapping)))
    lines += [("default", text) for text in defaults]
    lines.append(("device", describe_devices(mesh, config.model.dtype)))
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    if on_cpu and config.model.dtype == "bfloat16" and processor.lacks_bfloat16():
        lines.append(("warning", _SLOW_BFLOAT16))
    if divided := parallel.describe(config.parallel):
        lines.append(("parallel", divided))
    if on_cpu:
        lines.append(("conv", onednn.describe(mesh.size)))
    return "\n".join(f"{name:<8} {text}" for name, text in lines)


def class_counts(class_names: Sequence[str], labels: Iterable[int]) -> str:
    """Returns the first ten classes with their numbers of examples.

    Examples:
      >>> class_counts(["cat", "dog"], [0, 1, 0])
      'cat 2, dog 1'
    """
    counts = Counter(labels)
    listed = [f"{_shortened(name)} {counts[i]:,}" for i, name in enumerate(class_names)]
    return messages.some(listed, quoted=False)


def _tasks(info: RunInfo) -> list[tuple[str, str]]:
    """Returns a line for each task: its kind, and what its training labels are."""
    lines = []
    for task, counted in zip(info.tasks, info.label_statistics, strict=True):
        missing = f"; {counted.missing:,} without a label" if counted.missing else ""
        text = f"mean {counted.mean:.4g}, standard deviation {counted.std:.4g}"
        if task.class_names:
            pairs = zip(task.class_names, counted.counts, strict=True)
            listed = [f"{_shortened(name)} {count:,}" for name, count in pairs]
            text = messages.some(listed, quoted=False)
        kind = task.kind.replace("_", "-")
        lines.append(("task", f"{task.name} ({kind}): {text}{missing}"))
    return lines


def _inputs(info: RunInfo) -> list[tuple[str, str]]:
    """Returns a line on what an example holds beside one image, if it holds anything."""
    inputs = info.inputs
    words = [f"up to {inputs.views} views"] if inputs.views else []
    words += [f"numbers {messages.some(inputs.numeric)}"] if inputs.numeric else []
    names = [each.name for each in inputs.categorical]
    words += [f"categories {messages.some(names)}"] if names else []
    if inputs.max_tokens:
        words.append(f"texts of {inputs.max_tokens} of {len(inputs.vocabulary):,} words")
    words += [f"vectors of {inputs.vector}"] if inputs.vector else []
    return [("inputs", ", ".join(words))] if words else []


def describe_devices(mesh: Mesh, dtype: str) -> str:
    """Returns the devices, and how they compute: "cpu x1, float32".

    Args:
      mesh: the devices.
      dtype: of the network, "float32" or "bfloat16".
    """
    device = mesh.devices.flat[0]
    precision = dtype
    if dtype == "float32":
        chosen = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
        # What JAX takes on each platform if nobody chose.
        usual = {"gpu": "TF32", "cuda": "TF32", "tpu": "bfloat16"}.get(device.platform)
        if usual == "TF32" and float(getattr(device, "compute_capability", 8)) < 8:
            usual = None
        products = usual if chosen in (None, "default") else chosen
        if products not in (None, "float32", "highest"):
            precision = f"float32 with products in {products}"
    processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    repeats = ", deterministic" if device.platform == "gpu" and determinism.is_on() else ""
    return f"{device.device_kind} x{mesh.size}{processes}, {precision}{repeats}"


def _repeated(num_images: int, batch_size: int) -> list[tuple[str, str]]:
    """Returns a note if a step takes more images than there are."""
    if batch_size <= num_images:
        return []
    times = f"{batch_size / num_images:.3g}"
    return [
        (
            "note",
            f"a batch of {batch_size} is more than the {num_images} training images: an epoch is "
            f"one step, which sees each image {times} times; set data.batch_size to {num_images} "
            "or fewer to see each once",
        )
    ]


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def describe_plan(
    labels: trees.Tree,
    plan: trees.Tree,
    variables: trees.Tree,
    *,
    rates: Mapping[str, float] | None = None,
    decays: Mapping[str, float] | None = None,
    policies: Mapping[str, str] | None = None,
) -> str:
    """Returns a table with a line for each group of parameters, and one for the total.

    Args:
      labels: the group of every parameter (`groups.by_depth`).
      plan: labels of `tl_jax.transfer.freeze`.
      variables: `{"params": ..., "batch_stats": ...}`, arrays or abstract arrays.
      rates: peak learning rate by group; None leaves the column empty.
      decays: weight decay by group, likewise.
      policies: policy of BatchNorm by group; "update" for groups that are not listed.

    Returns:
      Columns: group, number of its parameters, number of those that are trained, learning rate,
      weight decay, and what its BatchNorm layers do ("frozen" if none of their parameters is
      trained).

    Examples:
      >>> import numpy as np
      >>> conv, fc = {"kernel": np.zeros((3, 3, 3, 8))}, {"kernel": np.zeros((8, 2))}
      >>> labels = {"conv": {"kernel": "stage0"}, "fc": {"kernel": "head"}}
      >>> plan = {"conv": {"kernel": "frozen"}, "fc": {"kernel": "head"}}
      >>> variables = {"params": {"conv": conv, "fc": fc}}
      >>> print(describe_plan(labels, plan, variables, rates={"head": 1e-3}))
      group   parameters  trained   rate  decay  BatchNorm
      stage0         216        0      -      -  -
      head            16       16  0.001      -  -
      all            232       16
    """
    rates, decays, policies = rates or {}, decays or {}, policies or {}
    group_of = trees.flatten(labels)
    is_trained = {path: label != freeze.FROZEN for path, label in trees.flatten(plan).items()}
    sizes = {path: leaf.size for path, leaf in trees.flatten(trees.params_of(variables)).items()}
    norm_layers = {path[:-1] for path in trees.flatten(variables.get("batch_stats", {}))}
    lines = [_COLUMNS]
    for group in groups.group_names(labels):
        paths = [path for path in sizes if group_of[path] == group]
        num_trained = sum(sizes[path] for path in paths if is_trained[path])
        norms = [path for path in paths if path[:-1] in norm_layers]
        policy = policies.get(group, "update")
        if not norms:
            policy = "-"
        elif policy != "recalibrate" and not any(is_trained[path] for path in norms):
            policy = "frozen"
        lines.append((
            group,
            f"{sum(sizes[path] for path in paths):,}",
            f"{num_trained:,}",
            _number(rates.get(group)) if num_trained else "-",
            _number(decays.get(group)) if num_trained else "-",
            policy,
        ))  # fmt: skip
    trained = sum(size for path, size in sizes.items() if is_trained[path])
    lines.append(("all", f"{sum(sizes.values()):,}", f"{trained:,}", "", "", ""))
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(_row(line, widths) for line in lines)


def count_parameters(params: trees.Tree) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(leaf.size for leaf in trees.flatten(params).values())


def _number(value: float | None) -> str:
    return f"{value:.3g}" if value else "-"


def _row(line: tuple[str, ...], widths: list[int]) -> str:
    cells = [line[0].ljust(widths[0])]
    cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1], strict=True)]
    return "  ".join([*cells, line[-1]]).rstrip()
