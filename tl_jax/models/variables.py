"""The variables of a network: their shapes, and their values from a torch state dict."""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models.layers import as_shapes, convolution_form
from tl_jax.models.model import Model, abstract_inputs
from tl_jax.models.network import Network
from tl_jax.weights.state_dict import Slot, StateDictError, slots_of_variables, to_flax

# Side in pixels of the images that networks are traced with; every architecture accepts it.
_IMAGE_SIDE = 96


def abstract_variables(model: Model) -> dict[str, Any]:
    """Returns the shapes and types of a network's variables without computing anything.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> abstract_variables(create_model("simple_cnn", num_classes=5))["params"]["fc"]["bias"]
      ShapeDtypeStruct(shape=(5,), dtype=float32)
    """

    def init(key: jax.Array, inputs: Any) -> dict[str, Any]:
        # A new function, because jax caches traces by function, and this one must not be reused.
        return model.init(key, inputs)

    inputs = abstract_inputs(model, _image_shape(model))
    with as_shapes():
        return jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), inputs)


def from_state_dict(
    model: Network,
    state_dict: Mapping[str, Any],
    *,
    except_head: bool = False,
    may_lack: Sequence[str] = (),
) -> dict[str, Any]:
    """Converts a torch state dict to the variables of a network of the same architecture.

    Args:
      model: a network of `create_model`.
      state_dict: key -> array; NumPy arrays, torch tensors, anything `numpy.asarray` takes. The
        keys are timm's, or those of another publisher that the network knows
        (`Network.timm_key`), such as torchvision.
      except_head: leave the classifier out: its keys in the state dict are dropped, and its
        parameters start fresh, with the network's initializers (zero, with few exceptions).
      may_lack: dotted names of modules that may be missing from the state dict as a whole; they
        start fresh then.

    Returns:
      `{"params": ..., "batch_stats": ...}` in float32; `batch_stats` only if the network has any.

    Raises:
      StateDictError: naming all missing, unused and mis-shaped keys at once.
      TypeError: if the arguments are not a network and a state dict.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> from tl_jax.weights.state_dict import to_state_dict
      >>> model = create_model("simple_cnn", num_classes=5)
      >>> state_dict = to_state_dict(model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
      >>> variables = from_state_dict(model, state_dict)
    """
    _check_arguments(model, state_dict)
    arguments.names("may_lack", may_lack, "['head.pre_logits']")
    state_dict = _under_timms_names(model, state_dict)
    slots = slots_of(model)
    head = head_keys(model) if except_head else frozenset()
    lacking = [name for name in may_lack if not _any_under(state_dict, name)]
    # Heads that published weights may hold and this network lacks.
    absent = [n for n in model.auxiliary if not _any_under((slot.key for slot in slots), n)]
    is_fresh = {s: s.key in head or any(trees.is_under(s.key, n) for n in lacking) for s in slots}
    given = {
        key: value
        for key, value in state_dict.items()
        if key not in head and not any(trees.is_under(key, name) for name in absent)
    }
    loaded = to_flax([slot for slot in slots if not is_fresh[slot]], given)
    fresh = _draw(model, [slot.path for slot in slots if is_fresh[slot]])
    return jax.block_until_ready(trees.unflatten(loaded | fresh))


def _check_arguments(model: Network, state_dict: Mapping[str, Any]) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"from_state_dict takes a network of create_model and then the state dict, but the "
            f"network is {arguments.kind(model)}"
        )
    if not isinstance(state_dict, Mapping):
        is_module = callable(getattr(state_dict, "state_dict", None))
        is_path = isinstance(state_dict, str | os.PathLike)
        advice = "give its state_dict()" if is_module else "give a dict of key -> array"
        if is_path:
            advice = "load_pretrained(name, weights=PATH) reads a file"
        raise TypeError(
            f"from_state_dict takes a state dict, but got {arguments.kind(state_dict)}; {advice}"
        )
    nested = [key for key, value in state_dict.items() if isinstance(value, Mapping)]
    if "params" in nested:
        raise StateDictError(
            "got variables of Flax, with 'params'; they need no conversion: apply the network to "
            "them, or convert them to torch's keys with to_state_dict"
        )
    if any(key in ("kernel", "scale", "bias") for name in nested for key in state_dict[name]):
        raise StateDictError(
            "got parameters of Flax; they need no conversion: apply the network to "
            "{'params': params, 'batch_stats': ...}"
        )
    if nested:
        raise StateDictError(
            f"got a checkpoint with dicts inside, of keys {messages.some(list(state_dict))}; give "
            f"the one that holds the arrays, such as checkpoint[{nested[0]!r}]"
        )


def _under_timms_names(model: Network, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a state dict under timm's keys, whoever published it."""
    if not isinstance(model, Network):
        return dict(state_dict)
    model.check_fields(model.published_fields(state_dict.keys()))
    renamed: dict[str, Any] = {}
    for key, value in state_dict.items():
        name = model.timm_key(str(key))
        if name in renamed:
            raise StateDictError(
                f"the state dict holds {name!r} under timm's name and as {key!r}; remove one set"
            )
        renamed[name] = value
    return renamed


def head_keys(model: Network) -> frozenset[str]:
    """Returns the torch keys of a network's classifier: those that `num_classes=0` leaves out.

    For a network without top layers (`global_pool=""`) these are the keys of all top layers. The
    result does not depend on the network's `num_classes`.
    """
    if model.num_classes:
        with_head, without = model, model.clone(num_classes=0)
    else:
        with_head, without = model.clone(num_classes=1, global_pool="avg"), model
    keys, other = ({slot.key for slot in slots_of(each)} for each in (with_head, without))
    return frozenset(keys - other)


@functools.lru_cache(maxsize=16)
def slots_of(model: Model) -> tuple[Slot, ...]:
    """Returns a slot for each variable of a network; equal networks are traced once."""
    return slots_of_variables(abstract_variables(model))


def _image_shape(model: Model) -> tuple[int, ...]:
    return (1, _IMAGE_SIDE, _IMAGE_SIDE, model.in_channels)


def _draw(model: Network, paths: Sequence[trees.Path]) -> dict[trees.Path, jax.Array]:
    """Returns variables as the network draws them with key 0; the compiler removes the others."""
    if not paths:
        return {}

    @jax.jit
    def draw() -> list[jax.Array]:
        image = jnp.zeros(_image_shape(model), jnp.float32)
        with convolution_form("general"):  # The convolutions are not computed.
            variables = model.init(jax.random.key(0), image)
        flat = trees.flatten(variables)
        return [flat[path] for path in paths]

    return dict(zip(paths, draw(), strict=True))


def _any_under(names: Iterable[str], prefix: str) -> bool:
    return any(trees.is_under(name, prefix) for name in names)
