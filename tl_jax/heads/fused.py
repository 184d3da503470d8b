"""Networks that mix the logits of the pretrained classifier into those of a new head."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax import messages, trees
from tl_jax.heads.classifier import BackboneWithHead, pooled
from tl_jax.models import layers

Scaling = Literal["standardized", "probabilities"]

# Added to the variance, so that equal logits are standardised to zeros and not to 0 / 0.
_EPSILON = 1e-5


class Fusion(nn.Module):
    """The sum of two heads: one on the features, one on the logits of the source classes.

    `logits = on_features(features) + scaled(source_logits) @ mix.kernel`. `mix` has no bias: the
    head on the features has one. The kernel of `mix` is zero at first;
    `tl_jax.transfer.carry_over.init_mix` initializes it from a mapping of the classes.

    Attributes:
      on_features: head on the features, one of `tl_jax.heads.head`.
      scaling: how the source logits are scaled. "standardized": mean 0 and variance 1 over the
        source classes of each example, as in arXiv:2403.01878. This removes differences between
        networks in the offset and spread of their logits (after binary cross-entropy most are far
        below zero, after label smoothing they are close together), and keeps the order and relative
        distances of the unlikely classes. The norm of the input is then the square root of the
        number of classes, similar to that of pooled features, so one learning rate suits both.
        "probabilities": a softmax, which keeps little more than the few likeliest classes.
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
        if self.scaling not in _SCALE_FNS:
            raise ValueError(
                f"unknown scaling {self.scaling!r} of the source logits"
                f"{messages.hint(self.scaling, _SCALE_FNS)}; expected one of {list(_SCALE_FNS)}"
            )
        mix = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=nn.initializers.zeros, name="mix"
        )
        return self.on_features(features, train=train) + mix(
            _SCALE_FNS[self.scaling](source_logits)
        )


class Fused(BackboneWithHead):
    """A pretrained network with its classifier, and a new head on its features and its logits.

    The features are the input of the pretrained classifier in the same forward pass, averaged over
    space where it is a map (SqueezeNet); they equal those of the network with `num_classes=0`.
    Dropout before the pretrained classifier (`drop_rate`) acts on them too; the head has its own.

    A freeze plan treats `head` as the head: the new head, `head.on_features`, and `head.mix`. The
    pretrained classifier, `pretrained_classifier`, is part of the backbone: it is trained where the
    backbone is, and may be selected in addition to the head.

    Attributes:
      backbone: network with its pretrained classifier.
      head: the new head and the mix.

    Raises:
      ValueError: when applied, if the backbone has no classifier.

    Examples:
      >>> from tl_jax.heads.head import Linear
      >>> from tl_jax.models.registry import create_model
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
        classifier = trees.dotted((*self.path, self.pretrained_classifier))
        classifier_inputs: list[jax.Array] = []

        def collect(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
            if trees.dotted(module.path) == classifier:
                classifier_inputs.append(args[0])
            return proceed()

        with nn.intercept_methods(layers.around_calls(collect)):
            source_logits = self.backbone(images, train=train)
        if not classifier_inputs:
            raise ValueError(
                f"the backbone has no classifier {self.backbone.classifier!r} to keep; create it "
                "with the pretrained number of classes, or use Classifier for a head alone"
            )
        return self.head(pooled(classifier_inputs[0]), source_logits, train=train)


def _standardized(logits: jax.Array) -> jax.Array:
    centred = logits - jnp.mean(logits, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return centred * lax.rsqrt(variance + _EPSILON)


_SCALE_FNS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "standardized": _standardized,
    "probabilities": jax.nn.softmax,
}
