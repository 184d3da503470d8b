"""What was trained, from what and how, in the words of a table, and where and when."""

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tl_jax import messages, trees
from tl_jax.config import Config, changes, json_format
from tl_jax.reporting.read import RunFiles
from tl_jax.reporting.tables import NOTHING, Table, table
from tl_jax.run.phases import phase_configs

_LONGEST_VALUE = 200
_KINDS = {
    "multi_class": "one class of",
    "multi_label": "any of",
    "ordinal": "one level of",
    "regression": "a number",
}


def training(runs: Sequence[RunFiles]) -> Table:
    """Returns the table of what was trained, with a column for each run."""
    rows = {
        "Network": _network,
        "Started from": _start,
        "Data": lambda run: run.config.data.source,
        "Examples": _examples,
        "Learned": _tasks,
        "Inputs beside the image": _inputs,
        "Transfer": _transfer,
        "Phases": _phases,
        "Optimizer": _optimizer,
        "Epochs": _epochs,
        "Best checkpoint": _best,
        "Before training": _zero_shot,
        "Chosen after training": _chosen,
        "Left out": _left_out,
    }
    return _of_runs("What was trained", runs, rows)


def environment(runs: Sequence[RunFiles]) -> Table:
    """Returns the table of devices, times and versions, with a column for each run."""
    libraries = dict.fromkeys(name for run in runs for name in run.info.versions)
    rows: dict[str, Callable[[RunFiles], str]] = {
        "Device": lambda run: (run.report or {}).get("device", ""),
        "Begun": lambda run: clock(run.times[0][0]) if run.times else "",
        "Last record": lambda run: clock(run.times[-1][1]) if run.times else "",
        "Time of training": _duration,
        "Folder": lambda run: str(run.path),
    }
    rows |= {library: functools.partial(_version, library) for library in libraries}
    return _of_runs("Where and when", runs, rows)


def _version(library: str, run: RunFiles) -> str:
    return run.info.versions.get(library, "")


def _of_runs(
    caption: str, runs: Sequence[RunFiles], rows: Mapping[str, Callable[[RunFiles], str]]
) -> Table:
    """Returns a table without the rows that say nothing of any run."""
    said = {name: [of_run(run) for run in runs] for name, of_run in rows.items()}
    heads = ["", *(run.name for run in runs)]
    told = [[name, *(text or NOTHING for text in row)] for name, row in said.items() if any(row)]
    return table(caption, heads, told)


def seconds(run: RunFiles) -> float | None:
    """Returns for how long a run was trained, without the time between its starts."""
    return sum(last - first for first, last in run.times) if run.times else None


def clock(time: float) -> str:
    """Returns a time in seconds since 1970 as date and time of this machine's zone."""
    moment = datetime.datetime.fromtimestamp(time).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M %Z")


def _duration(run: RunFiles) -> str:
    lasted = seconds(run)
    if lasted is None:
        return ""
    starts = f", in {len(run.times)} starts" if len(run.times) > 1 else ""
    return f"{datetime.timedelta(seconds=round(lasted))}{starts}"


def _network(run: RunFiles) -> str:
    height, width = run.info.preprocess.size
    model = run.config.model
    head = "" if model.head == "linear" else f", {model.head} head"
    parameters = f"{run.info.parameters:,} parameters"
    return f"{model.name}{head}, {parameters}, images {height}x{width}, {model.dtype}"


def _start(run: RunFiles) -> str:
    weights = run.info.weights
    if weights is None:
        return "random weights"
    return f"{weights.name}, from {weights.source} (sha256 {weights.sha256[:12]})"


def _examples(run: RunFiles) -> str:
    counts = [f"{count:,} {split}" for split, count in run.info.examples.items()]
    subsets = {
        "few_shot": "{shots} of each class of {split} (seed {seed})",
        "carve": "{split} is a part of the training split (seed {seed})",
    }
    for split, record in run.info.subsets.items():
        if record.get("kind") in subsets:
            counts.append(subsets[record["kind"]].format(split=split, **record))
    return ", ".join(counts)


def _tasks(run: RunFiles) -> str:
    """Returns each task with its kind and its training labels."""
    told = []
    for index, task in enumerate(run.tasks):
        statistics = run.info.label_statistics  # Earlier versions recorded none.
        counted = statistics[index] if statistics else None
        words = f"{task.name}: {_KINDS[task.kind]}"
        if task.class_names:
            names = list(task.class_names)
            if counted and counted.counts:
                pairs = zip(names, counted.counts, strict=True)
                names = [f"{name} {count:,}" for name, count in pairs]
            words += f" {len(names):,} ({messages.some(names, quoted=False)})"
        elif counted:
            words += f" (mean {counted.mean:.4g}, standard deviation {counted.std:.4g})"
        told.append(words)
    return "; ".join(told)


def _inputs(run: RunFiles) -> str:
    inputs = run.info.inputs
    views = [f"up to {inputs.views} views"] if inputs.views else []
    return ", ".join([*views, *inputs.keys])


def _transfer(run: RunFiles) -> str:
    """Returns how the pretrained network is carried over, with what "auto" became."""
    transfer = resolved(run).transfer
    words = [f"classifier: {transfer.classifier}", f"head begins at: {transfer.head_init}"]
    if transfer.adaptation != "none":
        words.append(f"added: {transfer.adaptation}")
    return ", ".join([*words, f"BatchNorm: {transfer.batch_norm}"])


def _phases(run: RunFiles) -> str:
    """Returns the freeze plan of each phase: its epochs, and how much of the network it trains."""
    trained = (run.report or {}).get("trained_parameters", {})
    told, start = [], 1
    for phase in phase_configs(run.config):
        end = start + phase.epochs - 1
        epochs = f"epoch {start}" if start == end else f"epochs {start} to {end}"
        words = f"{epochs}: {phase.trained}"
        if phase.trained in trained:
            count = trained[phase.trained]
            words += f" ({count:,} parameters, {count / run.info.parameters:.1%})"
        told.append(words)
        start = end + 1
    return "; ".join(told)


def _optimizer(run: RunFiles) -> str:
    optim = resolved(run).optim
    head = optim.head_learning_rate
    rate = f"rate {optim.learning_rate:g}"
    if isinstance(head, float) and head != optim.learning_rate:
        rate += f" (head {head:g})"
    parts = [optim.name, rate, optim.schedule, f"weight decay {optim.weight_decay:g}"]
    return ", ".join([*parts, f"batches of {run.config.data.batch_size}"])


def _epochs(run: RunFiles) -> str:
    planned = sum(phase.epochs for phase in phase_configs(run.config))
    if run.report is None:
        last = max((record["epoch"] for record in run.records), default=0)
        return f"{last:.3g} of {planned} recorded; the run has no report"
    stopped = f"; stopped: {run.report['stopped']}" if run.report.get("stopped") else ""
    skipped = run.report.get("skipped_steps")
    said = f"; {skipped} steps skipped" if skipped else ""
    return f"{run.report['epochs']} of {planned}{stopped}{said}"


def _best(run: RunFiles) -> str:
    if run.report is None or run.report.get("best_epoch") is None:
        return ""
    metric = run.report.get("best_metric")
    by = f", by {metric} on {run.config.data.eval_split}" if metric else ", the last"
    return f"epoch {run.report['best_epoch']}{by}"


def _zero_shot(run: RunFiles) -> str:
    record = (run.report or {}).get("zero_shot")
    if not record or record.get("accuracy") is None:
        return ""
    return f"accuracy {record['accuracy']:.3f} with the classes that were carried over"


def _chosen(run: RunFiles) -> str:
    return "; ".join(
        f"{task}: {how_chosen(of_task)}"
        for task, of_task in (run.report or {}).get("calibration", {}).items()
    )


def how_chosen(chosen: Mapping[str, Any]) -> str:
    """Returns what was chosen for a task after training, in words.

    >>> how_chosen({"temperature": 1.2345})
    'temperature 1.23'
    """
    if "temperature" in chosen:
        return f"temperature {chosen['temperature']:.3g}"
    return "thresholds of the classes"


def _left_out(run: RunFiles) -> str:
    return ", ".join(
        f"{len(names)} images of {split} that cannot be decoded"
        for split, names in run.info.skipped.items()
        if names
    )


def resolved(run: RunFiles) -> Config:
    """Returns the configuration with what "auto" became."""
    return changes.with_values(run.config, run.info.resolved)


def options(runs: Sequence[RunFiles]) -> Table:
    """Returns the options that differ: between the runs, or of one run from the defaults."""
    configs = [run.config for run in runs]
    heads = [run.name for run in runs]
    if len(runs) == 1:
        configs, heads = [Config(), *configs], ["default", *heads]
    caption = "Options that differ" + (" from the defaults" if len(runs) == 1 else "")
    rows = [[name, *(_value(each, name) for each in configs)] for name in differing(configs)]
    return table(caption, ["option", *heads], rows, is_code=True)


def differing(configs: Sequence[Config]) -> list[str]:
    """Returns the dotted names of the options in which some configurations differ, in order.

    >>> differing([Config(), changes.with_values(Config(), {"train.epochs": 7})])
    ['train.epochs']
    """
    names = {name for config in configs for name in changes.changed(configs[0], config)}
    ordered = [trees.dotted(path) for path in json_format.flat(configs[0])]
    return [name for name in ordered if name in names]


def _value(config: Config, name: str) -> str:
    """Returns a value as the command line takes it, of which a long one loses its end."""
    text = changes.as_options(config, [name]).partition(" ")[2] or "none"
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
