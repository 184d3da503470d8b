"""Outputs of a network's modules by name: their values, or only their shapes."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models.layers import around_calls
from tl_jax.models.model import Model, abstract_inputs, check_model


def features(
    model: Model, variables: Mapping[str, Any], images: jax.Array, at: Sequence[str]
) -> dict[str, jax.Array]:
    """Evaluates a network and returns the outputs of some of its modules.

    It is a pure function and may be jitted; layers after the last requested module then cost
    nothing.

    Args:
      model: a network of `create_model`.
      variables: its params and batch_stats.
      images: [B, H, W, C], normalised.
      at: dotted names of modules; `architecture(name).stages` lists those of the stages.

    Returns:
      The outputs by name, in the order of `at`; feature maps are [B, h, w, C].

    Raises:
      TypeError: if `at` is not a list of names, or the model is no network.
      ValueError: if a name is not that of a module; it names the nearest.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> model = create_model("simple_cnn", num_classes=5)
      >>> images = jax.numpy.zeros((2, 16, 16, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> features(model, variables, images, at=["conv1", "conv2"])["conv2"].shape
      (2, 8, 8, 64)
    """
    return logits_and_features(model, variables, images, at)[1]


def logits_and_features(
    model: Model, variables: Mapping[str, Any], images: jax.Array, at: Sequence[str]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the logits and, as `features` does, the outputs of some modules."""
    check_model(model, function="features")
    trees.params_of(variables)
    arguments.names("at", at, "architecture(name).stages")
    names: list[str] = []

    def is_requested(module: nn.Module, method: str) -> bool:
        name = trees.dotted(module.path)
        if method != "__call__" or not name:
            return False
        names.append(name)
        return name in at

    logits, captured = model.apply(variables, images, capture_intermediates=is_requested)
    check_names(at, names)
    # Flax captures the outputs of all calls; of a module called twice the first output is taken.
    outputs = {
        trees.dotted(path[:-1]): calls[0]
        for path, calls in trees.flatten(captured.get("intermediates", {})).items()
        if path[-1] == "__call__"
    }
    return logits, {name: outputs[name] for name in at}


@dataclasses.dataclass
class Call:
    """One call of a module, as `recording` notes it.

    Attributes:
      path: the module's path; `()` is the network itself.
      start: how many calls had started or ended before this one started.
      end: the same count right after this one ended.
      output: shapes and types of what it returned (`jax.ShapeDtypeStruct`, or a tree of them).
    """

    path: trees.Path
    start: int
    end: int = 0
    output: Any = None


@contextlib.contextmanager
def recording() -> Iterator[list[Call]]:
    """Records every call of a module in the context, in the order in which the calls start.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> from tl_jax.models.variables import abstract_variables
      >>> with recording() as calls:
      ...     _ = abstract_variables(create_model("simple_cnn"))
      >>> [call.path for call in calls[:3]]
      [(), ('conv1',), ('act1',)]
    """
    calls: list[Call] = []
    clock = 0

    def record(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        nonlocal clock
        del args
        call = Call(tuple(module.path), start=clock)
        calls.append(call)
        clock += 1
        output = proceed()
        clock += 1
        call.end = clock
        call.output = jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), output)
        return output

    with nn.intercept_methods(around_calls(record)):
        yield calls


def output_shapes(
    model: Model, variables: Mapping[str, Any], image_shape: Sequence[int]
) -> dict[trees.Path, list[Any]]:
    """Returns the output shapes of every module of a network, without computing anything.

    Args:
      model: a network.
      variables: its variables, or their shapes and types.
      image_shape: shape of the images, [B, H, W, C]; of one image of each example where the
        network takes several.

    Returns:
      By the module's path, in the order of the first calls, the shapes and types of the output of
      each call. The network itself, with the path `()`, is the first.

    Raises:
      TypeError, ValueError: if an argument is another.
    """
    check_model(model, function="output_shapes")
    trees.params_of(variables)
    arguments.sizes("image_shape", image_shape, "(1, 224, 224, 3)")
    images = abstract_inputs(model, image_shape)
    with recording() as calls:
        # A new function: jax caches traces by function, and would not call the modules again.
        jax.eval_shape(lambda *args: model.apply(*args), variables, images)
    shapes: dict[trees.Path, list[Any]] = {}
    for call in calls:
        shapes.setdefault(call.path, []).append(call.output)
    return shapes


def check_names(names: Sequence[str], modules: Sequence[str]) -> None:
    """Raises a ValueError unless all names are those of modules; it names the nearest."""
    for name in names:
        if name not in modules:
            nearest = messages.hint(name, modules)
            others = nearest or f"; its modules are {messages.some(list(modules), quoted=False)}"
            raise ValueError(f"the network has no module {name!r}{others}")
