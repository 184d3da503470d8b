"""Residual adapters: small bottlenecks behind chosen modules, which alone are trained."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    leaves_by_module,
    uniform,
    without_added,
)

_ADAPTER = "adapter"
# Of the uniform distribution with He's variance, 2 / fan_in.
_HE = math.sqrt(6.0)
_DOWN, _UP = "adapter_down", "adapter_up"
_DOWN_BIAS, _UP_BIAS = "adapter_down_bias", "adapter_up_bias"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters(Adaptation):
    """Bottlenecks of two 1x1 convolutions around an activation, added to modules' outputs.

    The output y [..., C] of a module becomes `y + up(act(down(y)))` (arXiv:1902.00751, with the
    1x1 convolutions of arXiv:1705.08045), computed in y's type. The leaves lie under
    `<module>.adapter`: `adapter_down` [C, C / reduction], `adapter_up` [C / reduction, C], which
    is zero at the start, and their biases. A module that is called twice has one adapter.

    The bottleneck is not linear, so no weights of the network can take it up: it is not mergeable.

    Attributes:
      at: the modules: dotted names, in which the wildcards of each part stand for that part
        alone. `architecture(name).stages` puts one behind each stage; blocks are `"layer*.*"` in a
        ResNet, `"blocks.*.*"` in an EfficientNet, `"stages.*.blocks.*"` in a ConvNeXt.
      reduction: how many times narrower than C the bottleneck is; it has at least one channel.
      act: activation in the bottleneck.

    Raises:
      ValueError: on construction if there is no module or the reduction is below 1.
    """

    mergeable: ClassVar[bool] = False

    at: tuple[str, ...]
    reduction: int = 4
    act: layers.Act = layers.relu

    def __post_init__(self):
        if not self.at:
            raise ValueError("at is empty; name modules, such as architecture(name).stages")
        if self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction}; it must be at least 1")

    def init(
        self, key: jax.Array, model: nn.Module, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns an adapter for each module of `at`."""
        shapes, zeros = {}, {}
        for path, width in _widths(model, variables, image_shape, self.at).items():
            hidden = max(width // self.reduction, 1)
            own = {_DOWN_BIAS: (hidden,), _UP: (hidden, width), _UP_BIAS: (width,)}
            for name, shape in own.items():
                zeros[*path, _ADAPTER, name] = jnp.zeros(shape, jnp.float32)
            shapes[*path, _ADAPTER, _DOWN] = (width, hidden)
        return trees.unflatten(uniform(key, shapes, _HE) | zeros)

    def effective(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the network's own parameters."""
        return without_added(params)

    def interceptor(self, params: trees.Tree) -> layers.Interceptor:
        """Returns the Linen interceptor that adds the adapters to their modules' outputs."""
        adapters = {
            path[:-1]: leaves
            for path, leaves in leaves_by_module(params).items()
            if path and path[-1] == _ADAPTER and _DOWN in leaves
        }

        def handle(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
            del args
            leaves = adapters.get(module.path)
            return proceed() if leaves is None else self._adapted(proceed(), leaves)

        return layers.around_calls(handle)

    def _adapted(self, y: jax.Array, leaves: Mapping[str, jax.Array]) -> jax.Array:
        leaves = {name: leaf.astype(y.dtype) for name, leaf in leaves.items()}
        hidden = self.act(y @ leaves[_DOWN] + leaves[_DOWN_BIAS])
        return y + (hidden @ leaves[_UP] + leaves[_UP_BIAS])


def _widths(
    model: nn.Module, variables: Variables, image_shape: Sequence[int], at: Sequence[str]
) -> dict[trees.Path, int]:
    """Returns the channels of the modules that the patterns match, by path.

    Raises:
      ValueError: if a pattern matches nothing, or a module whose output is not one array.
    """
    outputs = _outputs(model, variables, image_shape)
    names = {trees.dotted(path): path for path in outputs if path}
    for pattern in at:
        if not any(_matches(name, pattern) for name in names):
            raise ValueError(
                f"{pattern!r} matches no module of the network{messages.hint(pattern, names)} "
                "(each part of a pattern stands for one part of the name)"
            )
    chosen = [name for name in names if any(_matches(name, pattern) for pattern in at)]
    return {names[name]: _width(name, outputs[names[name]]) for name in chosen}


def _matches(name: str, pattern: str) -> bool:
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _outputs(
    model: nn.Module, variables: Variables, image_shape: Sequence[int]
) -> dict[trees.Path, list[Any]]:
    """Returns what every module returns in each of its calls, abstractly; nothing is computed."""
    outputs: dict[trees.Path, list[Any]] = {}

    def note(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        del args
        y = proceed()
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), y)
        outputs.setdefault(module.path, []).append(shapes)
        return y

    with nn.intercept_methods(layers.around_calls(note)), layers.as_on_accelerators():
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct(image_shape, jnp.float32))
    return outputs


def _width(name: str, outputs: Sequence[Any]) -> int:
    shapes = {y.shape if isinstance(y, jax.ShapeDtypeStruct) else None for y in outputs}
    widths = {shape[-1] if shape and len(shape) >= 2 else None for shape in shapes}
    if len(widths) != 1 or None in widths:
        raise ValueError(
            f"the module {name!r} returns {outputs}; an adapter needs one array "
            "[batch, ..., channels], with the same channels in every call"
        )
    return widths.pop()
