"""Kills training runs at random moments, and checks that each ends with the bits of one left alone.

Command, which writes experiments/results/faults.json:
    python -m experiments.faults --kills 100 --jobs 2

Four configurations with a tiny network train for a few seconds. Their processes get SIGKILL, with
their whole process group, at seeded random moments: half of them anywhere, half of them within
milliseconds after something changed in the folder of checkpoints. The same call goes on until
the run is finished. After each kill the folder is also read as `predict` would read it.

A run is lost if a process ends by itself with an error. It differs if, at the end, the variables,
the optimizer's state, the metrics (without timing), the report or the names of the checkpoints are
not those of a run that nobody disturbed.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # Before JAX is imported, here and in the processes that are killed.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="faults-cache-"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
    # Each process imports this module twice, and one that is killed cannot clean up.
    quiet = ("ignore::RuntimeWarning:runpy", "ignore::UserWarning:multiprocessing.resource_tracker")
    os.environ["PYTHONWARNINGS"] = ",".join(quiet)

import numpy as np

from tl_jax import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
    fit,
    load_run,
)
from tl_jax.config import changes
from tl_jax.models import registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import resnet
from tl_jax.run import journal

# One folder of checkpoints changes about every tenth of a second in these runs.
_AIMED_WITHIN_S = 0.03
_POLL_S = 0.0005
_LIMIT_S = 300.0
_RUN = "run"
_RESULT = Path(__file__).parent / "results" / "faults.json"


def configurations() -> dict[str, Config]:
    """Returns the configurations by name."""
    plain = Config(
        model=ModelConfig("resnet18", weights="random"),
        data=DataConfig("digits", shots=2, image_size=16, batch_size=8, workers=1),
        optim=OptimConfig(name="adam", learning_rate=1e-3, schedule="constant"),
        augment=AugmentConfig(scale=(0.8, 1.0)),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(head_epochs=0, epochs=8, log_every=2, keep=1),
    )
    phases = (PhaseConfig(3, "head"), PhaseConfig(3, "head+last:1"), PhaseConfig(2, "all"))
    return {
        "plain": plain,
        "EMA, mixup, phases": changes.with_values(
            plain, {"train.ema": 0.9, "augment.mixup": 0.4, "transfer.phases": phases}
        ),
        "LoRA, recalibrate": changes.with_values(
            plain,
            {
                "transfer.adaptation": "lora",
                "transfer.trained": "head+added",
                "transfer.lora_rank": 2,
                "transfer.batch_norm": "recalibrate",
            },
        ),
        "L2-SP, balanced": changes.with_values(
            plain, {"optim.l2_sp": 0.01, "data.sampling": "balanced"}
        ),
    }


def digest(workdir: Path) -> dict[str, str]:
    """Returns hashes of all that a finished run leaves, but for times and speeds."""
    import jax
    import orbax.checkpoint as ocp

    steps = sorted(path for path in (workdir / "checkpoints").iterdir())
    newest = max(steps, key=lambda path: int(path.name))
    hashes = {"checkpoints": " ".join(path.name for path in steps)}
    for item in ("variables", "optimizer", "evaluated"):
        if (newest / item).is_dir():
            content = ocp.StandardCheckpointer().restore(newest / item)
            total = hashlib.sha256()
            for path, leaf in jax.tree_util.tree_leaves_with_path(content):
                total.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)}".encode())
                total.update(np.asarray(leaf).tobytes())
            hashes[item] = total.hexdigest()
    records = [
        {name: value for name, value in record.items() if name != "images_per_second"}
        for record in journal.read(workdir)
    ]
    for name, value in (
        ("metrics", records),
        ("report", json.loads((workdir / "report.json").read_text())),
    ):
        hashes[name] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return hashes


def _train(name: str, workdir: Path) -> None:
    """Reads and then trains a run, in a process group of its own; the process may be killed."""
    os.setsid()
    with (workdir.parent / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    tiny = resnet.ResNet(block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16))
    registry.ARCHITECTURES["resnet18"] = Architecture(
        tiny, stem="conv1", stages=("act1", "layer1", "layer2")
    )
    before = _listing(workdir)
    with contextlib.suppress(FileNotFoundError):  # No run or no checkpoint yet.
        load_run(workdir)
    if _listing(workdir) != before:
        raise RuntimeError("reading the run changed its folder")
    fit(configurations()[name], workdir)
    hashes = digest(workdir)
    (workdir.parent / "digest.json").write_text(json.dumps(hashes))


def _listing(workdir: Path) -> list[str]:
    return sorted(str(path) for path in workdir.rglob("*"))


@dataclasses.dataclass
class Outcome:
    """What happened to the runs of one configuration."""

    configuration: str
    kills: int = 0
    kills_in_a_write: int = 0
    runs: int = 0
    lost: int = 0
    differing: int = 0
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list)


def torture(name: str, kills: int, *, seed: int, scratch: Path) -> Outcome:
    """Kills runs of a configuration `kills` times in all; each run is finished.

    Args:
      name: of the configuration.
      kills: number of kills in all.
      seed: of the moments of the kills.
      scratch: folder for the runs.
    """
    rng, outcome, start = random.Random(f"{seed} {name}"), Outcome(name), time.monotonic()
    expected, duration = _undisturbed(name, scratch)
    while outcome.kills < kills:
        outcome.runs += 1
        folder = scratch / f"run{outcome.runs}"
        error = _finish(name, folder, rng, duration, outcome, kills)
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


def _undisturbed(name: str, scratch: Path) -> tuple[dict[str, str], float]:
    """Trains a run twice; returns its hashes, and the seconds that it takes once compiled."""
    found = []
    for attempt in ("compiling", "compiled"):
        began = time.monotonic()
        process = _start(name, scratch / attempt)
        process.join(_LIMIT_S)
        if process.exitcode != 0:
            raise RuntimeError(f"{name} fails where nobody disturbs it: {_log(scratch / attempt)}")
        found.append(_read_digest(scratch / attempt))
    if found[0] != found[1]:
        raise RuntimeError(f"two runs of {name} that nobody disturbed differ")
    return found[0], time.monotonic() - began


def _finish(
    name: str, folder: Path, rng: random.Random, duration: float, outcome: Outcome, kills: int
) -> str | None:
    """Trains a run to its end, and kills it until there were enough kills; returns an error."""
    while True:
        process = _start(name, folder)
        if outcome.kills < kills and _kill(process, folder / _RUN / "checkpoints", rng, duration):
            outcome.kills += 1
            names = _names(folder / _RUN / "checkpoints")
            outcome.kills_in_a_write += any(not name.isdigit() for name in names)
            continue
        process.join(_LIMIT_S)
        return None if process.exitcode == 0 else _log(folder)


def _start(name: str, folder: Path) -> Any:
    """Starts to train a run in a process that is forked from one in which all is imported."""
    (folder / _RUN).parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_train, args=(name, folder / _RUN))
    process.start()
    return process


def _kill(process: Any, checkpoints: Path, rng: random.Random, duration: float) -> bool:
    """Kills a process group at a random moment; returns False if the process ended before.

    Every second kill on average waits for a random number of changes among the checkpoints.
    """
    changes = rng.randrange(1, 20) if rng.random() < 0.5 else None
    delay = rng.uniform(0, _AIMED_WITHIN_S if changes else duration)
    names, deadline = _names(checkpoints), time.monotonic() + delay
    while process.is_alive() and (changes or time.monotonic() < deadline):
        time.sleep(_POLL_S)
        if changes and (now := _names(checkpoints)) != names:
            names, changes, deadline = now, changes - 1, time.monotonic() + delay
    if not process.is_alive():
        return False
    with contextlib.suppress(ProcessLookupError):  # It has no group of its own yet.
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _log(folder: Path) -> str:
    return (folder / "log.txt").read_text()[-2000:]


def _read_digest(folder: Path) -> dict[str, str]:
    hashes: dict[str, str] = json.loads((folder / "digest.json").read_text())
    return hashes


def _table(outcomes: list[Outcome]) -> str:
    lines = [f"{'configuration':<20} {'kills':>5} {'in a write':>10} {'runs':>5} lost differing"]
    for found in outcomes:
        lines.append(
            f"{found.configuration:<20} {found.kills:>5} {found.kills_in_a_write:>10} "
            f"{found.runs:>5} {found.lost:>4} {found.differing:>9}"
        )
        lines += [f"  {note}" for note in found.notes]
    return "\n".join(lines)


def main() -> int:
    """Tortures the configurations, prints a table, and returns 1 if a run was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills in all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--only", nargs="+", choices=list(configurations()), help="configurations")
    parser.add_argument("--out", type=Path, default=_RESULT, help="JSON file to write")
    options = parser.parse_args()
    # Imported once, and not by each process. tensorboardX imports torch where that is installed.
    preloaded = ["experiments.faults", "tensorboardX", "sklearn.datasets"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    names = options.only or list(configurations())
    shares = [options.kills * (i + 1) // len(names) for i in range(len(names))]
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        futures = [
            pool.submit(torture, name, end - begin, seed=options.seed, scratch=Path(scratch) / name)
            for name, begin, end in zip(names, [0, *shares], shares, strict=False)
        ]
        outcomes = [future.result() for future in futures]
    print(_table(outcomes))
    rows = [dataclasses.asdict(outcome) for outcome in outcomes]
    options.out.write_text(json.dumps({"seed": options.seed, "rows": rows}, indent=2) + "\n")
    return int(any(outcome.lost or outcome.differing for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
