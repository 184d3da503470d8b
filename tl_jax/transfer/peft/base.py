"""Networks with a few added parameters: what every parameter-efficient method shares."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models import layers

# How the names of added leaves begin; no network's own do.
_PREFIXES = ("lora_", "ssf_", "adapter_")
_IMAGE_SIDE = 96
# Sets the draw of added leaves apart from the network's own, which begins with the same key.
_ADDED_STREAM = 0x7E57

Variables = Mapping[str, Any]


def added(name: str) -> bool:
    """Says by the last part of a dotted name whether an adaptation added the leaf.

    >>> added("layer1.0.conv1.lora_a"), added("layer1.0.conv1.kernel")
    (True, False)
    """
    return name.rpartition(".")[2].startswith(_PREFIXES)


class Adaptation:
    """Base of the methods that add parameters to a network and train these in place of its own.

    The added leaves lie in the same tree as the network's, beside what they change, so freeze
    plans, optimizers and checkpoints treat them as any parameter. A method says which leaves there
    are (`init`) and what the network computes with them: other values of its own parameters
    (`effective`), or more modules (`interceptor`). It is a frozen dataclass of options.

    Attributes:
      mergeable: whether `effective` alone gives the adapted network (of the class).
    """

    mergeable: ClassVar[bool] = True

    def init(
        self, key: jax.Array, model: nn.Module, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns the added leaves alone, as a tree of the form of `params`.

        Args:
          key: random key.
          model: the network without additions.
          variables: shapes and types of its variables, without additions.
          image_shape: of images that the network takes, [B, H, W, C].

        Raises:
          ValueError: if a pattern of the options matches nothing that can be adapted.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init()")

    def effective(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the parameters that the network without additions is applied with."""
        raise NotImplementedError(f"{type(self).__name__} must define effective()")

    def interceptor(self, params: trees.Tree) -> layers.Interceptor | None:
        """Returns a Linen interceptor that computes added modules; None if there are none."""
        del params
        return None


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A network with an adaptation, to be used in the place of the network.

    `apply` and `init` take what the network's take. The variables hold the added leaves among
    `params`. At the start the effective parameters are the network's and inserted modules add
    zeros, so the logits are the network's too, to the bit. The exception is rounding: where the
    compiler fuses what is added with a sum of the network's (standardised kernels, a LayerNorm
    behind an adapter) it may sum in another order.

    Attributes:
      model: the network.
      adaptation: what is added to it.

    Example:
      >>> model, variables = load_pretrained("resnet18", num_classes=5)      # doctest: +SKIP
      >>> adapted = Adapted(model, LoRA(rank=4))                             # doctest: +SKIP
      >>> variables = adapted.add_to(jax.random.key(0), variables)           # doctest: +SKIP
      >>> logits = adapted.apply(variables, images)                          # doctest: +SKIP
      >>> plain = adapted.merged(variables)  # model.apply(plain, images)    # doctest: +SKIP
    """

    model: nn.Module
    adaptation: Adaptation

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
        """Channels of the images."""
        return self.model.in_channels

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """Applies the adapted network; arguments and results are those of Linen's `apply`."""
        params = variables["params"]
        plain = {**variables, "params": self.adaptation.effective(params)}
        interceptor = self.adaptation.interceptor(params)
        inserted = nn.intercept_methods(interceptor) if interceptor else contextlib.nullcontext()
        with inserted:
            return self.model.apply(plain, *args, **kwargs)

    def init(self, rngs: Any, images: jax.Array, **kwargs: Any) -> dict[str, Any]:
        """Draws the network's variables, then the added leaves; arguments are those of Linen's."""
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs
        variables = self.model.init(rngs, images, **kwargs)
        return self.add_to(jax.random.fold_in(key, _ADDED_STREAM), variables, images.shape)

    def add_to(
        self, key: jax.Array, variables: Variables, image_shape: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Adds the leaves to the network's variables, such as pretrained ones.

        Args:
          key: random key.
          variables: the network's, without additions.
          image_shape: of images that the network takes, [B, H, W, C]; None for one of 96 pixels.
            Nothing but the number of channels depends on it.

        Raises:
          ValueError: if the variables hold added leaves already, or a pattern of the adaptation
            matches nothing.
        """
        there = [name for name in trees.names(variables["params"]) if added(name)]
        if there:
            raise ValueError(
                f"the variables hold {len(there)} added leaves already, first {there[0]!r}; "
                "start from the network's own, such as merged(variables)"
            )
        shape = image_shape or (1, _IMAGE_SIDE, _IMAGE_SIDE, self.in_channels)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(variables))
        # Compiled as a whole: leaf by leaf, every shape would be a program of its own.
        draw = jax.jit(lambda key: self.adaptation.init(key, self.model, abstract, shape))
        return {**variables, "params": trees.merge(variables["params"], draw(key))}

    def merged(self, variables: Variables) -> dict[str, Any]:
        """Returns the variables with which the network itself computes what this one does.

        They have the network's own leaves only, so they export as any network's do.

        Raises:
          ValueError: if the adaptation inserts modules, which no weights of the network can hold.
        """
        if not self.adaptation.mergeable:
            raise ValueError(
                f"{type(self.adaptation).__name__} inserts modules, which cannot be merged into "
                "the network's own weights; keep the adapted network, or use LoRA or SSF"
            )
        return {**variables, "params": jax.jit(self.adaptation.effective)(variables["params"])}


def uniform(
    key: jax.Array, shapes: Mapping[trees.Path, tuple[int, ...]], bound: float
) -> dict[trees.Path, jax.Array]:
    """Draws kernels [..., outputs] from U(-bound, bound) / sqrt(fan_in), whatever their order.

    All are cut from one draw, because the compiler takes long over each.
    """
    paths = sorted(shapes)
    *ends, total = itertools.accumulate(math.prod(shapes[path]) for path in paths)
    values = jax.random.uniform(key, (total,), jnp.float32, -bound, bound)
    return {
        path: piece.reshape(shapes[path]) / math.sqrt(math.prod(shapes[path][:-1]))
        for path, piece in zip(paths, jnp.split(values, ends), strict=True)
    }


def without_added(params: trees.Tree) -> dict[str, Any]:
    """Returns the network's own parameters."""
    return trees.split(params, added)[1]


def leaves_by_module(params: trees.Tree) -> dict[trees.Path, dict[str, Any]]:
    """Returns the leaves of every module that has any, by the module's path."""
    modules: dict[trees.Path, dict[str, Any]] = {}
    for path, leaf in trees.flatten(params).items():
        modules.setdefault(path[:-1], {})[path[-1]] = leaf
    return modules


def targeted(
    modules: Iterable[trees.Path], targets: Sequence[str], *, left_out: str | None, kind: str
) -> list[trees.Path]:
    """Returns the modules whose dotted names the patterns match, but for those left out.

    Args:
      modules: paths of the modules that can be adapted.
      targets: patterns as in `trees.matches`.
      left_out: dotted name of a module that is not adapted, nor what lies below it; None for none.
      kind: what the modules are, in the plural, for the error.

    Raises:
      ValueError: if a pattern matches none of the modules that are not left out.
    """
    names = {trees.dotted(path): path for path in modules}
    offered = [name for name in names if left_out is None or not trees.is_under(name, left_out)]
    for pattern in targets:
        if not any(trees.matches(name, pattern) for name in offered):
            only_left_out = any(trees.matches(name, pattern) for name in names)
            mend = (
                f"; it matches the classifier {left_out!r} alone, which classifier=True adapts"
                if only_left_out
                else messages.hint(pattern, offered)
            )
            raise ValueError(f"the target {pattern!r} matches none of the {kind}{mend}")
    return [names[name] for name in offered if any(trees.matches(name, p) for p in targets)]
