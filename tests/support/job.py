"""What each process of a job of several does in tests; they are real processes over loopback."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.support.slim import ROOT
from tl_jax import distributed
from tl_jax.config import Config, DataConfig, ModelConfig, TrainConfig, changes

PEER_TIMEOUT_S = 20


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python program in a process of one CPU device."""
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def environment() -> dict[str, str]:
    """Returns the variables of a process of one CPU device that compiles quickly."""
    quick = "--xla_backend_optimization_level=0"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick}


def digits(epochs: int = 1) -> Config:
    """Returns a run of some seconds: 5 steps an epoch."""
    return Config(
        ModelConfig("simple_cnn", weights="random"),
        DataConfig("digits", shots=8, image_size=16, batch_size=16),
        train=TrainConfig(epochs=epochs),
    )


def train_steps(place: str, folder: str, epochs: str) -> None:
    """Trains some epochs of 5 steps; before, writes FOLDER-INDEX.json: the images of two epochs.

    Args:
      place: as `distributed.initialize` takes it; "" for a process that is alone.
      folder: of the run.
      epochs: their number.
    """
    if place:
        distributed.initialize(place, start_timeout=300, peer_timeout=PEER_TIMEOUT_S)
    import jax

    from tl_jax.run.experiment import Experiment
    from tl_jax.run.fit import fit

    config = changes.with_values(
        digits(int(epochs)),
        {
            "optim.name": "sgd",
            "train.best_metric": "loss",
            "train.log_every": 1,
            "train.save_every": 2,
        },
    )
    batches = Experiment.from_config(config).train_batches(0)
    seen = [_hashes(itertools.islice(batches, 5)) for _ in range(2)]
    batches.close()
    Path(f"{folder}-{jax.process_index()}.json").write_text(json.dumps(seen), encoding="utf-8")
    fit(config, folder)
    distributed.leave()


def _hashes(batches: Iterator[Any]) -> list[str]:
    """Returns a hash of each image that lies on the devices of this process."""
    return [
        hashlib.sha256(np.asarray(image).tobytes()).hexdigest()
        for batch in batches
        for shard in batch["image"].addressable_shards
        for image in np.asarray(shard.data)
    ]


def check_all(folder: Path, index: int, place: str) -> None:
    """Joins a job, and asks for everything once; writes FOLDER/INDEX.json."""
    distributed.initialize(place, start_timeout=200, peer_timeout=60)
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    from tl_jax.run.fit import fit
    from tl_jax.training import sharding

    mesh = sharding.data_mesh()
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    tree = {"key": jax.random.key(7), "rows": np.arange(4.0), "sum": np.float32(3)}
    placed = distributed.put(tree, {"key": whole, "rows": split, "sum": whole})
    compiled = jax.jit(
        lambda t: t["rows"].sum() * t["sum"] + jax.random.uniform(t["key"]), out_shardings=whole
    )
    found: dict[str, Any] = {
        "processes": jax.process_count(),
        "agreed": [distributed.agree(["process", index]) for _ in range(2)],
        "gathered": distributed.gather(index),
        "flags": [distributed.any_of(flag) for flag in (index == 1, False)],
        "first": distributed.first(lambda: f"by {index}"),
        "raised": _raised(lambda: distributed.first(lambda: int("no number"))),
        "unequal": _raised(lambda: distributed.same({"a": 1, "b": np.full(3, index)}, "the tree")),
        "rows": placed["rows"].addressable_data(0).tolist(),
        "computed": float(compiled(placed)),
        "other configuration": _raised(lambda: fit(digits(1 + index), folder / "refused")),
        "other data": _raised(lambda: _check_data(index)),
        "other libraries": _raised(lambda: _check_info(index)),
        "not shared": _raised(lambda: _check_folder(folder, index)),
        "other variables": _raised(lambda: _fit_other_variables(folder, index)),
    }
    distributed.same(tree, "the tree")
    distributed.barrier("checked")
    with _other_decisions() if index else contextlib.nullcontext():
        found["report"] = fit(digits(), folder / "run")["metrics"]
    (folder / f"{index}.json").write_text(json.dumps(found), encoding="utf-8")
    distributed.leave()


@contextlib.contextmanager
def _other_decisions() -> Iterator[None]:
    """Lets this process alone find that the run is finished, and that it should stop early."""
    from tl_jax.run.folder import RunFolder
    from tl_jax.training.stopping import Stopping

    with (
        mock.patch.object(RunFolder, "_is_finished", lambda *_: True),
        mock.patch.object(RunFolder, "read_report", lambda *_: {"metrics": "of a run before"}),
        mock.patch.object(Stopping, "decide", lambda *_: "enough"),
    ):
        yield


def _check_info(index: int) -> None:
    from tl_jax.run import shared

    info = mock.Mock(to_json=lambda: json.dumps({"weights": None, "versions": {"jax": index}}))
    shared.check_info(info)


def _check_data(index: int) -> None:
    from tl_jax.run import shared
    from tl_jax.run.examples import Examples

    shared.check_data({"train": Examples(None, [0, 1], [], f"digest {index}")})


def _check_folder(folder: Path, index: int) -> None:
    from tl_jax.run import shared

    shared.LONGEST_LOOK_S = 0.5
    own = folder / f"own {index}"
    own.mkdir()
    shared.check_shared(own)


def _fit_other_variables(folder: Path, index: int) -> None:
    import jax

    from tl_jax.run import experiment
    from tl_jax.run.fit import fit

    make = experiment.initial_variables

    def make_other(*arguments: Any, **options: Any) -> Any:
        initial = make(*arguments, **options)
        other = jax.tree.map(lambda leaf: leaf + index, initial.variables)
        return dataclasses.replace(initial, variables=other)

    with mock.patch.object(experiment, "initial_variables", make_other):
        fit(digits(), folder / "other variables")


def _raised(function: Callable[[], Any]) -> list[str]:
    # What `fit` raises is told to the others; here the job goes on.
    watch, distributed._watch = distributed._watch, None
    try:
        function()
    except Exception as error:
        return [type(error).__name__, str(error)]
    finally:
        distributed._watch = watch
    return []
