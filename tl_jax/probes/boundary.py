"""The rest of a network behind one of its modules, fed with that module's cached output."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.transfer.freeze import FROZEN


@dataclasses.dataclass(frozen=True)
class FromBoundary:
    """A network that takes the output of the module `at` in place of images.

    `apply` is that of the whole network, with the same variables, but what stands before the
    boundary is neither computed nor differentiated: the module's output is replaced, and XLA
    removes what nothing depends on. What stands before it stays in evaluation mode, and so do its
    statistics. Steps, optimizers and freeze plans take it as they take the network; a plan must
    freeze `prefix`.

    Attributes:
      model: the network.
      at: dotted name of a module whose output is all that the rest sees of the images, such as
        `"layer3"`.
      image_shape: height, width and channels of the images that the activations came from.
      prefix: dotted names of the parameters that only what stands before the boundary uses.

    Raises:
      ValueError: on construction, if the network has no such module, or a path leads around it.

    Example:
      >>> rest = FromBoundary(model, "layer3", (224, 224, 3))
      >>> activations = features(model, variables, images, at=["layer3"])["layer3"]
      >>> logits = rest.apply(variables, activations)
    """

    model: nn.Module
    at: str
    image_shape: tuple[int, int, int]
    prefix: tuple[str, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        variables = jax.eval_shape(self.model.init, jax.eval_shape(jax.random.key, 0), image)
        activations = _output(self.model, self.at, variables, image)
        needed = _needed(self._logits, image, variables, activations)
        if () in needed:
            raise ValueError(
                f"the network sees the images on another path than through {self.at!r}; take a "
                "module that everything passes, such as a stage: architecture(name).stages"
            )
        unused = [path for path in trees.flatten(variables["params"]) if path not in needed]
        object.__setattr__(self, "prefix", tuple(map(trees.dotted, unused)))

    @property
    def classifier(self) -> str:
        """Dotted name of the network's last layer."""
        return self.model.classifier

    @property
    def num_classes(self) -> int:
        """Size of the network's classifier."""
        return self.model.num_classes

    @property
    def in_channels(self) -> int:
        """Channels of the images (not of the activations)."""
        return self.image_shape[-1]

    def init(self, key: jax.Array, activations: jax.Array) -> Any:
        """Draws the variables of the whole network; the activations count for nothing."""
        del activations
        return self.model.init(key, jnp.zeros((1, *self.image_shape)))

    def apply(
        self, variables: Mapping[str, Any], activations: jax.Array, *args: Any, **kwargs: Any
    ) -> Any:
        """Applies the network behind the boundary: `model.apply` with activations for images.

        Args:
          variables: of the whole network.
          activations: outputs of the module `at`, [B, h, w, C].
          *args, **kwargs: as of Linen's `apply` and the network: `train`, `mutable`, `rngs` ...
        """
        images = jnp.zeros((len(activations), *self.image_shape))
        return self._run(variables, images, activations, *args, **kwargs)

    def check_plan(self, plan: trees.Tree) -> None:
        """Raises a ValueError if a freeze plan trains a parameter that stands before the boundary.

        Its gradient would be zero, but weight decay would move it.
        """
        labels = {trees.dotted(path): label for path, label in trees.flatten(plan).items()}
        trained = [name for name in self.prefix if labels[name] != FROZEN]
        if trained:
            raise ValueError(
                f"the plan trains {len(trained)} parameters that stand before {self.at!r}, first "
                f"{trained[0]!r}; freeze them, or cache an earlier module's output"
            )

    def _run(
        self,
        variables: Mapping[str, Any],
        images: jax.Array,
        activations: jax.Array,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        with _replacing(self.at, activations):
            return self.model.apply(variables, images, *args, **kwargs)

    def _logits(self, image: jax.Array, variables: Any, activations: jax.Array) -> jax.Array:
        return self._run(variables, image, activations)


@contextlib.contextmanager
def _replacing(at: str, activations: jax.Array) -> Iterator[None]:
    """Within it the module `at` returns `activations`, and what is called before stands still."""
    passed = False

    def handle(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        nonlocal passed
        del args
        before = not passed and isinstance(module, layers.WITH_TRAINING_MODE)
        output = proceed(train=False) if before else proceed()
        if trees.dotted(module.path) != at:
            return output
        passed = True
        _check_shape(at, activations, output)
        return activations.astype(output.dtype)

    with nn.intercept_methods(layers.around_calls(handle)):
        yield


def _check_shape(at: str, activations: jax.Array, output: jax.Array) -> None:
    if activations.shape != output.shape:
        raise ValueError(
            f"got activations {activations.shape} for {at!r}, which returns {output.shape} for "
            "images of this shape; give the image_shape that they were taken at"
        )


def _output(
    model: nn.Module, at: str, variables: Any, image: jax.ShapeDtypeStruct
) -> jax.ShapeDtypeStruct:
    """Returns the shape and type of a module's output, without computing anything."""
    outputs: dict[str, Any] = {}

    def note(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        del args
        output = proceed()
        if isinstance(output, jax.Array):
            outputs[trees.dotted(module.path)] = jax.typeof(output)
        return output

    with nn.intercept_methods(layers.around_calls(note)):
        jax.eval_shape(model.apply, variables, image)
    outputs.pop("", None)  # The network itself: nothing would be left behind it.
    if at not in outputs:
        raise ValueError(f"the network has no module {at!r}{messages.hint(at, outputs)}")
    return jax.ShapeDtypeStruct(outputs[at].shape, outputs[at].dtype)


def _needed(
    function: Callable[..., jax.Array], image: Any, variables: Any, activations: Any
) -> set[trees.Path]:
    """Returns the paths of the parameters that a function's value depends on; `()` is the image."""
    others = {name: tree for name, tree in variables.items() if name != "params"}

    def of_params(image: Any, params: Any, others: Any, activations: Any) -> jax.Array:
        return function(image, {"params": params, **others}, activations)

    params = variables["params"]
    jaxpr = jax.make_jaxpr(of_params)(image, params, others, activations).jaxpr
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(v) for v in equation.invars if not isinstance(v, core.Literal)}
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [(), *(tuple(key.key for key in path) for path, _ in leaves)]
    return {path for path, v in zip(paths, jaxpr.invars, strict=False) if id(v) in needed}
