"""What a page says of a run is read here: the files of its folder, none of which needs its data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_jax.config import Config
from tl_jax.data.source import Task
from tl_jax.models import weights_reader
from tl_jax.run import journal
from tl_jax.run.folder import RunFolder, RunInfo


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
      path: its folder, as it was given.
      name: what the page calls it: the end of the path that no other run of the page has.
      config: its configuration.
      info: its record.
      report: as it wrote it; None before its end, and of a soup.
      records: of its journal.
      times: first and last event of each start, in seconds since 1970.
    """

    path: Path
    name: str
    config: Config
    info: RunInfo
    report: Mapping[str, Any] | None
    records: Sequence[Mapping[str, Any]]
    times: Sequence[tuple[float, float]]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it learned, the main task first."""
        return self.info.example_facts.tasks

    @property
    def shown(self) -> str:
        """The split that the page looks at more closely: of the report's intervals, or of tests."""
        data, report = self.config.data, self.report or {}
        split = report.get("intervals", {}).get("split") or data.test_split or data.eval_split
        assert split is not None  # A configuration has one of the two.
        return split

    def metrics(self, split: str, task: str) -> Mapping[str, Any]:
        """Returns the metrics of a task on a split as the report has them; {} if it has none."""
        return self._of_task("metrics", split, task)

    def calibrated(self, split: str, task: str) -> Mapping[str, Any]:
        """Returns the metrics with what was chosen after training, as `metrics`."""
        return self._of_task("calibrated_metrics", split, task)

    def _of_task(self, key: str, split: str, task: str) -> Mapping[str, Any]:
        """Returns the part of a task of an entry of the report; of one task it has no parts."""
        metrics = (self.report or {}).get(key, {}).get(split, {})
        return metrics.get("tasks", {self.tasks[0].name: metrics}).get(task, {})

    def interval(self, split: str, task: str, metric: str) -> list[float] | None:
        """Returns the 95% interval of a metric: Wilson's of an accuracy, else the bootstrap's."""
        own = self.metrics(split, task).get(f"{metric}_interval")
        bootstrapped = (self.report or {}).get("intervals", {})
        if own or bootstrapped.get("split") != split:
            return own
        name = f"{task}.{metric}" if len(self.tasks) > 1 else metric
        return bootstrapped["metrics"].get(name)


def read_runs(paths: Sequence[str | Path]) -> list[RunFiles]:
    """Reads the files of runs.

    Raises:
      ValueError: if there is none, one is named twice, or a file is damaged.
      FileNotFoundError: if a folder holds no run, or its run has not begun.
    """
    folders = [RunFolder(path) for path in paths]
    places = [folder.path.resolve() for folder in folders]
    if not places or len(set(places)) < len(places):
        raise ValueError(
            f"got the runs {', '.join(map(str, paths)) or 'none'}; expected the folder of one run, "
            "or of several that are to be compared, each once"
        )
    return [_read(folder, name) for folder, name in zip(folders, short_names(places), strict=True)]


def _read(folder: RunFolder, name: str) -> RunFiles:
    if weights_reader.is_checkpoint_folder(folder.path):
        raise ValueError(f"{folder.path} holds weights, not a run; a report is about a run")
    if not folder.is_run:
        raise FileNotFoundError(
            f"{folder.path} holds no run (no config.json); give the folder that train wrote to "
            "(--workdir)"
        )
    return RunFiles(
        folder.path,
        name,
        folder.read_config(),
        folder.read_info(),
        folder.read_report(),
        journal.read(folder.path),
        journal.times(folder.path),
    )


def short_names(places: Sequence[Path]) -> list[str]:
    """Returns the shortest ends of paths that tell them apart, all of as many parts.

    >>> short_names([Path("/runs/a/head"), Path("/runs/b/head")])
    ['a/head', 'b/head']
    """
    parts = [place.parts for place in places]
    longest = max(map(len, parts))
    for count in range(1, longest + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [str(place) for place in places]
