"""Linen interceptors, which change the calls of a network's modules from outside."""

import contextlib
import contextvars
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from flax import linen as nn

from tl_jax.models.layers.drop import DropBlock, Dropout, DropPath
from tl_jax.models.layers.norm import BatchNorm, EvoNormB0

Interceptor = Callable[..., Any]
Handle = Callable[[nn.Module, tuple[Any, ...], Callable[..., Any]], Any]
MethodHandle = Callable[[nn.Module, str, tuple[Any, ...], Callable[..., Any]], Any]

# The layers with running statistics, and all layers that behave differently in training.
WITH_STATISTICS = (BatchNorm, EvoNormB0)
WITH_TRAINING_MODE = (*WITH_STATISTICS, Dropout, DropPath, DropBlock)

# The outputs of modules that are collected, by the modules' dotted names.
_collected: contextvars.ContextVar[Mapping[str, list[Any]]] = contextvars.ContextVar(
    "collected", default=types.MappingProxyType({})
)


def around_methods(handle: MethodHandle) -> Interceptor:
    """Returns an interceptor that handles every method of a module that Linen lets one reach.

    Args:
      handle: `handle(module, name, args, proceed) -> output`, with the method's name; the rest as
        in `around_calls`.
    """

    def intercept(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        def proceed(**changes: Any) -> Any:
            return next_function(*args, **{**kwargs, **changes})

        y = handle(context.module, context.method_name, args, proceed)
        if context.method_name == "__call__":
            _collect(context.module, y)
        return y

    return intercept


def _collect(module: nn.Module, y: Any) -> None:
    if _collected.get():
        _collected.get().get(".".join(module.path), []).append(y)


def around_calls(handle: Handle) -> Interceptor:
    """Returns an interceptor that handles every `__call__` of a module.

    Args:
      handle: `handle(module, args, proceed) -> output`. `args` are the positional arguments of the
        call, and `proceed(**changes)` makes the call, with some keyword arguments changed.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> def double(module, args, proceed):
      ...     return 2 * proceed()
      >>> model, x = nn.Dense(3), jnp.ones((1, 2))
      >>> variables = model.init(jax.random.key(0), x)
      >>> with nn.intercept_methods(around_calls(double)):
      ...     doubled = model.apply(variables, x)
      >>> bool((doubled == 2 * model.apply(variables, x)).all())
      True
    """

    def of_call(
        module: nn.Module, name: str, args: tuple[Any, ...], proceed: Callable[..., Any]
    ) -> Any:
        return handle(module, args, proceed) if name == "__call__" else proceed()

    return around_methods(of_call)


def evaluating(is_frozen: Callable[[nn.Module], bool]) -> Interceptor:
    """Returns an interceptor that puts some layers in evaluation mode.

    Args:
      is_frozen: called with each layer of `WITH_TRAINING_MODE`; True calls it with `train=False`.
    """

    def handle(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        del args
        frozen = isinstance(module, WITH_TRAINING_MODE) and is_frozen(module)
        return proceed(train=False) if frozen else proceed()

    return around_calls(handle)


def rematerialising(names: Collection[str]) -> Interceptor:
    """Returns an interceptor whose modules keep nothing between forward and backward pass.

    The backward pass computes them again from their inputs, so that only their inputs and outputs
    are held in memory until then (`jax.checkpoint`). Names of variables, random numbers and results
    are those of the network without it.

    It must be the outermost interceptor: enter it before all others.

    Args:
      names: dotted names of the modules.
    """
    under_way = set[str]()

    def intercept(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        name = ".".join(context.module.path)
        if context.method_name != "__call__" or name not in names or name in under_way:
            return next_function(*args, **kwargs)
        # The module is called anew, and not `next_function`: Linen gives it other scopes inside.
        call = nn.remat(lambda module, *args: module(*args, **kwargs))
        under_way.add(name)
        try:
            y = call(context.module, *args)
        finally:
            under_way.remove(name)
        _collect(context.module, y)  # What was collected inside is not to be used out here.
        return y

    return intercept


@contextlib.contextmanager
def collecting(names: Collection[str]) -> Iterator[dict[str, list[Any]]]:
    """Collects outputs of modules that are called in the context, in a method of another module.

    Args:
      names: dotted names of the modules.

    Yields:
      By name, what the module returned and what each interceptor around it made of that, so the
      last is what the network goes on with. Interceptors count if `around_methods` or
      `around_calls` made them, those that were entered before the context too. Without a call the
      list is empty.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> class Net(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         with collecting(["fc1"]) as outputs:
      ...             nn.Dense(4, name="fc2")(nn.Dense(3, name="fc1")(x))
      ...         return outputs["fc1"][-1]
      >>> Net().init_with_output(jax.random.key(0), jnp.ones((1, 2)))[0].shape
      (1, 3)
    """
    outputs: dict[str, list[Any]] = {name: [] for name in names}
    token = _collected.set(outputs)
    try:
        # At least one interceptor, which sees the modules' own outputs.
        with nn.intercept_methods(around_calls(lambda module, args, proceed: proceed())):
            yield outputs
    finally:
        _collected.reset(token)
