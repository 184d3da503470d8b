"""Networks with a few added parameters: the base of all parameter-efficient methods."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models import layers
from tl_jax.models.model import Model, ModelWrapper

# Prefixes of the names of added leaves; no leaf of a network without additions has them.
_PREFIXES = ("lora_", "ssf_", "adapter_")
_IMAGE_SIDE = 96
# Separates the random stream of added leaves from the network's, which starts from the same key.
_ADDED_STREAM = 0x7E57

Variables = Mapping[str, Any]


def is_added(name: str) -> bool:
    """Returns whether an adaptation added a leaf, by the last part of its dotted name.

    >>> is_added("layer1.0.conv1.lora_a"), is_added("layer1.0.conv1.kernel")
    (True, False)
    """
    return name.rpartition(".")[2].startswith(_PREFIXES)


class Adaptation:
    """Base of the methods that add parameters to a network and train them instead of its own.

    The added leaves are in the same tree as the network's, next to those they change, so freeze
    plans, optimizers and checkpoints treat them like any parameter. A method defines the leaves
    (`init`) and what the network computes with them: other values of its own parameters
    (`effective_params`), or additional modules (`interceptor`). It is a frozen dataclass of
    options.

    Attributes:
      mergeable: whether `effective_params` alone gives the adapted network (a class attribute).
    """

    mergeable: ClassVar[bool] = True

    def init(
        self, key: jax.Array, model: Model, variables: Variables, image_shape: Sequence[int]
    ) -> dict[str, Any]:
        """Returns the added leaves only, as a tree like `params`.

        Args:
          key: random key.
          model: the network without additions.
          variables: shapes and dtypes of its variables, without additions.
          image_shape: shape of images that the network takes, [B, H, W, C].

        Raises:
          ValueError: if a pattern of the options matches nothing that can be adapted.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init()")

    def effective_params(self, params: trees.Tree) -> dict[str, Any]:
        """Returns the parameters that the network without additions is applied with."""
        raise NotImplementedError(f"{type(self).__name__} must define effective_params()")

    def interceptor(self, params: trees.Tree) -> layers.Interceptor | None:
        """Returns a Linen interceptor that computes added modules, or adapted ones; None for none.

        If the adaptation is mergeable, it changes no output.
        """
        del params
        return None


@dataclasses.dataclass(frozen=True)
class Adapted(ModelWrapper):
    """A network with an adaptation, used like the network: a `tl_jax.models.model.Model`.

    `apply` and `init` take the network's arguments. The variables hold the added leaves among
    `params`. At first the effective parameters are the network's and inserted modules add zeros, so
    the logits are the network's too, bit for bit. The exception is rounding: where the compiler
    fuses an addition with a sum of the network's (standardised kernels, a LayerNorm after an
    adapter), it may sum in another order.

    Attributes:
      model: the network.
      adaptation: what is added to it.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> from tl_jax.transfer.peft.lora import LoRA
      >>> model, images = create_model("simple_cnn", num_classes=5), jnp.ones((1, 16, 16, 3))
      >>> adapted = Adapted(model, LoRA(rank=4))
      >>> variables = adapted.add_to(jax.random.key(0), model.init(jax.random.key(1), images))
      >>> logits = adapted.apply(variables, images)
      >>> bool((logits == model.apply(adapted.merged(variables), images)).all())
      True
    """

    adaptation: Adaptation

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.adaptation, Adaptation):
            raise TypeError(
                "Adapted takes an adaptation, such as LoRA(rank=8), but got "
                f"{arguments.kind(self.adaptation)}"
            )

    def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
        """Applies the adapted network; arguments and results are those of Linen's `apply`."""
        params = trees.params_of(variables)
        effective = {**variables, "params": self.adaptation.effective_params(params)}
        interceptor = self.adaptation.interceptor(params)
        context = nn.intercept_methods(interceptor) if interceptor else contextlib.nullcontext()
        with context:
            return self.model.apply(effective, *args, **kwargs)

    def init(self, rngs: Any, images: Any, **kwargs: Any) -> dict[str, Any]:
        """Draws the network's variables, then the added leaves; arguments are those of Linen's."""
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs
        variables = self.model.init(rngs, images, **kwargs)
        shape = None if isinstance(images, Mapping) else images.shape
        return self.add_to(jax.random.fold_in(key, _ADDED_STREAM), variables, shape)

    def add_to(
        self, key: jax.Array, variables: Variables, image_shape: Sequence[int] | None = None
    ) -> dict[str, Any]:
        """Adds the leaves to the network's variables, such as pretrained ones.

        Args:
          key: random key.
          variables: the network's, without additions.
          image_shape: shape of images that the network takes, [B, H, W, C]; None for one of 96
            pixels. The leaves depend on the number of channels only.

        Raises:
          ValueError: if the variables already hold added leaves, or a pattern of the adaptation
            matches nothing.
        """
        present = [name for name in trees.names(trees.params_of(variables)) if is_added(name)]
        if present:
            raise ValueError(
                f"the variables already hold {len(present)} added leaves, first {present[0]!r}; "
                "start from the network's own, such as merged(variables)"
            )
        if isinstance(key, int):
            raise TypeError(f"the random key is {key}; expected jax.random.key({key})")
        shape = image_shape or (1, _IMAGE_SIDE, _IMAGE_SIDE, self.in_channels)
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dict(variables))
        # Compiled as one program; without `jit`, each shape would be compiled separately.
        init = jax.jit(lambda key: self.adaptation.init(key, self.model, abstract, shape))
        return {**variables, "params": trees.merge(variables["params"], init(key))}

    def merged(self, variables: Variables) -> dict[str, Any]:
        """Returns variables of the network without additions that give the same outputs.

        They hold the network's own leaves only, so they can be exported as usual.

        Raises:
          ValueError: if the adaptation inserts modules, which no weights of the network can hold.
        """
        if not self.adaptation.mergeable:
            raise ValueError(
                f"{type(self.adaptation).__name__} inserts modules, which cannot be merged into "
                "the network's own weights; keep the adapted network, or use LoRA or SSF"
            )
        return {
            **variables,
            "params": jax.jit(self.adaptation.effective_params)(trees.params_of(variables)),
        }


def check_targets(targets: Sequence[str]) -> None:
    """Raises unless the targets of an adaptation are patterns.

    Raises:
      TypeError: if they are not a list of texts.
      ValueError: if there are none.
    """
    arguments.names("targets", targets, "('layer4',)")
    if not targets:
        raise ValueError("targets is empty; ('*',) adapts all layers")


def draw_kernels(
    key: jax.Array, shapes: Mapping[trees.Path, tuple[int, ...]], bound: float
) -> dict[trees.Path, jax.Array]:
    """Draws kernels [..., outputs] from U(-bound, bound) / sqrt(fan_in).

    All are slices of one random array, which compiles faster than a draw for each kernel. They do
    not depend on the order of `shapes`.
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
    return trees.split(params, is_added)[1]


def leaves_by_module(params: trees.Tree) -> dict[trees.Path, dict[str, Any]]:
    """Returns the leaves of every module that has any, by the module's path."""
    modules: dict[trees.Path, dict[str, Any]] = {}
    for path, leaf in trees.flatten(params).items():
        modules.setdefault(path[:-1], {})[path[-1]] = leaf
    return modules


def match_targets(
    modules: Iterable[trees.Path], targets: Sequence[str], *, excluded: Sequence[str], kind: str
) -> list[trees.Path]:
    """Returns the modules whose dotted names match the patterns.

    Args:
      modules: paths of the modules that can be adapted.
      targets: patterns as in `trees.matches`.
      excluded: dotted names of modules that are not adapted, with all below them.
      kind: name of such modules in the error message, in the plural.

    Raises:
      ValueError: if a pattern matches none of the modules that are not excluded.
    """
    names = {trees.dotted(path): path for path in modules}
    candidates = [
        name for name in names if not any(trees.is_under(name, part) for part in excluded)
    ]
    for pattern in targets:
        if any(trees.matches(name, pattern) for name in candidates):
            continue
        if any(trees.matches(name, pattern) for name in names):
            parts = " and ".join(map(repr, excluded))
            advice = f"; it matches only the classifier {parts}, which classifier=True adapts"
        else:
            advice = messages.hint(pattern, candidates)
        raise ValueError(f"the target {pattern!r} matches none of the {kind}{advice}")
    return [names[name] for name in candidates if any(trees.matches(name, p) for p in targets)]
