"""Conversion between torch state dicts and the variables of Linen modules, by name alone."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from tl_jax import arguments, messages, trees
from tl_jax.weights import tensors

# torch's names of the leaves that Flax names differently.
_TORCH_LEAF = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_COLLECTIONS = ("params", "batch_stats")
# Counters that torch keeps for cumulative averages; no CNN of timm uses them.
_IGNORED_SUFFIX = "num_batches_tracked"
# Two threads transpose arrays at once; more would only wait for the interpreter lock.
_THREADS = 2


class StateDictError(ValueError):
    """A state dict does not fit the model; the message lists every key that is wrong.

    Attributes:
      listing: the lines of the message that list the keys; "" if the error is another.
      missing, unused: keys that are missing, and keys that have no place.
    """

    def __init__(
        self,
        message: str,
        *,
        listing: str = "",
        missing: Sequence[str] = (),
        unused: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.listing = listing
        self.missing = tuple(missing)
        self.unused = tuple(unused)


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
      TensorError: naming all tensors that are not floating point, dense and finite.
    """
    given = {key: value for key, value in state_dict.items() if not key.endswith(_IGNORED_SUFFIX)}
    _check(slots, given)
    values = {slot.key: tensors.as_array(slot.key, given[slot.key]) for slot in slots}
    tensors.check_values(values)
    arrays = []
    for slot in slots:
        value = values[slot.key].reshape(slot.torch_shape)
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
    shapes = {key: _shape(key, value) for key, value in given.items()}
    problems = {
        "missing": [key for key in expected if key not in shapes],
        "unused": [key for key in shapes if key not in expected],
        "mis-shaped": [
            f"{key}: got {shapes[key]}, expected {shape}"
            for key, shape in expected.items()
            if key in shapes and not _is_reshaped(shapes[key], shape)
        ],
    }
    if any(problems.values()):
        lines = [
            f"  {len(keys)} {kind}: {messages.some(keys, quoted=False)}"
            for kind, keys in problems.items()
            if keys
        ]
        listing = "\n".join(lines)
        raise StateDictError(
            f"the state dict does not fit the model\n{listing}\n  is it the state dict of this "
            "architecture? A classifier for other classes is left out with except_head=True; "
            "checkpoints with other key names need a rename first",
            listing=listing,
            missing=problems["missing"],
            unused=problems["unused"],
        )


def _shape(key: str, value: Any) -> tuple[int, ...]:
    try:
        return tuple(np.shape(value))
    except ValueError as error:
        raise StateDictError(f"{key} is {arguments.kind(value)} that is no array") from error


def _is_reshaped(given: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Returns whether two shapes hold the same values in the same order, for torch's layers.

    Publishers differ in axes of size 1 (a layer scale of [C, 1, 1]) and in whether a layer over a
    whole map is a convolution, [O, C, h, w], or dense on the flattened map, [O, C * h * w].
    """
    if given == expected:
        return True
    if len(expected) == 1:  # A value for each channel, wherever the axis of the channels is.
        return max(given, default=0) == math.prod(given) == expected[0]
    if len(given) == 2 and len(expected) == 4:
        return given == (expected[0], math.prod(expected[1:]))
    return len(given) == 4 and given[2:] == (1, 1) and given[:2] == expected


def check_variables(variables: Any, *, function: str) -> None:
    """Raises unless an argument is a tree of variables: `{"params": ..., "batch_stats": ...}`.

    Raises:
      TypeError: if it is no dict.
      ValueError: if it has other collections, or none, saying what was probably given.
    """
    if not isinstance(variables, Mapping):
        advice = (
            "; the arguments are the model first and then its variables"
            if hasattr(variables, "apply")
            else ""
        )
        raise TypeError(
            f"{function} takes variables, {{'params': ..., 'batch_stats': ...}}, but got "
            f"{arguments.kind(variables)}{advice}"
        )
    unknown = [name for name in variables if name not in _COLLECTIONS]
    if not unknown and all(isinstance(v, Mapping) for v in variables.values()):
        return
    if any("." in str(name) and not isinstance(variables[name], Mapping) for name in unknown):
        advice = "a state dict, it seems; from_state_dict(model, state_dict) makes variables of it"
    elif unknown:
        advice = (
            "the parameters alone, it seems; give all variables, or {'params': params} for a part"
        )
    else:
        advice = "init, load_pretrained and from_state_dict return variables"
    raise ValueError(
        f"{function} takes variables, {{'params': ..., 'batch_stats': ...}}, but got a dict of "
        f"{messages.some([str(name) for name in variables])}: {advice}"
    )


def to_state_dict(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts variables to a torch state dict of NumPy arrays: the inverse of `from_state_dict`.

    The values are bit-equal to the variables'. timm loads the result with `strict=True`; torch
    itself adds the `num_batches_tracked` counters, which have no place among the variables.

    Args:
      variables: `{"params": ..., "batch_stats": ...}`, or a dict with one of the two.

    Raises:
      TypeError, ValueError: if they are not variables, or two have the same key in torch.

    Examples:
      >>> import jax, jax.numpy as jnp, safetensors.numpy
      >>> from tl_jax.models.registry import create_model
      >>> model = create_model("simple_cnn", num_classes=5)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> state_dict = to_state_dict(variables)
      >>> safetensors.numpy.save_file(state_dict, "simple_cnn.safetensors")
    """
    check_variables(variables, function="to_state_dict")
    state_dict: dict[str, np.ndarray] = {}
    for path, leaf in trees.flatten(variables).items():
        key = torch_key(path)
        if key in state_dict:
            raise ValueError(
                f"two variables have the key {key!r} in torch, one at {trees.dotted(path)}; give "
                "the variables of one network"
            )
        if not isinstance(leaf, jax.Array | np.ndarray):
            raise TypeError(
                f"{trees.dotted(path)} is {arguments.kind(leaf)}, not an array; give variables "
                "with their values"
            )
        value = np.asarray(leaf)
        if path[-1] == "kernel":
            value = np.moveaxis(value, (-1, -2), (0, 1))
        # A copy: an array of jax is read-only, which torch warns of.
        state_dict[key] = np.array(value, order="C")
    return state_dict
