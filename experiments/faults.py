"""Disturbs training runs, and checks that each ends with the bits of one that was left alone.

Command, which writes experiments/results/faults.json:
    python -m experiments.faults --kills 56 --jobs 1

Four configurations with a tiny network train for a few seconds, and write a checkpoint every two
steps.

Part "kills": two of three times a process gets SIGKILL, with its whole process group, else SIGTERM,
after which it has to save and end with the status 75. The moments are seeded and random: a third
of them anywhere, a third within milliseconds after something changed in the folder of checkpoints,
a third in an evaluation or where a phase begins. The same call goes on until the run is finished.
After each kill the folder is also read as `predict` would read it. Of a run of two processes one
gets the signal, and the other one has to end with the status 75 too.

A run is lost if a process ends by itself with another status. It differs if, at the end, the
variables, the optimizer's state, the metrics (without timing), the report or the names of the
checkpoints are not those of a run that nobody disturbed.

Parts "damage" and "disk": see `experiments.faults_folder`.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Before JAX is imported, here and in the processes that are killed.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        _cache = tempfile.TemporaryDirectory(prefix="faults-cache-")  # Removed at the end.
        os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    # Each process imports this module twice, and one that is killed cannot clean up.
    quiet = ("ignore::RuntimeWarning:runpy", "ignore::UserWarning:multiprocessing.resource_tracker")
    os.environ["PYTHONWARNINGS"] = ",".join(quiet)

from experiments import faults_folder
from experiments.faults_runs import MOMENTS, configurations, train, write_digest
from tl_jax import interrupt

# One folder of checkpoints changes about every tenth of a second in these runs.
_AIMED_WITHIN_S = 0.03
_POLL_S = 0.0005
_LIMIT_S = 300.0
_RUN = "run"
_PARTS = ("kills", "damage", "disk")
_RESULT = Path(__file__).parent / "results" / "faults.json"


@dataclasses.dataclass
class Outcome:
    """What happened to the runs of one configuration."""

    configuration: str
    processes: int = 1
    kills: int = 0
    stops: int = 0
    in_a_write: int = 0
    moments: dict[str, int] = dataclasses.field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    slowest_end_s: float = 0.0
    runs: int = 0
    lost: int = 0
    differing: int = 0
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def signals(self) -> int:
        """Signals of both kinds."""
        return self.kills + self.stops


def torture(name: str, signals: int, *, seed: int, scratch: Path, processes: int = 1) -> Outcome:
    """Stops runs of a configuration `signals` times in all; each run is finished.

    Args:
      name: of the configuration.
      signals: number of signals in all.
      seed: of their moments.
      scratch: folder for the runs.
      processes: of each run.
    """
    rng, start = random.Random(f"{seed} {name}"), time.monotonic()
    outcome = Outcome(name, processes)
    expected, duration = _undisturbed(name, scratch, processes)
    while outcome.signals < signals:
        outcome.runs += 1
        folder = scratch / f"run{outcome.runs}"
        error = _finish(name, folder, rng, duration, outcome, signals)
        if error is not None:
            outcome.lost += 1
            outcome.notes.append(f"run {outcome.runs} is lost: {error}")
            continue
        found = _read_digest(folder)
        differences = [key for key in expected if found.get(key) != expected[key]]
        if differences:
            outcome.differing += 1
            outcome.notes.append(f"run {outcome.runs} differs in {', '.join(differences)}")
    outcome.seconds = round(time.monotonic() - start, 1)
    return outcome


def _undisturbed(name: str, scratch: Path, processes: int) -> tuple[dict[str, str], float]:
    """Trains a run twice; returns its hashes, and the seconds that it takes once compiled."""
    found = []
    for attempt in ("compiling", "compiled"):
        began = time.monotonic()
        if set(Started(name, scratch / attempt, processes).join()) != {0}:
            raise RuntimeError(f"{name} fails where nobody disturbs it: {_log(scratch / attempt)}")
        found.append(_read_digest(scratch / attempt))
    if found[0] != found[1]:
        raise RuntimeError(f"two runs of {name} that nobody disturbed differ")
    return found[0], time.monotonic() - began


def _finish(
    name: str, folder: Path, rng: random.Random, duration: float, outcome: Outcome, signals: int
) -> str | None:
    """Trains a run to its end, and stops it until there were enough signals; returns an error."""
    while True:
        started = Started(name, folder, outcome.processes)
        if outcome.signals >= signals or not started.wait(rng, duration):
            return None if set(started.join()) == {0} else _log(folder)
        number = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        moment, victim = MOMENTS[started.moment.value], rng.randrange(outcome.processes)
        began = time.monotonic()
        started.send(number, victim)
        statuses = started.join()
        outcome.slowest_end_s = max(outcome.slowest_end_s, round(time.monotonic() - began, 1))
        if set(statuses) == {0}:
            return None  # It had ended before.
        allowed = {interrupt.RESUME, 0} | ({-number} if number == signal.SIGKILL else set())
        if not set(statuses) <= allowed:
            return f"after signal {number} the statuses are {statuses}: {_log(folder)}"
        outcome.kills += number == signal.SIGKILL
        outcome.stops += number == signal.SIGTERM
        outcome.moments[moment] += 1
        names = _names(folder / _RUN / "checkpoints")
        outcome.in_a_write += any("tmp" in name or "deleted" in name for name in names)


class Started:
    """The processes of a run, forked from one in which all is imported.

    Attributes:
      moment: a shared number that says what the first one is doing.
    """

    def __init__(self, name: str, folder: Path, count: int) -> None:
        """Starts to train, or to go on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._checkpoints = folder / _RUN / "checkpoints"
        context = multiprocessing.get_context("forkserver")
        self.moment = context.Value("i", 0, lock=False)
        address = f"127.0.0.1:{_free_port()}"
        self._processes = [
            context.Process(
                target=train,
                args=(
                    name,
                    folder / _RUN,
                    self.moment if index == 0 else context.Value("i", 0, lock=False),
                    None if count == 1 else (address, count, index),
                ),
            )
            for index in range(count)
        ]
        for process in self._processes:
            process.start()

    def wait(self, rng: random.Random, duration: float) -> bool:
        """Waits for a random moment; returns False if a process ended before it."""
        kind = rng.choice(("anywhere", "change", "moment"))
        delay = rng.uniform(0, duration if kind == "anywhere" else _AIMED_WITHIN_S)
        left = rng.randrange(1, 20 if kind == "change" else 4)
        wanted = MOMENTS.index(rng.choice(("evaluation", "phase change")))

        def look() -> Any:
            names = _names(self._checkpoints)
            return {"change": names, "moment": self.moment.value == wanted}.get(kind)

        seen, deadline = look(), time.monotonic() + delay
        while left and kind != "anywhere" and self._is_alive():
            time.sleep(_POLL_S)
            if (now := look()) != seen:
                seen, deadline = now, time.monotonic() + delay
                left -= now is not False  # Each time that a moment begins, not that it ends.
        while self._is_alive() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self._is_alive()

    def send(self, number: int, victim: int) -> None:
        """Sends a signal to a process; with SIGKILL also to the processes that it has started."""
        process = self._processes[victim]
        with contextlib.suppress(ProcessLookupError):  # It has no group of its own yet.
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            os.kill(process.pid, number)

    def join(self) -> list[int | None]:
        """Waits for all processes; returns their statuses, None for one that does not end."""
        deadline = time.monotonic() + _LIMIT_S
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        statuses = [process.exitcode for process in self._processes]
        for process in self._processes:
            process.kill()
        return statuses

    def _is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _log(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-2000:]


def _read_digest(folder: Path) -> dict[str, str]:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=write_digest, args=(folder / _RUN,))
    process.start()
    process.join(_LIMIT_S)
    hashes: dict[str, str] = json.loads((folder / "digest.json").read_text())
    return hashes


def _table(outcomes: list[Outcome]) -> str:
    words = ["processes", "SIGKILL", "SIGTERM", "in a write", *MOMENTS, "slowest end"]
    words += ["runs", "lost", "differing"]
    lines = [f"{'configuration':<20} " + " ".join(f"{word:>12}" for word in words)]
    for found in outcomes:
        values = (
            found.processes, found.kills, found.stops, found.in_a_write, *found.moments.values(),
            f"{found.slowest_end_s} s", found.runs, found.lost, found.differing,
        )  # fmt: skip
        lines.append(f"{found.configuration:<20} " + " ".join(f"{value:>12}" for value in values))
        lines += [f"  {note}" for note in found.notes]
    return "\n".join(lines)


def main() -> int:
    """Disturbs runs, prints what came of it, and returns 1 if a run was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--kills", type=int, default=56, help="signals in all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "--processes", nargs="+", type=int, default=[1, 2], help="of each run; several: in turn"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", nargs="+", choices=list(configurations()), help="configurations")
    parser.add_argument("--out", type=Path, default=_RESULT, help="JSON file to write")
    options = parser.parse_args()
    # Imported once, and not by each process. tensorboardX imports torch where that is installed.
    preloaded = ["experiments.faults_folder", "tensorboardX", "sklearn.datasets"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    result: dict[str, Any] = {"seed": options.seed}
    is_good = True
    with tempfile.TemporaryDirectory() as scratch:
        if "kills" in options.parts:
            outcomes = _torture_all(options, Path(scratch))
            print(_table(outcomes), flush=True)
            result["kills"] = [dataclasses.asdict(outcome) for outcome in outcomes]
            is_good = not any(outcome.lost or outcome.differing for outcome in outcomes)
        for part, examine in (("damage", faults_folder.damage), ("disk", faults_folder.disk)):
            if part in options.parts:
                rows = examine(Path(scratch) / part, seed=options.seed)
                print("\n".join(map(str, rows)), flush=True)
                result[part] = [dataclasses.asdict(row) for row in rows]
                is_good &= all(row.is_good for row in rows)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(not is_good)


def _torture_all(options: argparse.Namespace, scratch: Path) -> list[Outcome]:
    """Kills runs of all configurations, by each number of processes; the kills are shared out."""
    names = options.only or list(configurations())
    cells = [(count, name) for count in options.processes for name in names]
    ends = [options.kills * (i + 1) // len(cells) for i in range(len(cells))]
    with ThreadPoolExecutor(options.jobs) as pool:
        futures = [
            pool.submit(
                torture,
                name,
                end - begin,
                seed=options.seed,
                scratch=scratch / f"{count} {name}",
                processes=count,
            )
            for (count, name), begin, end in zip(cells, [0, *ends], ends, strict=False)
        ]
        return [future.result() for future in futures]


if __name__ == "__main__":
    sys.exit(main())
