"""Damages the checkpoints of a run, and takes away its disk: it goes on from the newest sound one.

"damage": files of the newest checkpoints are cut off, deleted, set to zero, or get one other bit,
at seeded places. What is then restored has to be the newest checkpoint that nothing happened to,
bit for bit, and a run that goes on has to end with the bits of an unbroken one.

"disk": in the middle of a run its disk is full, becomes read-only, or its folder vanishes. The run
has to end with a message that says so, and once the disk is back the same call has to end with
the bits of an unbroken run. The disk is a tmpfs of a few MiB; where none may be mounted, a limit on
the size of files takes the place of the full one, and a read-only disk is not tried.
"""

import contextlib
import dataclasses
import io
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.faults_runs import arrays_digest, configurations, make_tiny, write_digest
from tl_jax import Config, fit
from tl_jax.config import changes
from tl_jax.run.folder import RunFolder
from tl_jax.training.checkpoint import CheckpointError

KINDS = ("cut off", "deleted", "one bit", "zeros")
EVENTS = ("full", "read-only", "vanished")
_TRIALS, _RUNS = (
    12,
    2,
)  # Of each kind: those that are read, and those that are trained to their end.
_MIB = 3
_QUESTION = 9  # The step, or batch of evaluation, at which the disk goes.
_LIMIT_S = 300.0


@dataclasses.dataclass
class Row:
    """What came of one kind of fault.

    Attributes:
      fault: its kind.
      trials: how often it was tried.
      right: how often the newest sound checkpoint was used, or the error was one clear message.
      runs: how many runs were trained to their end.
      same: how many of them ended with the bits of an unbroken one.
      notes: what went wrong, and examples of messages.
    """

    fault: str
    trials: int = 0
    right: int = 0
    runs: int = 0
    same: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether every trial went as it has to."""
        return self.trials == self.right and self.runs == self.same

    def __str__(self) -> str:
        numbers = f"{self.right} of {self.trials} right, {self.same} of {self.runs} the same bits"
        return "\n  ".join([f"{self.fault:<12} {numbers}", *self.notes])


# ---- damage


def damage(scratch: Path, *, seed: int) -> list[Row]:
    """Damages checkpoints in every way; returns a row for each kind."""
    options = {"save_every": None, "keep": 3}
    expected = _unbroken(scratch, options)
    begun = scratch / "begun"
    _must_train(begun, options, stop_after_epoch=3)
    states = {step: arrays_digest(begun / "checkpoints" / str(step)) for step in _steps(begun)}
    rows = []
    for kind in KINDS:
        rng, row = random.Random(f"{seed} {kind}"), Row(kind)
        for trial in range(_TRIALS):
            folder = shutil.copytree(begun, scratch / f"{kind} {trial}")
            damaged = sorted(states)[-1 - trial % 2 :]  # The newest, or the newest two.
            files = [
                _damage_a_file(folder / "checkpoints" / str(step), kind, rng) for step in damaged
            ]
            row.trials += 1
            row.right += _is_sound(folder, states, newest_untouched=min(damaged) - 1, row=row)
            if trial < _RUNS:
                row.runs += 1
                _must_train(folder, options)
                row.same += _read_digest(folder) == expected
            if row.trials > row.right or row.runs > row.same:
                row.notes.append(f"after damage of {', '.join(files)}")
            shutil.rmtree(folder)
        rows.append(row)
    return rows


def _damage_a_file(step: Path, kind: str, rng: random.Random) -> str:
    """Damages a random file of a checkpoint, and returns its name."""
    file = rng.choice(sorted(path for path in step.rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    if kind == "deleted" or not content:
        file.unlink()
    elif kind == "cut off":
        file.write_bytes(content[: rng.randrange(len(content))])
    elif kind == "zeros":
        file.write_bytes(bytes(len(content)))
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
    return str(file.relative_to(step.parent))


def _is_sound(folder: Path, states: dict[int, Any], *, newest_untouched: int, row: Row) -> bool:
    """Whether what would be restored has the right bits, and is not older than it must be.

    Of a few files the content does not matter, such as a mark that says that all was written.
    """
    with (
        contextlib.redirect_stderr(io.StringIO()),
        RunFolder(folder).open_checkpoints(_config({}), read_only=True) as checkpoints,
    ):
        step = checkpoints.latest_step()
    untouched = max(each for each in states if each <= newest_untouched)
    if step is None or step < untouched:
        row.notes.append(f"step {step} would be restored, expected {untouched}")
        return False
    return arrays_digest(folder / "checkpoints" / str(step)) == states[step]


# ---- disk


def disk(scratch: Path, *, seed: int) -> list[Row]:
    """Takes the disk away in every way; returns a row for each. Nothing here is random."""
    del seed
    expected = _unbroken(scratch, {})
    mount = scratch / "mounted"
    mount.mkdir()
    is_mounted = _run("mount", "-t", "tmpfs", "-o", f"size={_MIB}m", "tmpfs", mount)
    try:
        events = EVENTS if is_mounted else ("full", "vanished")
        return [_take_disk_away(event, mount, expected, is_mounted=is_mounted) for event in events]
    finally:
        if is_mounted:
            _run("umount", mount)


def _take_disk_away(event: str, mount: Path, expected: dict[str, str], *, is_mounted: bool) -> Row:
    row, folder = Row(event, trials=1, runs=1), mount / event
    if event == "read-only":
        # A disk of which files are open for writing cannot become so; the run is continued on it.
        _must_train(folder, {}, stop_after_epoch=3)
        _run("mount", "-o", f"remount,ro,size={_MIB}m", mount)
        status, log = _train(folder, {}), mount.parent / "log.txt"
        _run("mount", "-o", f"remount,rw,size={_MIB}m", mount)
    else:
        limits = event == "full" and not is_mounted
        status = _train(folder, {}, event="limit" if limits else event)
        log = mount.parent / "log.txt"
    said = log.read_text()
    row.right = int(status == 1 and "Traceback" not in said and "error: " in said)
    row.notes.append(said[said.rindex("error: ") :].strip() if row.right else said[-2000:])
    row.notes[-1] = row.notes[-1].replace(str(mount), "DISK")
    (mount / "filler").unlink(missing_ok=True)
    if event == "vanished":
        shutil.rmtree(folder, ignore_errors=True)
        (mount / "elsewhere").rename(folder)
    _must_train(folder, {})
    row.same = int(_read_digest(folder) == expected)
    shutil.rmtree(folder)
    return row


def _happen(event: str, workdir: Path) -> None:
    """Lets the disk of a run that trains be full, or its folder vanish."""
    if event == "vanished":
        workdir.rename(workdir.parent / "elsewhere")
    elif event == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
    else:
        with contextlib.suppress(OSError), (workdir.parent / "filler").open("wb", 0) as filler:
            while True:
                filler.write(bytes(1024))


def _run(*command: object) -> bool:
    done = subprocess.run(list(map(str, command)), capture_output=True, check=False)
    return done.returncode == 0


# ---- runs


def _config(options: dict[str, Any]) -> Config:
    named = {f"train.{name}": value for name, value in options.items()}
    return changes.with_values(configurations()["plain"], named)


def _unbroken(scratch: Path, options: dict[str, Any]) -> dict[str, str]:
    """Returns the hashes of a run that nobody disturbed."""
    scratch.mkdir(parents=True)
    _must_train(scratch / "unbroken", options)
    return _read_digest(scratch / "unbroken")


def _must_train(workdir: Path, options: dict[str, Any], **given: Any) -> None:
    if _train(workdir, options, **given) != 0:
        raise RuntimeError(_log_of(workdir).read_text())


def _train(workdir: Path, options: dict[str, Any], **given: Any) -> int | None:
    """Trains in a process of its own, which may end in any way; returns its exit status."""
    _log_of(workdir).unlink(missing_ok=True)
    return _in_process(train, workdir, options, _log_of(workdir), given)


def train(workdir: Path, options: dict[str, Any], log: Path, given: dict[str, Any]) -> None:
    """Trains; an error is a line in the log, as of the command, and the status 1."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    make_tiny()
    event, questions = given.pop("event", None), itertools.count(1)

    def should_stop() -> bool:
        if next(questions) == _QUESTION and event is not None:
            _happen(event, workdir)
        return False

    try:
        fit(_config(options), workdir, should_stop=should_stop, **given)
    except (CheckpointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def _in_process(function: Callable[..., None], *arguments: Any) -> int | None:
    process = multiprocessing.get_context("forkserver").Process(target=function, args=arguments)
    process.start()
    process.join(_LIMIT_S)
    process.kill()
    return process.exitcode


def _read_digest(workdir: Path) -> dict[str, str]:
    for aside in (workdir / "checkpoints").glob("*.damaged*"):  # Of which the log told.
        shutil.rmtree(aside)
    found = workdir.parent / "digest.json"
    _in_process(write_digest, workdir)
    hashes: dict[str, str] = json.loads(found.read_text())
    found.unlink()
    return hashes


def _steps(workdir: Path) -> list[int]:
    return [int(path.name) for path in (workdir / "checkpoints").iterdir()]


def _log_of(workdir: Path) -> Path:
    """Returns the file of what a run prints; not on a disk that is taken away."""
    folder = workdir.parent.parent if workdir.parent.name == "mounted" else workdir.parent
    return folder / "log.txt"
