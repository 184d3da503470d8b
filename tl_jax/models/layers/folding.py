"""Folds BatchNorm that uses its running statistics into the convolution before it.

A frozen BatchNorm after a convolution is another convolution: the kernel times
`scale / sqrt(var + epsilon)`, and a bias. The folded network computes the same up to rounding, and
so do its gradients, those of kernel, scale and bias included: they pass through the product with
the kernel, so that no map is kept for the scale. GPU libraries compute a convolution, its bias and
the activation in one kernel. A CPU gains nothing: XLA computes BatchNorm and activation in one pass
either way, and the products with the kernels come on top (`fold_norms`).
"""

import collections
import contextlib
import contextvars
import dataclasses
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import jax
from flax import linen as nn
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, subjaxprs

from tl_jax.models.layers.calls import Interceptor, around_methods
from tl_jax.models.layers.conv import Conv
from tl_jax.models.layers.norm import BatchNorm

FoldNorms = Literal["accelerators", "always", "never"]

Path = tuple[str, ...]
_MARK = "folding"
_when: contextvars.ContextVar[FoldNorms] = contextvars.ContextVar(
    "fold_norms", default="accelerators"
)
# What is folded in the call that is being traced, by the path of the convolution.
_folds: contextvars.ContextVar[Mapping[Path, "_Fold"]] = contextvars.ContextVar(
    "folds", default=types.MappingProxyType({})
)


@contextlib.contextmanager
def fold_norms(when: FoldNorms) -> Iterator[None]:
    """Decides where `folded` folds, for functions that are traced in the context.

    Args:
      when: "accelerators", the default, folds unless jax computes on a CPU; "always" and "never".
    """
    token = _when.set(when)
    try:
        yield
    finally:
        _when.reset(token)


@dataclasses.dataclass(frozen=True)
class _Fold:
    """A convolution and the BatchNorm that takes its output, which nothing else does."""

    conv: Path
    norm: Path
    epsilon: float
    conv_has_bias: bool


def folded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function with every BatchNorm folded that follows a convolution in evaluation mode.

    One abstract trace of the function finds them: a BatchNorm is folded if it is called once, by
    its running statistics, on the output of a `Conv` that is called once and used nowhere else. All
    others stay as they are: those that normalise by the batch, that follow something else, or whose
    convolution is of another class or returned among captured intermediates.

    It folds on accelerators only, unless `fold_norms` says otherwise.

    Args:
      function: of arrays or trees of arrays (positional) and options (by keyword); it applies a
        network, such as `model.apply`, with interceptors of its own or without.

    Examples:
      >>> import jax.numpy as jnp
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         x = Conv(4, 3, name="conv1")(x)
      ...         return BatchNorm(name="bn1")(x, train=False)
      >>> model, images = Net(), jnp.ones((1, 8, 8, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> with fold_norms("always"):
      ...     y = jax.jit(folded(model.apply))(variables, images)
      >>> bool(jnp.allclose(y, model.apply(variables, images), atol=1e-5))
      True
    """

    def call(*args: Any, **options: Any) -> Any:
        when = _when.get()
        if when == "never" or (when == "accelerators" and jax.default_backend() == "cpu"):
            return function(*args, **options)
        folds = _find(function, args, options)
        token = _folds.set({fold.conv: fold for fold in folds})
        try:
            with nn.intercept_methods(_folding({fold.norm: fold for fold in folds})):
                return function(*args, **options)
        finally:
            _folds.reset(token)

    return call


def _find(
    function: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]
) -> list[_Fold]:
    """Returns what can be folded in one call of the function."""
    convs: list[Conv] = []
    norms: list[BatchNorm] = []

    def mark(
        module: nn.Module, name: str, args: tuple[Any, ...], proceed: Callable[..., Any]
    ) -> Any:
        if isinstance(module, BatchNorm) and name == "normalize":
            norms.append(module)
            return module.finish(checkpoint_name(args[0], f"{_MARK} norm {len(norms) - 1}"))
        y = proceed()
        if type(module) is Conv and name == ("add_bias" if module.use_bias else "convolve"):
            convs.append(module)
            return checkpoint_name(y, f"{_MARK} conv {len(convs) - 1}")
        return y

    with nn.intercept_methods(around_methods(mark)):
        # A new function: jax caches traces by function, and would not call the modules again.
        jaxpr = jax.make_jaxpr(lambda *args: function(*args, **options))(*args)
    calls = collections.Counter(module.path for module in [*convs, *norms])
    return [
        _Fold(convs[i].path, norms[j].path, norms[j].epsilon, convs[i].use_bias)
        for i, j in _adjacent(jaxpr.jaxpr)
        if calls[convs[i].path] == calls[norms[j].path] == 1
    ]


def _adjacent(jaxpr: Jaxpr) -> Iterator[tuple[int, int]]:
    """Yields the numbers of marked convolutions and norms of which one feeds only the other."""
    uses = collections.Counter(id(var) for eqn in jaxpr.eqns for var in eqn.invars)
    uses.update(map(id, jaxpr.outvars))
    conv_of: dict[int, int] = {}
    for eqn in jaxpr.eqns:
        words = str(eqn.params.get("name", "")).split()
        if words[:1] != [_MARK]:
            continue
        kind, number = words[1], int(words[2])
        if kind == "conv":
            conv_of[id(eqn.outvars[0])] = number
        elif uses[id(eqn.invars[0])] == 1 and id(eqn.invars[0]) in conv_of:
            yield conv_of[id(eqn.invars[0])], number
    for inner in subjaxprs(jaxpr):
        yield from _adjacent(inner)


def _folding(of_norm: Mapping[Path, _Fold]) -> Interceptor:
    def fold(
        module: nn.Module, name: str, args: tuple[Any, ...], proceed: Callable[..., Any]
    ) -> Any:
        if isinstance(module, BatchNorm) and name == "normalize" and module.path in of_norm:
            x, mean, var, scale, bias = args
            if of_norm[module.path].conv_has_bias:  # `add_bias` added this one too.
                return module.finish(x)
            _, shift = _affine(mean, var, scale, bias, module.epsilon)
            # In the convolution's type: only then is it the bias that a GPU library adds itself.
            return module.finish(x + shift.astype(x.dtype))
        folded_conv = name in ("raw_kernel", "add_bias") and folded_norm(module)
        if folded_conv and name == "raw_kernel":
            return proceed() * folded_conv[0]
        if folded_conv:
            bias = module.get_variable("params", "bias") * folded_conv[0] + folded_conv[1]
            return args[0] + bias.astype(args[0].dtype)
        return proceed()

    return around_methods(fold)


def folded_norm(module: nn.Module) -> tuple[jax.Array, jax.Array] | None:
    """Returns the BatchNorm that is folded into a convolution, as `factor * x + shift`.

    For interceptors of `Conv.convolve` that compute with kernels of their own.

    Args:
      module: the convolution, in a call of it.

    Returns:
      Factor and shift, float32 [C]; None where nothing is folded into the module.
    """
    fold = _folds.get().get(module.path)
    if fold is None or type(module) is not Conv or module.scope is None:
        return None
    root = module.scope.root  # Of the network, or of a module that is rematerialised.
    name, *rest = fold.norm[len(root.path) :]
    affine, stats = (
        _at(root.get_variable(collection, name), rest) for collection in ("params", "batch_stats")
    )
    return _affine(stats["mean"], stats["var"], affine["scale"], affine["bias"], fold.epsilon)


def _affine(
    mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """Returns factor and shift: BatchNorm in evaluation mode is `factor * x + shift`."""
    factor = scale * lax.rsqrt(var + epsilon)
    return factor, bias - mean * factor


def _at(variables: Any, path: Iterable[str]) -> Any:
    for part in path:
        variables = variables[part]
    return variables
