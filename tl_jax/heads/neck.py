"""The neck between a backbone and its heads: pooling, fusion, and the other modalities."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from tl_jax import arguments
from tl_jax.heads.encoders import (
    CategoricalEncoder,
    Encoded,
    NumericEncoder,
    TokenEncoder,
    VectorEncoder,
)
from tl_jax.heads.join import Join, JoinName
from tl_jax.heads.poolings import Pooling, pool_map

_AVERAGE = Pooling()

Encoder = NumericEncoder | CategoricalEncoder | TokenEncoder | VectorEncoder


class Neck(nn.Module):
    """Makes one vector of an example's maps and of what it holds beside images.

    The maps of each stage are pooled over space (`space`, or `space.STAGE` of several stages) and
    concatenated; then the scales are fused (`scales`), then the views (`views`), then the other
    modalities are joined (`modalities`).

    Attributes:
      pooling: over space. Features [B, C] that the backbone pooled itself need "average".
      scale_fusion: over the scales of an image pyramid, in their order.
      view_fusion: over the views of an object, in their order.
      numeric, categorical, tokens, vector: encoders of the other modalities, which are the inputs
        of these names; None where there is no such input.
      join: how the modalities become one vector, as in `tl_jax.heads.join.Join`.
      modality_dropout: how often training leaves one of them out of an example; the image stays.
    """

    pooling: Pooling = _AVERAGE
    scale_fusion: Pooling = _AVERAGE
    view_fusion: Pooling = _AVERAGE
    numeric: NumericEncoder | None = None
    categorical: CategoricalEncoder | None = None
    tokens: TokenEncoder | None = None
    vector: VectorEncoder | None = None
    join: JoinName = "concatenate"
    modality_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pooling", "scale_fusion", "view_fusion"):
            if not isinstance(getattr(self, name), Pooling):
                got = arguments.kind(getattr(self, name))
                raise TypeError(f"{name} is {got}; expected a Pooling, such as Pooling('gem')")
        if self.pooling.name == "concatenate":
            raise ValueError(
                "pooling over space cannot be 'concatenate', because maps vary in size; choose "
                "another, such as 'gem'"
            )
        Join(self.join, self.modality_dropout, parent=None)  # Checks both.

    @nn.nowrap
    def encoders(self) -> dict[str, Encoder]:
        """Returns the encoders by the name of their input."""
        by_name: dict[str, Encoder | None] = {
            "numeric": self.numeric,
            "categorical": self.categorical,
            "tokens": self.tokens,
            "vector": self.vector,
        }
        return {name: encoder for name, encoder in by_name.items() if encoder is not None}

    @nn.compact
    def __call__(
        self,
        maps: Sequence[Mapping[str, jax.Array]],
        inputs: Mapping[str, jax.Array],
        *,
        train: bool = False,
    ) -> jax.Array:
        """Returns the features of the heads, float32 [B, F].

        Args:
          maps: by scale, and within it by the stage's name, "" for the backbone's output: maps
            [B * V, h, w, C], or features [B * V, C]. Without views V is 1.
          inputs: what the network takes: "image", [B, V, ...] if there are views, and then
            "view_mask", bool [B, V]; and the inputs of the encoders.
          train: whether modalities are left out at random.
        """
        pools = {
            stage: self.pooling.module(f"space.{stage}" if stage else "space") for stage in maps[0]
        }
        of_scales = [
            jnp.concatenate([pool_map(pools[stage], x) for stage, x in by_stage.items()], axis=-1)
            for by_stage in maps
        ]
        x = of_scales[0]
        if len(of_scales) > 1:
            x = self.scale_fusion.module("scales")(jnp.stack(of_scales, axis=1), None)
        image = self._over_views(x, inputs)
        encoders = self.encoders()
        if not encoders:
            return image[0]
        others = {name: encoder(inputs[name]) for name, encoder in encoders.items()}
        join = Join(self.join, self.modality_dropout, name="modalities")
        return join(image, others, train=train)

    def _over_views(self, x: jax.Array, inputs: Mapping[str, jax.Array]) -> Encoded:
        """Returns the features of the images, and which examples have an image."""
        images, mask = inputs["image"], inputs.get("view_mask")
        batch = len(images)
        if images.ndim == 5:
            views = x.reshape(batch, images.shape[1], -1)
            x = self.view_fusion.module("views")(views, mask)
        return x, jnp.ones(batch, bool) if mask is None else jnp.any(mask, axis=1)
