"""Trains by Ray Train: it starts the workers, and starts all again where one of them died.

    python -m experiments.launch.ray_train 2 configs/demo.py --workdir /shared/runs/demo
    python -m experiments.launch.ray_train --gpus-each 1 8 configs/x.py --workdir /shared/runs/x

What follows the number of workers are the arguments of `python -m tl_jax train`. Ray brings the
workers and their restarts (`pip install "ray[default,train]"`); `tl_jax.distributed` joins them, on
GPUs and on CPUs, and so also watches them. JAX is imported by the workers alone: the process that
starts them would otherwise take the devices.
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import train
from ray.train import collective
from ray.train.v2.jax import JaxConfig, JaxTrainer


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains in the workers of a Ray cluster, or on this machine; returns the exit status."""
    options = _parser().parse_args(arguments)
    resources = {"CPU": options.cpus_each, "GPU": options.gpus_each}
    ray.init(log_to_driver=True)
    trainer = JaxTrainer(
        work,
        train_loop_config={"folder": str(Path.cwd()), "arguments": options.arguments},
        jax_config=JaxConfig(),  # Ray joins no processes; `work` does.
        scaling_config=train.ScalingConfig(
            num_workers=options.workers,
            use_gpu=options.gpus_each > 0,
            resources_per_worker={name: count for name, count in resources.items() if count},
        ),
        run_config=train.RunConfig(
            name="tl_jax",
            storage_path=str(options.ray_folder.absolute()),
            failure_config=train.FailureConfig(max_failures=options.restarts),
        ),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def work(given: dict[str, Any]) -> None:
    """Runs `tl_jax train` as one of the workers; called by Ray, in each of them.

    Args:
      given: the folder to work in, and the arguments of the command.

    Raises:
      RuntimeError: if the command fails; Ray then starts all workers again, or gives up.
    """
    context = train.get_context()
    count, index = context.get_world_size(), context.get_world_rank()
    place = collective.broadcast_from_rank_zero(_free_place() if index == 0 else None)
    os.chdir(given["folder"])
    from tl_jax.cli import main as run  # Here alone: it imports JAX.

    status = run(["train", *given["arguments"], "--distributed", f"{place},{count},{index}"])
    if status:
        raise RuntimeError(f"tl_jax train ended with the status {status}; its log says why")


def _free_place() -> str:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{probe.getsockname()[1]}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch.ray_train",
        description="Trains by the workers of Ray Train.",
    )
    parser.add_argument("workers", type=int, help="number of processes")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, help="arguments of `python -m tl_jax train`"
    )
    parser.add_argument("--gpus-each", type=int, default=0, help="GPUs of each worker")
    parser.add_argument("--cpus-each", type=int, default=1, help="CPU cores of each worker")
    parser.add_argument("--restarts", type=int, default=3, help="of all workers, after a failure")
    parser.add_argument(
        "--ray-folder",
        type=Path,
        default=Path("runs/ray"),
        help="of Ray's own records; with several machines on a file system that they share",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
