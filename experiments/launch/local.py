"""Starts several processes of one tl-jax command on this machine, and ends them together.

    python -m experiments.launch.local 2 train configs/demo.py --workdir runs/demo

Each line that process 1 prints begins with "[1] ". A process that ends with an error ends the
others, after the time in which they end by themselves; SIGINT, SIGTERM and SIGUSR1 are passed on.
The exit status is that of an error; 75 (start the same again) if there is none and a process says
so or was killed; else 0.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO

RESUME = 75
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_POLL_S = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command in several processes, and returns the exit status."""
    options = _parser().parse_args(arguments)
    if options.count < 1 or not options.command:
        _parser().error("expected a number of processes, 1 or more, and a command")
    place = f"127.0.0.1:{options.port or _free_port()}"
    processes = [_start(options, place, index) for index in range(options.count)]
    readers = [_follow(process, index) for index, process in enumerate(processes)]
    before = {number: signal.signal(number, _pass_on(processes)) for number in _PASSED_ON}
    try:
        _wait(processes, options.grace)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for reader in readers:
        reader.join()
    return exit_status([process.returncode for process in processes])


def exit_status(codes: Sequence[int]) -> int:
    """Returns the status of the whole by those of the processes; below 0 is a signal.

    Examples:
      >>> exit_status([0, 0]), exit_status([75, -9]), exit_status([75, 1]), exit_status([130, 130])
      (0, 75, 1, 130)
    """
    errors = [code for code in codes if code > 0 and code != RESUME]
    if errors:
        return errors[0]
    return RESUME if any(codes) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.launch.local",
        description="Starts several processes of one tl-jax command on this machine.",
    )
    parser.add_argument("count", type=int, help="number of processes")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="command of tl-jax with its arguments"
    )
    parser.add_argument("--port", type=int, help="of process 0; the default is a free one")
    parser.add_argument("--cpu-devices", type=int, help="CPU devices of each process")
    parser.add_argument(
        "--one-device-each", action="store_true", help="process i takes the i-th GPU alone"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds in which the others end by themselves after a process has ended badly",
    )
    return parser


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(options: argparse.Namespace, place: str, index: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if options.cpu_devices:
        flag = f"--xla_force_host_platform_device_count={options.cpu_devices}"
        environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()
        environment["JAX_PLATFORMS"] = "cpu"
    if options.one_device_each:
        environment["JAX_LOCAL_DEVICE_IDS"] = str(index)
    where = f"{place},{options.count},{index}"
    return subprocess.Popen(
        [sys.executable, "-m", "tl_jax", *options.command, "--distributed", where],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C in the terminal reaches them through this process alone.
    )


def _follow(process: subprocess.Popen[bytes], index: int) -> threading.Thread:
    """Prints the lines of a process, with its number, as they come."""
    assert process.stdout is not None

    def follow(lines: IO[bytes]) -> None:
        for line in lines:
            sys.stdout.write(f"[{index}] {line.decode(errors='replace')}")
            sys.stdout.flush()

    reader = threading.Thread(target=follow, args=(process.stdout,), daemon=True)
    reader.start()
    return reader


def _pass_on(
    processes: Sequence[subprocess.Popen[bytes]],
) -> Callable[[int, object], None]:
    def handler(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    return handler


def _wait(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    """Waits until all have ended; those that outlive one that failed are ended."""
    failed_at: float | None = None
    while any(process.poll() is None for process in processes):
        if failed_at is None and any(process.returncode for process in processes):
            failed_at = time.monotonic()
        if failed_at is not None:
            waited = time.monotonic() - failed_at
            for process in processes:
                if process.poll() is None and waited > grace:
                    process.kill() if waited > 1.5 * grace else process.terminate()
        time.sleep(_POLL_S)


if __name__ == "__main__":
    sys.exit(main())
