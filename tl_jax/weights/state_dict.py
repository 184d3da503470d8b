"""Conversion between torch state dicts and Linen variables, both ways, by name alone."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tl_jax import trees
from tl_jax.models.layers import as_on_accelerators, as_shapes

# The leaf's name in torch, for the leaves that Flax names otherwise.
_TORCH_LEAF = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# A counter that torch keeps for cumulative averages; no CNN of timm reads it in use.
_IGNORED_SUFFIX = "num_batches_tracked"
_SHAPE_SIDE = 96
# Two move axes at once; more wait for the interpreter more than they gain.
_THREADS = 2


class StateDictError(ValueError):
    """A state dict does not fit the model; the message lists every key that is wrong."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """One variable: its path (collection first), torch key and shape in Flax's layout."""

    path: trees.Path
    key: str
    shape: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape of the torch tensor."""
        kernel = self.path[-1] == "kernel"
        return (self.shape[-1], self.shape[-2], *self.shape[:-2]) if kernel else self.shape


def torch_key(path: trees.Path) -> str:
    """Returns the torch key of a variable's path, its collection first.

    >>> torch_key(("params", "layer4", "0", "conv1", "kernel"))
    'layer4.0.conv1.weight'
    """
    collection, *modules, leaf = path
    return trees.dotted((*modules, _TORCH_LEAF.get((collection, leaf), leaf)))


def abstract_variables(model: nn.Module) -> dict[str, Any]:
    """Returns the shapes and types of a network's variables without computing anything."""

    def init(key: jax.Array, image: jax.Array) -> dict[str, Any]:
        # A function of its own: jax remembers a trace by its function, and this one draws nothing.
        return model.init(key, image)

    with as_shapes():
        return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), _abstract_image(model))


@functools.lru_cache(maxsize=16)
def slots_of(model: nn.Module) -> tuple[Slot, ...]:
    """Returns a slot for each variable of a network; it is traced once for all its equals."""
    flat = trees.flatten(abstract_variables(model))
    return tuple(Slot(path, torch_key(path), tuple(leaf.shape)) for path, leaf in flat.items())


def _abstract_image(model: nn.Module) -> jax.ShapeDtypeStruct:
    shape = (1, _SHAPE_SIDE, _SHAPE_SIDE, model.in_channels)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def from_state_dict(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    except_head: bool = False,
    may_lack: Sequence[str] = (),
) -> dict[str, Any]:
    """Converts a torch state dict to the variables of a network of the same architecture.

    Args:
      model: a network of `create_model`.
      state_dict: name -> array; NumPy arrays, torch tensors, anything `numpy.asarray` takes.
      except_head: leave the classifier out: its keys in the state dict are dropped, and its
        parameters start fresh, as the network draws them (at zero, with few exceptions).
      may_lack: dotted names of modules that the state dict may lack, all or nothing of each; they
        start fresh then.

    Returns:
      `{"params": ..., "batch_stats": ...}` in float32; `batch_stats` only if the network has any.

    Raises:
      StateDictError: naming all missing, unused and mis-shaped keys at once.

    Example:
      >>> model = create_model("resnet18", num_classes=10)                   # doctest: +SKIP
      >>> variables = from_state_dict(model, torch_model.state_dict())       # doctest: +SKIP
    """
    slots = slots_of(model)
    head = head_keys(model) if except_head else frozenset()
    absent = _absent_heads(model, slots)
    lacking = [name for name in may_lack if not any(trees.is_under(k, name) for k in state_dict)]
    wanted = [s for s in slots if s.key not in head and not _is_under_any(s.key, lacking)]
    given = {
        key: value
        for key, value in state_dict.items()
        if not key.endswith(_IGNORED_SUFFIX) and key not in head and not _is_under_any(key, absent)
    }
    _check(wanted, given)
    flat = {slot.path: _to_flax(slot, given[slot.key]) for slot in wanted}
    fresh = _fresh(model, [slot.path for slot in slots if slot.path not in flat])
    with ThreadPoolExecutor(_THREADS) as pool:  # Moving the axes takes most of the time.
        arrays = pool.map(jax.device_put, flat.values())
    given = dict(zip(flat, arrays, strict=True))
    return jax.block_until_ready(trees.unflatten(given | fresh))


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables to a torch state dict of NumPy arrays: the inverse of `from_state_dict`.

    The values are bit-equal to the variables'. timm loads the result with `strict=True`; torch
    itself adds the `num_batches_tracked` counters, which have no place among the variables.

    Example:
      >>> state_dict = to_state_dict(variables)                              # doctest: +SKIP
      >>> safetensors.numpy.save_file(state_dict, "resnet18.safetensors")    # doctest: +SKIP
    """
    state_dict = {}
    for path, leaf in trees.flatten(variables).items():
        value = np.asarray(leaf)
        if path[-1] == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        # A copy: an array of jax is read-only, which torch warns of.
        state_dict[torch_key(path)] = np.array(value, order="C")
    return state_dict


def head_keys(model: nn.Module) -> frozenset[str]:
    """Returns the torch keys of a network's classifier: what `num_classes=0` leaves out.

    Of a network without top layers (`global_pool=""`) it is all the keys of the whole top. The
    answer does not depend on the network's own `num_classes`.
    """
    own = _keys(model)
    if model.num_classes:
        return own - _keys(model.clone(num_classes=0))
    whole = _keys(model.clone(num_classes=1, global_pool="avg"))
    return whole - own


def _absent_heads(model: nn.Module, slots: Sequence[Slot]) -> list[str]:
    """Returns the auxiliary heads that published weights may hold and this network lacks."""
    return [name for name in model.auxiliary if not any(trees.is_under(s.key, name) for s in slots)]


def _fresh(model: nn.Module, paths: Sequence[trees.Path]) -> dict[trees.Path, jax.Array]:
    """Returns variables as the network draws them with key 0; nothing else is computed."""
    if not paths:
        return {}

    @jax.jit
    def draw() -> list[jax.Array]:
        image = _abstract_image(model)
        with as_on_accelerators():
            variables = model.init(jax.random.key(0), jnp.zeros(image.shape, image.dtype))
        flat = trees.flatten(variables)
        return [flat[path] for path in paths]

    return dict(zip(paths, draw(), strict=True))


def _is_under_any(key: str, names: Sequence[str]) -> bool:
    return any(trees.is_under(key, name) for name in names)


def _keys(model: nn.Module) -> frozenset[str]:
    return frozenset(slot.key for slot in slots_of(model))


def _check(wanted: Sequence[Slot], given: Mapping[str, Any]) -> None:
    keys = {slot.key for slot in wanted}
    missing = [slot.key for slot in wanted if slot.key not in given]
    unused = [key for key in given if key not in keys]
    shapes = [
        f"{slot.key}: got {tuple(np.shape(given[slot.key]))}, expected {slot.torch_shape}"
        for slot in wanted
        if slot.key in given and tuple(np.shape(given[slot.key])) != slot.torch_shape
    ]
    if not (missing or unused or shapes):
        return
    problems = (("missing", missing), ("unused", unused), ("mis-shaped", shapes))
    lines = [f"{len(items)} {kind}: {_listing(items)}" for kind, items in problems if items]
    lines.append(
        "is it the state dict of this architecture? A classifier for other classes is left out "
        "with except_head=True; checkpoints with other key names need a rename first"
    )
    raise StateDictError("the state dict does not fit the model\n  " + "\n  ".join(lines))


def _listing(items: list[str], most: int = 12) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest


def _to_flax(slot: Slot, value: Any) -> np.ndarray:
    """Returns a value in float32 and our layout, in a form that jax copies."""
    array = _on_host(value)
    if slot.path[-1] == "kernel":
        array = np.moveaxis(array, (0, 1), (-1, -2))
    # jax may alias a contiguous array, and the caller's may change; it copies any other.
    return np.array(array, np.float32, copy=array.flags.c_contiguous or None, order="K")


def _on_host(value: Any) -> np.ndarray:
    # NumPy cannot view torch tensors that require gradients, lie on a GPU, or hold bfloat16.
    return np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
