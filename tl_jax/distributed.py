"""Several processes of one job: how they find each other, share arrays, and leave together.

What they agree on has its own file, `agreement.py`, and its names are here too. Everything is
trivial and free in a process that is alone.
"""

import atexit
import contextlib
import re
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax._src import distributed as jax_distributed
from jax._src import xla_bridge
from jax.sharding import Sharding

from tl_jax import interrupt
from tl_jax.agreement import (
    ProcessError,
    agree,
    any_of,
    barrier,
    first,
    gather,
    is_alone,
    is_first,
    same,
)
from tl_jax.peers import Watch, filter_messages, sleep_before_aborts

__all__ = [
    "PEER_TIMEOUT_S",
    "START_TIMEOUT_S",
    "ProcessError",
    "agree",
    "any_of",
    "barrier",
    "first",
    "gather",
    "initialize",
    "is_alone",
    "is_first",
    "leave",
    "put",
    "same",
    "telling",
]

START_TIMEOUT_S, PEER_TIMEOUT_S = 300, 100
_SHAPE = "HOST:PORT,COUNT,ID, such as 10.0.0.1:1234,2,0"
_PLACE = re.compile(r"(.+):(\d+),(\d+),(\d+)")
# What JAX has beyond the limit, after which it aborts; the limit's own message comes before.
_BEYOND_S = 60
_watch: Watch | None = None


def initialize(
    where: str, *, start_timeout: int = START_TIMEOUT_S, peer_timeout: int = PEER_TIMEOUT_S
) -> None:
    """Makes this process one of several that compute together; call it before any use of JAX.

    Args:
      where: "auto" where JAX finds the others by itself (SLURM, Open MPI, Kubernetes, Cloud TPU);
        else "HOST:PORT,COUNT,ID": the place where process 0 listens, the number of processes, and
        which one this is, from 0. With the latter a process has all devices of its machine, or
        those that the variable JAX_LOCAL_DEVICE_IDS names, as in "0,1".
      start_timeout: seconds in which all processes must have come.
      peer_timeout: seconds of silence after which a process counts as dead. The others then end
        with `interrupt.RESUME`, some seconds later.

    Raises:
      ValueError: if `where` cannot be read, nothing is found for "auto", or JAX was used before.
    """
    given = None if where == "auto" else _Place.of(where)
    _check_times(start_timeout, peer_timeout)
    if jax.distributed.is_initialized():
        raise ValueError("the processes were joined already; join them once, at the start")
    if xla_bridge.backends_are_initialized():
        raise ValueError(
            "JAX was used before the processes were joined (its devices were listed, or an array "
            "was made); join them first"
        )
    # A process that died must not abort the others: they end by `peers.Watch`, which says why.
    jax.config.update("jax_enable_recoverability", True)
    # It takes SIGTERM away from Python, where a run waits for it (`interrupt.stops`).
    jax.config.update("jax_enable_preemption_service", False)
    sleep_before_aborts()
    filter_messages(_on_fatal)
    arguments: dict[str, Any] = {}
    if given is not None:
        given.check_port()
        arguments = {
            "coordinator_address": given.address,
            "num_processes": given.processes,
            "process_id": given.this,
            "cluster_detection_method": "deactivate",
        }
    with _limited(start_timeout, where):
        try:
            jax.distributed.initialize(
                **arguments,
                initialization_timeout=start_timeout + _BEYOND_S,
                heartbeat_timeout_seconds=peer_timeout,
            )
        except ValueError as error:
            raise ValueError(
                f"got --distributed auto, and JAX finds no other processes here ({error}); "
                "expected a job of SLURM (srun), Open MPI (mpirun), Kubernetes or Cloud TPU; "
                f"elsewhere give {_SHAPE}"
            ) from error
    _start_watch()


class _Place(NamedTuple):
    """Where process 0 listens, how many processes there are, and which one this is."""

    host: str
    port: int
    processes: int
    this: int

    @classmethod
    def of(cls, text: str) -> "_Place":
        match = _PLACE.fullmatch(text)
        if match is not None:
            place = cls(match[1], int(match[2]), int(match[3]), int(match[4]))
            if place.this < place.processes and 0 < place.port < 2**16:
                return place
        raise ValueError(
            f"got --distributed {text}; expected auto or {_SHAPE}: where process 0 listens, how "
            "many processes there are, and which one this is, from 0"
        )

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def check_port(self) -> None:
        """Raises a ValueError if process 0 cannot listen, or nobody knows the host."""
        try:
            socket.getaddrinfo(self.host.strip("[]"), self.port)
        except OSError as error:
            raise ValueError(
                f"got --distributed with the host {self.host}, which is not known here ({error})"
            ) from error
        if self.this:
            return
        # Two services could listen at one port, and each would get some of the processes.
        family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", self.port))
            except OSError as error:
                raise ValueError(
                    f"process 0 cannot listen at port {self.port} ({error.strerror}); take another"
                ) from error


def _check_times(start_timeout: int, peer_timeout: int) -> None:
    # With shorter ones a process that is only slow counts as dead.
    for name, value, least in (("start", start_timeout, 1), ("peer", peer_timeout, 5)):
        if value < least:
            raise ValueError(f"got {name}_timeout={value}; expected {least} seconds or more")


@contextlib.contextmanager
def _limited(seconds: int, where: str) -> Iterator[None]:
    """Ends the process if the block takes longer: JAX would abort it."""

    def end() -> None:
        interrupt.end(
            1,
            f"error: after {seconds} s not all processes have come ({where}); start all of them, "
            "with the same place and count, and see that they reach the host and port of process 0 "
            "(--start-timeout sets the time)",
        )

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _start_watch() -> None:
    global _watch
    job = jax_distributed.global_state
    if job.num_processes > 1:
        _watch = Watch(job.client, job.process_id, job.num_processes)
        atexit.register(_at_exit)


def _on_fatal() -> None:
    if _watch is not None:
        _watch.fatal()


def _at_exit() -> None:
    """Of a program that did not leave: it tells its error, or waits for the others to end."""
    error = getattr(sys, "last_value", None)
    if error is not None and _watch is not None:
        _watch.tell(error)
    leave()


@contextlib.contextmanager
def telling(*, but: type[Exception] | tuple[()] = ()) -> Iterator[None]:
    """Ends the other processes with the message of an error that leaves the block.

    Args:
      but: a kind of error that all processes raise at the same place.
    """
    try:
        yield
    except but:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if _watch is not None:
            _watch.tell(error)
        raise


def leave() -> None:
    """Waits until all processes are done, and leaves the job; the last thing that one does."""
    if _watch is not None:
        _watch.leave()


def put(tree: Any, sharding: Any, *, may_alias: bool | None = None) -> Any:
    """Puts arrays that all processes have on the devices of all of them.

    `jax.device_put` would compare every leaf over the processes, with a collective for each: here
    nothing is sent. Where it matters that they are the same, call `same` before.

    Args:
      tree: arrays of the host or of devices of this process, and typed keys; a leaf that lies on
        the devices of several processes is taken as it is, and must be whole on each.
      sharding: of all leaves, or a tree of one for each.
      may_alias: as of `jax.device_put`; between several processes nothing is shared.

    Returns:
      The tree of global arrays.

    Examples:
      >>> placed = put({"a": np.ones(2)}, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
      >>> placed["a"].shape
      (2,)
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding, may_alias=may_alias)
    if isinstance(sharding, Sharding):
        return jax.tree.map(lambda leaf: _put_leaf(leaf, sharding), tree)
    return jax.tree.map(_put_leaf, tree, sharding)


def _put_leaf(leaf: Any, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put_leaf(jax.random.key_data(leaf), sharding)
            wrap = jax.jit(
                lambda words: jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf)),
                out_shardings=sharding,
            )
            return wrap(data)
        if not leaf.is_fully_addressable:
            if leaf.sharding == sharding:
                return leaf
            leaf = leaf.addressable_data(0)
    array = np.asarray(leaf)
    # A copy for each device: a step may write where its state was.
    return jax.make_array_from_callback(
        array.shape, sharding, lambda part: np.array(array[part]), dtype=array.dtype
    )
