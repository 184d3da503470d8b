"""The journal of a run: `metrics.jsonl` and TensorBoard events of its metrics by step."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from tl_jax import files

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

_FILE = "metrics.jsonl"


class Journal:
    """Appends records of metrics to a run's files. Use as a context manager."""

    _file: TextIO | None = None
    _events: "SummaryWriter | None" = None

    def __init__(self, workdir: Path, *, after_step: int, enabled: bool = True) -> None:
        """Opens the journal of a run that continues after a step.

        Args:
          workdir: the run's folder.
          after_step: records of later steps, left by a run that was stopped before its next
            checkpoint, are dropped.
          enabled: whether to write; False on all processes but the first.
        """
        if not enabled:
            return
        records = [record for record in read(workdir) if record["step"] <= after_step]
        text = "".join(json.dumps(record) + "\n" for record in records)
        files.write_text(workdir / _FILE, text)
        # Imported late: tensorboardX imports torch wherever torch is installed.
        from tensorboardX import SummaryWriter

        self._file = (workdir / _FILE).open("a", encoding="utf-8")
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=after_step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, split: str, step: int, epoch: float, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of a split ("train", "validation" ...) at a step.

        Numbers go to both files; lists (metrics by class) to `metrics.jsonl` alone.
        """
        if self._file is None or self._events is None:
            return
        record = {"split": split, "step": step, "epoch": epoch, **metrics}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._events.add_scalar(f"{split}/{name}", value, step)


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of a run in their order; none if nothing was recorded yet.

    A last line that is incomplete, because the run was killed, is left out.
    """
    path = Path(workdir) / _FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
