"""Linen interceptors: what is done around the calls of a network's modules, from outside."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from tl_jax.models.layers.drop import DropBlock, Dropout, DropPath
from tl_jax.models.layers.norm import BatchNorm, EvoNormB0

Interceptor = Callable[..., Any]
Handle = Callable[[nn.Module, tuple[Any, ...], Callable[..., Any]], Any]

# The layers that keep running statistics, and all that do something else in training than outside.
WITH_STATISTICS = (BatchNorm, EvoNormB0)
WITH_TRAINING_MODE = (*WITH_STATISTICS, Dropout, DropPath, DropBlock)


def around_calls(handle: Handle) -> Interceptor:
    """Returns an interceptor that answers every `__call__` of a module.

    Args:
      handle: `handle(module, args, proceed) -> output`, with the positional arguments of the call;
        `proceed(**changes)` makes it, with some of its keyword arguments changed.

    Example:
      >>> def double(module, args, proceed):
      ...     return 2 * proceed()
      >>> with nn.intercept_methods(around_calls(double)):                   # doctest: +SKIP
      ...     model.apply(variables, images)
    """

    def intercept(
        next_function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        if context.method_name != "__call__":
            return next_function(*args, **kwargs)

        def proceed(**changes: Any) -> Any:
            return next_function(*args, **{**kwargs, **changes})

        return handle(context.module, args, proceed)

    return intercept


def evaluating(stands_still: Callable[[nn.Module], bool]) -> Interceptor:
    """Returns an interceptor that puts some layers in evaluation mode.

    Args:
      stands_still: says so of a layer that has a training mode.
    """

    def handle(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        del args
        still = isinstance(module, WITH_TRAINING_MODE) and stands_still(module)
        return proceed(train=False) if still else proceed()

    return around_calls(handle)
