"""The journal of a run: `metrics.jsonl` and TensorBoard events of its metrics by step."""

import math
import os
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TextIO

from tl_jax import files

if TYPE_CHECKING:
    from tensorboardX.event_file_writer import EventsWriter

_FILE = "metrics.jsonl"
_FIELDS = ("split", "step", "epoch")
_FIRST_DOUBLE = 0x09  # Before a double that is the first field of a message.


class Journal:
    """Appends records of metrics to a run's files. Use as a context manager."""

    _file: TextIO | None = None
    _events: "EventsWriter | None" = None

    def __init__(
        self, workdir: Path, *, after_step: int, is_evaluated: bool = True, enabled: bool = True
    ) -> None:
        """Opens the journal of a run that continues after a step.

        Args:
          workdir: the run's folder.
          after_step: records of later steps, left by a run that was stopped before its next
            checkpoint, are dropped.
          is_evaluated: whether the step was evaluated; if not, only its records of training stay.
          enabled: whether to write; False on all processes but the first.

        Raises:
          ValueError: if a line of `metrics.jsonl` is damaged.
        """
        if not enabled:
            return
        self._path, self._events_folder = workdir / _FILE, workdir / "tensorboard"
        records = [
            record
            for record in read(workdir)
            if record["step"] < after_step
            or (record["step"] == after_step and (is_evaluated or record["split"] == "train"))
        ]
        files.write_text(self._path, "".join(files.json_text(r) + "\n" for r in records))
        self._file = self._path.open("a", encoding="utf-8")
        with files.naming(self._events_folder):
            self._open_events(after_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()

    def write(self, split: str, step: int, epoch: float, metrics: Mapping[str, Any]) -> None:
        """Records the metrics of a split ("train", "validation" ...) at a step.

        Finite numbers go to both files; lists (metrics by class) to `metrics.jsonl` alone, and
        numbers that are not finite as null.

        Raises:
          OSError: if a file cannot be written; the error names it.
        """
        if self._file is None or self._events is None:
            return
        record = {"split": split, "step": step, "epoch": epoch, **metrics}
        with files.naming(self._path):
            self._file.write(files.json_text(record) + "\n")
            self._file.flush()
        with files.naming(self._events_folder):
            self._write_events({f"{split}/{name}": value for name, value in metrics.items()}, step)

    def _open_events(self, after_step: int) -> None:
        # Imported late: tensorboardX imports torch wherever torch is installed. Its SummaryWriter
        # writes in a thread, where an error of the disk is lost and the run waits for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._events_folder.mkdir(exist_ok=True)
        # The name has the second; a run that is started twice in one must not lose the first file.
        self._events = EventsWriter(str(self._events_folder / "events"), f".{os.getpid()}")
        start = SessionLog(status=SessionLog.START)
        # What TensorBoard has read of later steps is hidden.
        self._events.write_event(Event(step=after_step + 1, session_log=start))
        self._events.flush()

    def _write_events(self, values: Mapping[str, Any], step: int) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        assert self._events is not None
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                event = Event(step=step, wall_time=time.time(), summary=scalar(name, value))
                self._events.write_event(event)
        self._events.flush()


def times(workdir: Path) -> list[tuple[float, float]]:
    """Returns when each start of a run was recorded: its first and its last event, in their order.

    They are seconds since 1970, of the events of TensorBoard; the journal itself has no clock in
    it, so that a resumed run's is that of a run that was never killed. A file that is damaged or
    cut off counts as far as it can be read.
    """
    files_of_events = (Path(workdir) / "tensorboard").glob("events*")
    clocks = [list(_wall_times(path.read_bytes())) for path in files_of_events]
    return sorted((clock[0], clock[-1]) for clock in clocks if clock)


def _wall_times(content: bytes) -> Iterator[float]:
    """Yields the time of each event of a file.

    An event is its length (8 bytes), a checksum (4), a message and a checksum (4). The message
    begins with the field 1, a double.
    """
    place = 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        start, place = place + 12, place + 16 + length
        if place <= len(content) and length >= 9 and content[start] == _FIRST_DOUBLE:
            yield struct.unpack_from("<d", content, start + 1)[0]


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of a run in their order; none if nothing was recorded yet.

    A last line that is damaged, because the run was killed, is left out.

    Raises:
      ValueError: if another line is damaged; the message has its number.
    """
    path = Path(workdir) / _FILE
    if not path.exists():
        return []
    numbered = enumerate(path.read_bytes().split(b"\n"), start=1)
    lines = [(number, line) for number, line in numbered if line.strip()]
    records = []
    for number, line in lines:
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < lines[-1][0]:
            raise ValueError(
                f"{path}, line {number}: got {line[:40].decode(errors='replace')!r}, expected a "
                'record such as {"split": "train", "step": 1, "epoch": 0.5, ...}; delete this '
                "line, or the whole file: only the curves need it"
            )
    return records


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns the record of a line, or None if it is damaged."""
    try:
        record = files.parse_json(line)
    except ValueError:
        return None
    if not (isinstance(record, dict) and all(field in record for field in _FIELDS)):
        return None
    return record if isinstance(record["step"], int) else None
