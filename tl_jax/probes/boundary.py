"""The part of a network behind one of its modules, applied to that module's cached outputs."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core

from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.model import ModelWrapper
from tl_jax.models.outputs import check_names, output_shapes
from tl_jax.models.variables import abstract_variables
from tl_jax.transfer.freeze import FROZEN


@dataclasses.dataclass(frozen=True)
class FromBoundary(ModelWrapper):
    """A network that takes the outputs of the module `at` instead of images.

    Cache these outputs once, and train the layers after the module without computing those before
    it. `apply` calls the whole network with all its variables, but replaces the module's output, so
    that XLA removes everything that only this output depends on: the layers before the boundary are
    neither computed nor differentiated. They run in evaluation mode, so their statistics do not
    change. It is a `tl_jax.models.model.Model`; a freeze plan must freeze `prefix`.

    Attributes:
      model: the network.
      at: dotted name of a module that every path from the images to the output passes through,
        such as `"layer3"`.
      image_shape: height, width and channels of the images that the activations came from.
      prefix: dotted names of the parameters that are used before the boundary only.

    Raises:
      ValueError: on construction, if the network has no such module, or a path leads around it.

    Examples:
      >>> from tl_jax.models.outputs import features
      >>> from tl_jax.models.registry import create_model
      >>> model, images = create_model("simple_cnn", num_classes=5), jnp.ones((2, 16, 16, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> activations = features(model, variables, images, at=["act2"])["act2"]
      >>> rest = FromBoundary(model, "act2", (16, 16, 3))
      >>> bool(jnp.allclose(rest.apply(variables, activations), model.apply(variables, images)))
      True
      >>> rest.prefix
      ('conv1.bias', 'conv1.kernel', 'conv2.bias', 'conv2.kernel')
    """

    at: str
    image_shape: tuple[int, int, int]
    prefix: tuple[str, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        shape = self.image_shape
        if not isinstance(shape, tuple | list) or len(shape) != 3:
            raise ValueError(
                f"image_shape is {shape!r}; expected (height, width, channels) of one image"
            )
        variables = abstract_variables(self.model)
        shapes = {
            trees.dotted(path): calls[-1]
            for path, calls in output_shapes(self.model, variables, (1, *self.image_shape)).items()
            if path and isinstance(calls[-1], jax.ShapeDtypeStruct)
        }
        check_names([self.at], list(shapes))
        used = self._used_params(variables, shapes[self.at])
        if () in used:
            raise ValueError(
                f"the network also uses the images on a path around {self.at!r}; choose a module "
                "that all paths pass through, such as a stage: architecture(name).stages"
            )
        unused = [path for path in trees.flatten(variables["params"]) if path not in used]
        object.__setattr__(self, "prefix", tuple(map(trees.dotted, unused)))

    @property
    def in_channels(self) -> int:
        """Channels of the images (not of the activations)."""
        return self.image_shape[-1]

    def init(self, key: jax.Array, activations: jax.Array) -> Any:
        """Draws the variables of the whole network; they do not depend on the activations."""
        del activations
        return self.model.init(key, jnp.zeros((1, *self.image_shape)))

    def apply(
        self, variables: Mapping[str, Any], activations: jax.Array, *args: Any, **kwargs: Any
    ) -> Any:
        """Applies the network behind the boundary: `model.apply` with activations for images.

        Args:
          variables: of the whole network.
          activations: outputs of the module `at`, [B, h, w, C].
          *args, **kwargs: those of Linen's `apply` and of the network: `train`, `mutable`, `rngs`.
        """
        images = jnp.zeros((len(activations), *self.image_shape))
        with _replace_output(self.at, activations):
            return self.model.apply(variables, images, *args, **kwargs)

    def check_plan(self, plan: trees.Tree) -> None:
        """Raises a ValueError if a freeze plan trains a parameter before the boundary.

        Its gradient would be zero, but weight decay would change it.
        """
        labels = {trees.dotted(path): label for path, label in trees.flatten(plan).items()}
        trained = [name for name in self.prefix if labels[name] != FROZEN]
        if trained:
            raise ValueError(
                f"the plan trains {len(trained)} parameters before {self.at!r}, first "
                f"{trained[0]!r}; freeze them, or cache an earlier module's output"
            )

    def _used_params(self, variables: Mapping[str, Any], activations: Any) -> set[trees.Path]:
        """Returns the paths of the parameters that the logits depend on; `()` is the image."""
        params = variables["params"]
        others = {name: tree for name, tree in variables.items() if name != "params"}

        def logits_fn(image: jax.Array, params: Any, others: Any, activations: jax.Array) -> Any:
            with _replace_output(self.at, activations):
                return self.model.apply({"params": params, **others}, image)

        image = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        jaxpr = jax.make_jaxpr(logits_fn)(image, params, others, activations).jaxpr
        needed = {id(variable) for variable in jaxpr.outvars}
        for equation in reversed(jaxpr.eqns):
            if any(id(variable) in needed for variable in equation.outvars):
                needed |= {id(v) for v in equation.invars if not isinstance(v, core.Literal)}
        leaves = jax.tree_util.tree_leaves_with_path(params)
        paths = [(), *(tuple(key.key for key in path) for path, _ in leaves)]
        return {path for path, v in zip(paths, jaxpr.invars, strict=False) if id(v) in needed}


@contextlib.contextmanager
def _replace_output(at: str, activations: jax.Array) -> Iterator[None]:
    """Makes the module `at` return `activations`, and puts earlier layers in evaluation mode."""
    is_behind = False

    def replace(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        nonlocal is_behind
        del args
        if not is_behind and isinstance(module, layers.WITH_TRAINING_MODE):
            output = proceed(train=False)
        else:
            output = proceed()
        if trees.dotted(module.path) != at:
            return output
        is_behind = True
        if activations.shape != output.shape:
            raise ValueError(
                f"got activations {activations.shape} for {at!r}, which returns {output.shape} for "
                "images of this shape; pass the image_shape that they were computed from"
            )
        return activations.astype(output.dtype)

    with nn.intercept_methods(layers.around_calls(replace)):
        yield
