"""Runs that are made to be killed: what they train, what they are doing, and what they leave."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

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
    distributed,
    fit,
    interrupt,
    load_run,
)
from tl_jax.config import changes
from tl_jax.models import registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import resnet
from tl_jax.run import epochs, journal
from tl_jax.run import fit as fitting
from tl_jax.run.experiment import Experiment
from tl_jax.run.stops import StoppedError

PEER_TIMEOUT_S = 10
"""Seconds of silence after which a process counts as dead."""

MOMENTS = ("start", "phase change", "steps", "evaluation", "report")
"""What a run is doing; a checkpoint is written beside steps and evaluation."""


def configurations() -> dict[str, Config]:
    """Returns the configurations by name."""
    plain = Config(
        model=ModelConfig("resnet18", weights="random"),
        data=DataConfig("digits", shots=2, image_size=16, batch_size=8, workers=1),
        optim=OptimConfig(name="adam", learning_rate=1e-3, schedule="constant"),
        augment=AugmentConfig(scale=(0.8, 1.0)),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(head_epochs=0, epochs=8, log_every=2, keep=1, save_every=2),
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
    steps = sorted(path for path in (workdir / "checkpoints").iterdir())
    newest = max(steps, key=lambda path: int(path.name))
    hashes = {"checkpoints": " ".join(path.name for path in steps)} | arrays_digest(newest)
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


def arrays_digest(step: Path) -> dict[str, str]:
    """Returns hashes of the arrays of a checkpoint, by item, whatever processes wrote them."""
    import jax
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel("ERROR")  # Each item alone has no metadata.
    hashes = {}
    for item in ("variables", "optimizer", "evaluated"):
        if (step / item).is_dir():
            reader = ocp.PyTreeCheckpointer()
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                reader.metadata(step / item).item_metadata.tree,
            )
            content = reader.restore(step / item, restore_args=as_numpy)
            total = hashlib.sha256()
            for path, leaf in jax.tree_util.tree_leaves_with_path(content):
                total.update(f"{jax.tree_util.keystr(path)} {np.shape(leaf)}".encode())
                total.update(np.asarray(leaf).tobytes())
            hashes[item] = total.hexdigest()
    return hashes


def train(name: str, workdir: Path, moment: Any, process: tuple[str, int, int] | None) -> None:
    """Reads and then trains a run, in a process group of its own; the process may be killed.

    Args:
      name: of the configuration.
      workdir: of the run.
      moment: a shared number that says what the run is doing (`MOMENTS`).
      process: address of the first process, number of processes, and which one this is; None: it
        is alone.
    """
    os.setsid()
    with (workdir.parent / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if process is not None:
        distributed.initialize(",".join(map(str, process)), peer_timeout=PEER_TIMEOUT_S)
    make_tiny()
    if process is None:
        _read(workdir)
    with _told(moment), interrupt.ends_the_process("interrupted", resumes=True):
        try:
            with interrupt.stops() as should_stop:
                fit(configurations()[name], workdir, should_stop=should_stop)
        except StoppedError as stopped:
            print(stopped, file=sys.stderr, flush=True)
            distributed.leave()
            sys.exit(interrupt.RESUME)
    distributed.leave()


def make_tiny() -> None:
    """Replaces the network of the configurations by a tiny one."""
    tiny = resnet.ResNet(block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16))
    registry.ARCHITECTURES["resnet18"] = Architecture(
        tiny, stem="conv1", stages=("act1", "layer1", "layer2")
    )


def write_digest(workdir: Path) -> None:
    """Writes `digest.json` beside a run; in a process that is alone, as Orbax reads with all."""
    (workdir.parent / "digest.json").write_text(json.dumps(digest(workdir)))


def _read(workdir: Path) -> None:
    """Reads a run as `predict` would; raises a RuntimeError if that changes its folder."""

    def listing() -> list[str]:
        return sorted(str(path) for path in workdir.rglob("*"))

    before = listing()
    with contextlib.suppress(FileNotFoundError):  # No run or no checkpoint yet.
        load_run(workdir)
    if listing() != before:
        raise RuntimeError("reading the run changed its folder")


@contextlib.contextmanager
def _told(moment: Any) -> Iterator[None]:
    """Lets a run tell what it is doing."""

    def during(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def told(*args: Any, **options: Any) -> Any:
            before, moment.value = moment.value, MOMENTS.index(name)
            try:
                return function(*args, **options)
            finally:
                moment.value = before

        return told

    with (
        mock.patch.object(Experiment, "begin", during("phase change", Experiment.begin)),
        mock.patch.object(epochs, "train", during("steps", epochs.train)),
        mock.patch.object(
            epochs, "evaluate_and_save", during("evaluation", epochs.evaluate_and_save)
        ),
        mock.patch.object(fitting, "write_report", during("report", fitting.write_report)),
    ):
        yield
