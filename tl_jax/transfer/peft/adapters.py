"""Residual adapters: small trained bottlenecks after chosen modules."""

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.models.outputs import output_shapes
from tl_jax.transfer.peft.base import (
    Adaptation,
    Variables,
    draw_kernels,
    leaves_by_module,
    without_added,
)

_ADAPTER = "adapter"
# The uniform distribution with this bound has He's variance, 2 / fan_in.
_HE_BOUND = math.sqrt(6.0)
_DOWN, _UP = "adapter_down", "adapter_up"
_DOWN_BIAS, _UP_BIAS = "adapter_down_bias", "adapter_up_bias"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapters(Adaptation):
    """Bottlenecks of two 1x1 convolutions around an activation, added to modules' outputs.

    The output y [..., C] of a module becomes `y + up(act(down(y)))` (arXiv:1902.00751, with the
    1x1 convolutions of arXiv:1705.08045), computed in y's dtype. The leaves lie under
    `<module>.adapter`: `adapter_down` [C, C / reduction], `adapter_up` [C / reduction, C], which
    is zero at first, and their biases. A module that is called twice has one adapter.

    The bottleneck is not linear, so it cannot be merged into weights of the network.

    Attributes:
      at: dotted names of the modules, in which a wildcard does not match across dots.
        `architecture(name).stages` puts one after each stage; blocks are `"layer*.*"` in a
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

    def __post_init__(self) -> None:
        arguments.names("at", self.at, "architecture(name).stages")
        arguments.function("act", self.act, "is the activation, such as jax.nn.relu")
        if not self.at:
            raise ValueError("at is empty; name modules, such as architecture(name).stages")
        arguments.whole_number("reduction", self.reduction, least=1)

    def init(
        self, key: jax.Array, model: Model, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns an adapter for each module of `at`."""
        shapes, zeros = {}, {}
        for path, width in _widths(model, variables, image_shape, self.at).items():
            hidden = max(width // self.reduction, 1)
            shapes[*path, _ADAPTER, _DOWN] = (width, hidden)
            zero_shapes = {_DOWN_BIAS: (hidden,), _UP: (hidden, width), _UP_BIAS: (width,)}
            for name, shape in zero_shapes.items():
                zeros[*path, _ADAPTER, name] = jnp.zeros(shape, jnp.float32)
        return trees.unflatten(draw_kernels(key, shapes, _HE_BOUND) | zeros)

    def effective_params(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the network's own parameters."""
        return without_added(params)

    def interceptor(self, params: trees.Tree) -> layers.Interceptor:
        """Returns the Linen interceptor that adds the adapters to their modules' outputs."""
        adapters = {
            path[:-1]: leaves
            for path, leaves in leaves_by_module(params).items()
            if path and path[-1] == _ADAPTER and _DOWN in leaves
        }

        def add_adapter(
            module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]
        ) -> Any:
            del args
            y = proceed()
            if module.path not in adapters:
                return y
            leaves = {name: leaf.astype(y.dtype) for name, leaf in adapters[module.path].items()}
            hidden = self.act(y @ leaves[_DOWN] + leaves[_DOWN_BIAS])
            return y + (hidden @ leaves[_UP] + leaves[_UP_BIAS])

        return layers.around_calls(add_adapter)


def _widths(
    model: Model, variables: Variables, image_shape: Sequence[int], at: Sequence[str]
) -> dict[trees.Path, int]:
    """Returns the channels of the modules that the patterns match, by path.

    Raises:
      ValueError: if a pattern matches nothing, or a module whose output is not one array.
    """
    shapes = output_shapes(model, variables, image_shape)
    names = {trees.dotted(path): path for path in shapes if path}
    for pattern in at:
        if not any(_matches(name, pattern) for name in names):
            raise ValueError(
                f"{pattern!r} matches no module of the network{messages.hint(pattern, names)} "
                "(a wildcard does not match across dots)"
            )
    return {
        path: _width(name, shapes[path])
        for name, path in names.items()
        if any(_matches(name, pattern) for pattern in at)
    }


def _matches(name: str, pattern: str) -> bool:
    """Returns whether a pattern matches a dotted name part by part."""
    parts, patterns = name.split("."), pattern.split(".")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _width(name: str, outputs: Sequence[Any]) -> int:
    """Returns the channels of a module's outputs, one in each of its calls."""
    widths = set()
    for y in outputs:
        if not isinstance(y, jax.ShapeDtypeStruct) or len(y.shape) < 2:
            raise ValueError(
                f"the module {name!r} returns {y}; an adapter needs one array [batch, ..., "
                "channels]"
            )
        widths.add(y.shape[-1])
    if len(widths) != 1:
        raise ValueError(
            f"the module {name!r} returns {sorted(widths)} channels in its calls; an adapter needs "
            "the same number in every call"
        )
    return widths.pop()
