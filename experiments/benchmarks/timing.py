"""Times programs in turn in one process, and watches what else the machine does."""

import dataclasses
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# The most that other processes may use of a core in a round that counts as quiet.
QUIET_CORES = 0.06
_STAT = Path("/proc/stat")


@dataclasses.dataclass(frozen=True)
class Sample:
    """A block of steps, per step.

    Attributes:
      wall, cpu: seconds; `cpu` is that of all threads of this process.
      faults: pages that the kernel mapped.
      others: cores that other processes used meanwhile; None where the system does not say.
    """

    wall: float
    cpu: float
    faults: float
    others: float | None


def sample(run: Callable[[int], Any], steps: int) -> Sample:
    """Times a block of steps; `run(steps)` waits for the last."""
    before = _counters()
    run(steps)
    wall, cpu, faults, busy = (b - a for a, b in zip(before, _counters(), strict=True))
    others = max(busy - cpu, 0.0) / wall if _STAT.exists() and wall else None
    return Sample(wall / steps, cpu / steps, faults / steps, others)


def _counters() -> tuple[float, float, int, float]:
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    return time.perf_counter(), time.process_time(), faults, _busy_seconds()


def _busy_seconds() -> float:
    """Returns seconds that all cores have spent on processes, since the machine started."""
    if not _STAT.exists():
        return 0.0
    ticks = [int(value) for value in _STAT.read_text("ascii").splitlines()[0].split()[1:]]
    user, nice, system, _, _, interrupts, soft_interrupts, *_ = ticks
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def alternate(
    runs: Mapping[str, Callable[[int], Any]],
    steps: int,
    rounds: int,
    *,
    before_turn: Callable[[str], None] = lambda name: None,
    seconds: float = float("inf"),
) -> dict[str, list[Sample]]:
    """Times every program once in each round; every other round goes backwards.

    Args:
      runs: `run(steps)` by name; each waits for its last step.
      steps: steps of a block.
      rounds: rounds to take, or fewer where they take longer than `seconds`.
      before_turn: called with a program's name before its turn.
      seconds: no round begins after these.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in runs}
    start = time.perf_counter()
    for index in range(rounds):
        if index and time.perf_counter() - start > seconds:
            break
        for name in list(runs)[:: -1 if index % 2 else 1]:
            before_turn(name)
            runs[name](1)  # Untimed: brings caches and threads back from the others.
            samples[name].append(sample(runs[name], steps))
    return samples


def is_quiet(samples: Mapping[str, Sequence[Sample]], index: int) -> bool:
    """Returns whether other processes used next to nothing in a round."""
    others = [of_one[index].others for of_one in samples.values()]
    return all(value is not None and value <= QUIET_CORES for value in others)


def compare(samples: Mapping[str, Sequence[Sample]], peer: str) -> dict[str, Any]:
    """Returns medians, and paired ratios: the peer's time over that of each program.

    Returns:
      The rounds, how many were quiet, what others used, the samples by program, and under "all" and
      "quiet" by program "wall" and "cpu" seconds, "faults", and the median, least and largest ratio
      "wall_ratio" and "cpu_ratio". There is no "quiet" where no round was.
    """
    rounds = range(len(samples[peer]))
    quiet = [index for index in rounds if is_quiet(samples, index)]
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "quiet_rounds": quiet,
        "cores_used_by_others": [
            max((of_one[index].others or 0.0) for of_one in samples.values()) for index in rounds
        ],
        "samples": {
            name: [dataclasses.asdict(one) for one in of_one] for name, of_one in samples.items()
        },
    }
    for label, chosen in (("all", list(rounds)), ("quiet", quiet)):
        if chosen:
            result[label] = {
                name: _summary([of_one[i] for i in chosen], [samples[peer][i] for i in chosen])
                for name, of_one in samples.items()
            }
    return result


def _summary(ours: Sequence[Sample], peers: Sequence[Sample]) -> dict[str, Any]:
    def ratio(of: Callable[[Sample], float]) -> dict[str, float]:
        ratios = [of(peer) / of(one) for one, peer in zip(ours, peers, strict=True) if of(one)]
        return spread(ratios)

    return {
        "wall": statistics.median(one.wall for one in ours),
        "cpu": statistics.median(one.cpu for one in ours),
        "faults": statistics.median(one.faults for one in ours),
        "wall_ratio": ratio(lambda one: one.wall),
        "cpu_ratio": ratio(lambda one: one.cpu),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns the median, the least and the largest of some values; nothing of none."""
    if not values:
        return {}
    return {"median": statistics.median(values), "least": min(values), "largest": max(values)}
