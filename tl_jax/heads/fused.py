"""The pretrained classifier kept, and its logits mixed into those of a new head."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax import messages, trees
from tl_jax.heads.classifier import OnBackbone, pooled
from tl_jax.models import layers

Scaling = Literal["standardized", "probabilities"]

# Logits that are all the same are zeros when standardised, and not 0 / 0.
_EPSILON = 1e-5


class Fusion(nn.Module):
    """New logits from features and from the logits of the source classes: the sum of two heads.

    `logits = on_features(features) + scaled(source_logits) @ mix.kernel`. Without a bias in `mix`
    there is one bias alone, that of the head on the features. `mix` starts at zero; with
    `tl_jax.transfer.class_names.start_mix` it starts from a mapping of the classes.

    Attributes:
      on_features: head on the features, one of `tl_jax.heads.head`.
      scaling: how the source logits enter. "standardized": with mean 0 and variance 1 over the
        source classes of each example, as in arXiv:2403.01878. Networks differ in the offset and
        spread of their logits (binary cross-entropy leaves all but a few far below zero, label
        smoothing keeps them close), which this removes, while the order and relative distances of
        the unlikely classes stay. The length of the input, the root of the number of classes, is
        then of the order of that of pooled features, so that one learning rate suits both.
        "probabilities": after a softmax; little is then left but the few likeliest classes.
    """

    on_features: nn.Module
    scaling: Scaling = "standardized"

    @property
    def num_classes(self) -> int:
        """Number of logits."""
        return self.on_features.num_classes

    @nn.compact
    def __call__(
        self, features: jax.Array, source_logits: jax.Array, *, train: bool = False
    ) -> jax.Array:
        if self.scaling not in _SCALED:
            raise ValueError(
                f"unknown scaling {self.scaling!r} of the source logits"
                f"{messages.hint(self.scaling, _SCALED)}; expected one of {list(_SCALED)}"
            )
        mix = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=nn.initializers.zeros, name="mix"
        )
        return self.on_features(features, train=train) + mix(_SCALED[self.scaling](source_logits))


class Fused(OnBackbone):
    """A pretrained network with its classifier, and a new head on its features and its logits.

    The features are what the pretrained classifier sees in the same forward pass, averaged over
    space where that is a map (SqueezeNet); they equal those of the network with `num_classes=0`.
    Dropout before the pretrained classifier (`drop_rate`) acts on them too; the head has its own.

    A freeze plan treats `head` as the head: the new head, `head.on_features`, and `head.mix`. The
    pretrained classifier, `pretrained_classifier`, is a part of the backbone: it trains where the
    backbone does, and may be named beside the head.

    Attributes:
      backbone: network with its pretrained classifier.
      head: the new head and the mix.

    Raises:
      ValueError: on application, if the backbone has no classifier.

    Example:
      >>> model = Fused(create_model("resnet50"), Fusion(Linear(10)))
      >>> model.pretrained_classifier
      'backbone.fc'
    """

    head: Fusion

    @property
    def pretrained_classifier(self) -> str:
        """Dotted name of the pretrained classifier."""
        return f"backbone.{self.backbone.classifier}"

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        seen: list[jax.Array] = []
        with nn.intercept_methods(self._collecting(seen)):
            source_logits = self.backbone(images, train=train)
        if not seen:
            raise ValueError(
                f"the backbone has no classifier {self.backbone.classifier!r} to keep; make it "
                "with the pretrained number of classes, or use Classifier for a head alone"
            )
        return self.head(pooled(seen[0]), source_logits, train=train)

    def _collecting(self, seen: list[jax.Array]) -> layers.Interceptor:
        """Returns an interceptor that adds what the pretrained classifier sees to a list."""
        wanted = trees.dotted((*self.path, self.pretrained_classifier))

        def handle(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
            if trees.dotted(module.path) == wanted:
                seen.append(args[0])
            return proceed()

        return layers.around_calls(handle)


def _standardized(logits: jax.Array) -> jax.Array:
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + _EPSILON)


_SCALED: dict[str, Callable[[jax.Array], jax.Array]] = {
    "standardized": _standardized,
    "probabilities": jax.nn.softmax,
}
