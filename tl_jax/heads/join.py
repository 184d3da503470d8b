"""The join of an image's features with the encodings of other modalities, some of them missing."""

from collections.abc import Mapping
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments, messages
from tl_jax.heads.encoders import Encoded
from tl_jax.heads.pooling import masked_softmax
from tl_jax.models import layers

JoinName = Literal["concatenate", "gated_sum"]
_IMAGE = "image"


class Join(nn.Module):
    """One vector of the features of the image and of the other modalities.

    "concatenate" puts them side by side, zeros for those that are missing. "gated_sum" maps each of
    the others to the channels of the image's features (`project.NAME`) and adds them up by weights
    from a softmax over those that are not missing, whose scores are `gate.NAME . tanh(part)` (after
    arXiv:1702.01992). The weights, [B, 1 + modalities], are sown under "gates" in the collection
    "intermediates"; the image's is the first.

    In training a modality other than the image is left out of an example at random, as if it were
    missing (ModDrop, arXiv:1501.00102); not where nothing would be left.

    Attributes:
      kind: "concatenate" or "gated_sum".
      dropout: how often a modality is left out.

    Raises:
      ValueError: on construction, if there is no such join.
    """

    kind: JoinName = "concatenate"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        names = get_args(JoinName)
        if self.kind not in names:
            raise ValueError(
                f"unknown join {self.kind!r} of modalities{messages.hint(str(self.kind), names)}; "
                f"expected one of {', '.join(names)}"
            )
        arguments.rate("dropout", self.dropout)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, image: Encoded, others: Mapping[str, Encoded], *, train: bool = False
    ) -> jax.Array:
        """Joins modalities.

        Args:
          image: features [B, C] of the images, and which examples have one, bool [B].
          others: the same of each other modality, by name.
          train: whether modalities are left out at random.

        Returns:
          [B, C + the widths of the others], or [B, C] of a gated sum.
        """
        present = jnp.stack([has for _, has in (image, *others.values())], axis=1)
        if others:
            present = self._dropped(present, train=train)
        if self.kind == "concatenate":
            parts = [image[0], *(encoding for encoding, _ in others.values())]
            shown = [jnp.where(present[:, i, None], x, 0.0) for i, x in enumerate(parts)]
            return jnp.concatenate(shown, axis=-1)
        return self._gated(image[0], {name: x for name, (x, _) in others.items()}, present)

    def _dropped(self, present: jax.Array, *, train: bool) -> jax.Array:
        """Returns which modalities are used, [B, 1 + modalities]."""
        ones = jnp.ones_like(present[:, 1:], jnp.float32)
        # A layer like any other, which freezing may put in evaluation mode.
        kept = layers.Dropout(self.dropout, name="drop")(ones, train=train) > 0
        used = present & jnp.concatenate([jnp.ones_like(present[:, :1]), kept], axis=1)
        return jnp.where(jnp.any(used, axis=1, keepdims=True), used, present)

    def _gated(
        self, image: jax.Array, others: Mapping[str, jax.Array], present: jax.Array
    ) -> jax.Array:
        width = image.shape[-1]
        projected = {
            name: nn.Dense(width, kernel_init=layers.torch_default, name=f"project.{name}")(x)
            for name, x in others.items()
        }
        parts = {_IMAGE: image, **projected}
        scores = [nn.Dense(1, name=f"gate.{name}")(jnp.tanh(x)) for name, x in parts.items()]
        gates = masked_softmax(jnp.concatenate(scores, axis=-1), present, axis=1)
        self.sow("intermediates", "gates", gates)
        # What is missing is finite, and its weight is zero.
        return jnp.sum(gates[..., None] * jnp.stack(list(parts.values()), axis=1), axis=1)
