"""How runs differ on the examples that they share, or why that is not told."""

from collections.abc import Sequence
from typing import Any

from tl_jax.objectives.main_intervals import main_differences
from tl_jax.reporting.again import Seen
from tl_jax.reporting.read import RunFiles


def differences(runs: Sequence[RunFiles], seen: Sequence[Seen | str]) -> list[dict[str, Any]]:
    """Returns for each run but the first how far its metrics are from those of the first.

    Args:
      runs: the runs.
      seen: what each says of its examples, or why that is not known.

    Returns:
      `run`, `baseline` and `split`; and `metrics`, by "METRIC" or "TASK.METRIC" the `difference`
      and its 95% `interval`, or {} and a `reason`.
    """
    return [
        {
            "run": run.name,
            "baseline": runs[0].name,
            "split": run.shown,
            **_difference((runs[0], seen[0]), (run, of_run)),
        }
        for run, of_run in zip(runs[1:], seen[1:], strict=True)
    ]


def _difference(
    first: tuple[RunFiles, Seen | str], other: tuple[RunFiles, Seen | str]
) -> dict[str, Any]:
    """Returns the metrics by which a run differs from the first, or why they are not known."""
    reason = _not_shared(first[0], other[0])
    if reason is not None:
        return {"metrics": {}, "reason": reason}
    for run, seen in (first, other):
        if isinstance(seen, str):
            return {"metrics": {}, "reason": f"predictions of {run.name} cannot be had: {seen}"}
    assert isinstance(first[1], Seen) and isinstance(other[1], Seen)
    return {"metrics": _metrics(first[0], other[0], first[1], other[1])}


def _not_shared(first: RunFiles, run: RunFiles) -> str | None:
    """Returns why two runs have no examples in common, if so."""
    for each in (first, run):
        if each.report is None:
            return f"{each.name} has no report"
        if each.shown not in each.info.digests:
            return f"an earlier version trained {each.name}, and did not record its examples"
    if first.tasks != run.tasks:
        return f"{first.name} and {run.name} learned other tasks or classes"
    if first.info.digests[first.shown] != run.info.digests[run.shown]:
        return f"{first.name} and {run.name} were measured on other examples"
    return None


def _metrics(first: RunFiles, run: RunFiles, one: Seen, other: Seen) -> dict[str, Any]:
    found = {}
    for task in other.tasks:
        intervals = main_differences(
            (other.plain(task), other.tasks[task].rows), (one.plain(task), one.tasks[task].rows)
        )
        for metric, interval in intervals.items():
            before = first.metrics(first.shown, task).get(metric)
            after = run.metrics(run.shown, task).get(metric)
            if before is not None and after is not None:
                name = f"{task}.{metric}" if len(other.tasks) > 1 else metric
                found[name] = {"difference": after - before, "interval": interval}
    return found
