"""What several processes of a job agree on, through the key store of JAX's coordination service.

It does not go through the devices: it compiles nothing, works before a device is used, and a
process that fails ends the others in place of leaving them waiting (`tl_jax.peers`). In a process
that is alone everything here is trivial and free.
"""

import itertools
import json
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed as jax_distributed

from tl_jax import messages
from tl_jax.peers import LONGEST_WAIT_MS

T = TypeVar("T")

_POLL_MS = 5_000
# Each question gets a number, which is the same in all processes as all ask the same ones.
_numbers = itertools.count()
# The kinds of errors that other processes raise too.
_RAISED = (ValueError, TypeError, OSError, FileNotFoundError, FloatingPointError)


class ProcessError(RuntimeError):
    """Another process failed, with an error of a kind of its own; the message is that error's."""


def is_first() -> bool:
    """Returns whether this is process 0, or alone."""
    return bool(jax_distributed.global_state.process_id == 0)


def is_alone() -> bool:
    """Returns whether there is no other process.

    Examples:
      >>> is_alone()
      True
    """
    return _client() is None


def agree(value: T) -> T:
    """Returns the value of process 0 in all processes.

    Args:
      value: what JSON can hold. Between several processes a tuple becomes a list.

    Examples:
      >>> agree(3)
      3
    """
    client = _client()
    if client is None:
        return value
    key = f"tl_jax/agreed/{next(_numbers)}"
    if is_first():
        client.key_value_set(key, json.dumps(value))
    agreed: T = json.loads(_wait(client, key))
    return agreed


def first(function: Callable[[], T]) -> T:
    """Returns in all processes what a function returns in process 0, where alone it is called.

    Args:
      function: its value is as for `agree`; it asks the other processes nothing.

    Raises:
      Exception: what it raises, in all processes. Those after the first raise the built-in kind of
        the error, or `ProcessError`, with the same message.

    Examples:
      >>> first(lambda: [1, 2])
      [1, 2]
    """
    if _client() is None:
        return function()
    outcome: dict[str, Any] = {}
    if is_first():
        try:
            outcome = {"value": function()}
        except Exception as error:
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind in _RAISED]
            agree({"kind": kinds[0] if kinds else None, "message": str(error)})
            raise
    outcome = agree(outcome)
    if "value" not in outcome:
        kind = {kind.__name__: kind for kind in _RAISED}.get(outcome["kind"], ProcessError)
        raise kind(outcome["message"])
    value: T = outcome["value"]
    return value


def any_of(flag: bool) -> bool:
    """Returns whether a flag is set in any process; takes about a millisecond.

    Examples:
      >>> any_of(False)
      False
    """
    client = _client()
    if client is None:
        return flag
    key = f"tl_jax/flags/{next(_numbers)}"
    if flag:
        client.key_value_set(key, "1", allow_overwrite=True)
    barrier("flags")
    return _is_set(client, key)


def _is_set(client: Any, key: str) -> bool:
    try:
        client.key_value_try_get(key)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" not in str(error):
            raise
        return False
    return True


def barrier(name: str) -> None:
    """Waits until all processes have come here.

    Args:
      name: of the place in the program, which may be passed again and again.
    """
    client = _client()
    if client is not None:
        client.wait_at_barrier(f"tl_jax/{name}", LONGEST_WAIT_MS)


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes, in their order; each is as for `agree`.

    Examples:
      >>> gather("a")
      ['a']
    """
    client = _client()
    if client is None:
        return [value]
    job, number = jax_distributed.global_state, next(_numbers)
    client.key_value_set(f"tl_jax/gathered/{number}/{job.process_id}", json.dumps(value))
    keys = [f"tl_jax/gathered/{number}/{index}" for index in range(job.num_processes)]
    return [json.loads(_wait(client, key)) for key in keys]


def same(tree: Any, what: str, *, remedy: str = "") -> None:
    """Checks that all processes have the same values.

    Args:
      tree: arrays, strings and numbers; a leaf whose parts lie in several processes is left out.
      what: what they are, as in "the configuration".
      remedy: how a difference is mended.

    Raises:
      ValueError: in all processes, if they differ; the message names the leaves and a process.

    Examples:
      >>> same({"seed": 0}, "the configuration")
    """
    if _client() is None:
        return
    facts = {
        jax.tree_util.keystr(path, simple=True, separator="."): _fact(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    checksums = gather(zlib.crc32(json.dumps(facts).encode()))
    if len(set(checksums)) == 1:
        return
    of_all = gather(facts)
    other = next(i for i, checksum in enumerate(checksums) if checksum != checksums[0])
    there, here = of_all[other], of_all[0]
    names = [name for name in here | there if here.get(name) != there.get(name)]
    lines = [
        f"{name}: {here.get(name, 'nothing')} != {there.get(name, 'nothing')}" for name in names
    ]
    head = f"process {other} does not have {what} of process 0 (process 0 != process {other}):"
    raise ValueError(messages.report(head, lines, remedy or "start all of them with the same"))


def _fact(leaf: Any) -> str:
    """Returns what tells a leaf from others: a short value, or type, shape and checksum."""
    if isinstance(leaf, str | int | float | bool):
        return repr(leaf)
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable:
            if not leaf.is_fully_replicated:
                return f"{leaf.dtype}{list(leaf.shape)}"
            leaf = leaf.addressable_data(0)
    array = np.ascontiguousarray(leaf)
    return f"{array.dtype}{list(np.shape(leaf))} {zlib.crc32(array.view(np.uint8).data):08x}"


def _client() -> Any:
    """Returns the client of the coordination service; None in a process that is alone."""
    job = jax_distributed.global_state
    return job.client if job.num_processes > 1 else None


def _wait(client: Any, key: str) -> str:
    """Returns the value of a key, once another process has set it."""
    while True:
        try:
            return str(client.blocking_key_value_get(key, _POLL_MS))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
