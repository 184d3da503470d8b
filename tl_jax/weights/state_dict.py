"""Conversion between torch state dicts and the variables of Linen modules, by name alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from tl_jax import messages, trees

# torch's names of the leaves that Flax names differently.
_TORCH_LEAF = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
# Counters that torch keeps for cumulative averages; no CNN of timm uses them.
_IGNORED_SUFFIX = "num_batches_tracked"
# Two threads transpose arrays at once; more would only wait for the interpreter lock.
_THREADS = 2


class StateDictError(ValueError):
    """A state dict does not fit the model; the message lists every key that is wrong."""


@dataclasses.dataclass(frozen=True)
class Slot:
    """The place of one variable: its path (collection first), torch key and shape in Flax."""

    path: trees.Path
    key: str
    shape: tuple[int, ...]

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """The shape of the torch tensor."""
        is_kernel = self.path[-1] == "kernel"
        return (self.shape[-1], self.shape[-2], *self.shape[:-2]) if is_kernel else self.shape


def torch_key(path: trees.Path) -> str:
    """Returns the torch key of a variable's path, its collection first.

    >>> torch_key(("params", "layer4", "0", "conv1", "kernel"))
    'layer4.0.conv1.weight'
    """
    collection, *modules, leaf = path
    return trees.dotted((*modules, _TORCH_LEAF.get((collection, leaf), leaf)))


def slots_of_variables(variables: Mapping[str, Any]) -> tuple[Slot, ...]:
    """Returns a slot for each variable, of arrays or of shapes (`jax.ShapeDtypeStruct`)."""
    flat = trees.flatten(variables)
    return tuple(Slot(path, torch_key(path), tuple(leaf.shape)) for path, leaf in flat.items())


def to_flax(slots: Sequence[Slot], state_dict: Mapping[str, Any]) -> dict[trees.Path, jax.Array]:
    """Converts a state dict that holds exactly what the slots take.

    Args:
      slots: the variables to be filled.
      state_dict: key -> array; NumPy arrays, torch tensors, anything `numpy.asarray` takes.

    Returns:
      Path -> array in float32 and Flax's layout; the arrays share no memory with the given ones.

    Raises:
      StateDictError: naming all missing, unused and mis-shaped keys at once.
    """
    given = {key: value for key, value in state_dict.items() if not key.endswith(_IGNORED_SUFFIX)}
    _check(slots, given)
    arrays = []
    for slot in slots:
        value = given[slot.key]
        # NumPy cannot view torch tensors that require gradients, lie on a GPU, or hold bfloat16.
        value = np.asarray(value.detach().cpu().float() if hasattr(value, "detach") else value)
        if slot.path[-1] == "kernel":
            value = np.moveaxis(value, (0, 1), (-1, -2))
        # jax may alias a contiguous array, and the caller's may change; it copies any other.
        copy = value.flags.c_contiguous or None
        arrays.append(np.array(value, np.float32, copy=copy, order="K"))
    with ThreadPoolExecutor(_THREADS) as pool:  # Transposing takes most of the time.
        on_device = list(pool.map(jax.device_put, arrays))
    return dict(zip((slot.path for slot in slots), on_device, strict=True))


def _check(slots: Sequence[Slot], given: Mapping[str, Any]) -> None:
    expected = {slot.key: slot.torch_shape for slot in slots}
    shapes = {key: tuple(np.shape(value)) for key, value in given.items()}
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unused": [key for key in shapes if key not in expected],
        "mis-shaped": [
            f"{key}: got {shapes[key]}, expected {shape}"
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(keys)} {kind}: {messages.some(keys, quoted=False)}"
            for kind, keys in problems.items()
            if keys
        ]
        raise StateDictError(
            "\n".join([
                "the state dict does not fit the model",
                *lines,
                "  is it the state dict of this architecture? A classifier for other classes is "
                "left out with except_head=True; checkpoints with other key names need a rename "
                "first",
            ])
        )  # fmt: skip


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables to a torch state dict of NumPy arrays: the inverse of `from_state_dict`.

    The values are bit-equal to the variables'. timm loads the result with `strict=True`; torch
    itself adds the `num_batches_tracked` counters, which have no place among the variables.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`, or one of the two collections.

    Examples:
      >>> import jax, jax.numpy as jnp, safetensors.numpy
      >>> from tl_jax.models.registry import create_model
      >>> model = create_model("simple_cnn", num_classes=5)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> state_dict = to_state_dict(variables)
      >>> safetensors.numpy.save_file(state_dict, "simple_cnn.safetensors")
    """
    state_dict = {}
    for path, leaf in trees.flatten(variables).items():
        value = np.asarray(leaf)
        if path[-1] == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        # A copy: an array of jax is read-only, which torch warns of.
        state_dict[torch_key(path)] = np.array(value, order="C")
    return state_dict
