"""The record of a run: `metrics.jsonl` and TensorBoard events, one value a metric and step."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FILE = "metrics.jsonl"


class Journal(contextlib.AbstractContextManager):
    """Appends records of metrics to a run's files. Use as a context manager."""

    def __init__(self, workdir: Path, *, after_step: int, enabled: bool = True):
        """Opens the record of a run that goes on after a step.

        Args:
          workdir: the run's folder.
          after_step: what was recorded of later steps, by a run that was stopped before its next
            checkpoint, is dropped.
          enabled: False writes nothing (all processes but the first).
        """
        self._file = self._events = None
        if not enabled:
            return
        kept = [record for record in read(workdir) if record["step"] <= after_step]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        # Replaced as a whole: a stop in the middle of writing must not lose the record.
        part = workdir / f"{_FILE}.part"
        part.write_text(text)
        part.replace(workdir / _FILE)
        # tensorboardX imports torch wherever torch is installed; nobody else should pay for it.
        from tensorboardX import SummaryWriter

        self._file = (workdir / _FILE).open("a")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=after_step + 1)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
            self._events.close()

    def write(self, split: str, step: int, epoch: float, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of a split ("train", "validation" ...) at a step.

        Numbers go to both files; lists (metrics by class) to `metrics.jsonl` alone.
        """
        if self._file is None:
            return
        record = {"split": split, "step": step, "epoch": epoch, **metrics}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{split}/{name}", value, step)


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of a run in their order; none if there are none yet.

    A last line that was cut off by a stop is left out.
    """
    path = Path(workdir) / _FILE
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
