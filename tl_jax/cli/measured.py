"""What `evaluate` and `probe` print: of each task the metrics that a person reads, in order."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tl_jax.objectives.metric_names import in_words
from tl_jax.probes.probe import ProbeResult

_SHOWN: dict[str, tuple[str, ...]] = {
    "multi_class": ("accuracy", "balanced_accuracy", "macro_f1", "loss", "calibration_error"),
    "multi_label": ("mean_average_precision", "macro_f1", "micro_f1", "exact_match", "loss"),
    "ordinal": ("quadratic_kappa", "mae", "accuracy", "balanced_accuracy", "loss"),
    "regression": ("mae", "rmse", "r2", "loss"),
}
# What temperatures and thresholds change, of what is shown.
_CALIBRATED = {
    "multi_class": ("calibration_error",),
    "multi_label": ("macro_f1", "micro_f1", "exact_match"),
}


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Yields the lines that say what `evaluate` found.

    Args:
      result: of `tl_jax.evaluation.evaluate.evaluate`.
    """
    examples = "images" if result["inputs"][0] == "image" else "examples"
    yield f"{result['split']}: {result['count']} {examples}, checkpoint of step {result['step']}"
    for note in result["notes"]:
        yield f"  note: {note}"
    intervals, calibrated = result["intervals"], result["calibrated_metrics"]
    if "tasks" not in result:
        chosen: Mapping[str, Any] = next(iter(result["calibration"].values()), {})
        yield from _task(result, calibrated, chosen, intervals)
        return
    yield _metric("loss", result, intervals)
    for name, task in result["tasks"].items():
        yield f"{name}: {task['count']} with a label"
        of_task = {
            metric.removeprefix(f"{name}."): bounds
            for metric, bounds in intervals.items()
            if metric.startswith(f"{name}.")
        }
        of_calibrated = calibrated.get("tasks", {}).get(name, {})
        yield from _task(task, of_calibrated, result["calibration"].get(name, {}), of_task)


def of_probe(result: ProbeResult) -> Iterator[str]:
    """Yields the lines that say what a probe found."""
    if not result.metrics:
        low, high = result.accuracy_interval
        yield f"  accuracy  {result.accuracy:.4f}  (95%: {low:.4f} to {high:.4f})"
    for name in _SHOWN[result.kind]:
        if name in result.metrics:
            yield _metric(name, result.metrics, {})


def _task(
    task: Mapping[str, Any],
    calibrated: Mapping[str, Any],
    chosen: Mapping[str, Any],
    intervals: Mapping[str, Sequence[float]],
) -> Iterator[str]:
    """Yields the lines of one task."""
    kind = task["kind"]
    for name in _SHOWN[kind]:
        line = _metric(name, task, intervals)
        if name in calibrated and name in _CALIBRATED.get(kind, ()):
            how = "thresholds" if "thresholds" in chosen else "temperature"
            value = f" {chosen['temperature']:.3g}" if how == "temperature" else ""
            line += f"  (with the chosen {how}{value}: {_number(calibrated[name])})"
        yield line
    for index, name in enumerate(task["class_names"]):
        yield f"  {name}: {_class(task, index, absent=name in task['absent_classes'])}"


def _metric(name: str, metrics: Mapping[str, Any], intervals: Mapping[str, Sequence[float]]) -> str:
    bounds = metrics.get(f"{name}_interval") or intervals.get(name)
    said = f"  (95%: {bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
    return f"  {in_words(name):<17}  {_number(metrics[name])}{said}"


def _class(task: Mapping[str, Any], index: int, *, absent: bool) -> str:
    shown = "no image" if absent else f"recall {_number(task['recall'][index])}"
    shown += f", precision {_number(task['precision'][index])}"
    if task["kind"] == "multi_label":
        shown += f", F1 {_number(task['f1'][index])}"
    return shown


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
