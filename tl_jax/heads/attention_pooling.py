"""Attention pooling: weighted averages of vectors, with weights from learned queries."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from tl_jax import arguments
from tl_jax.heads.pooling import masked_softmax, present
from tl_jax.models import layers

_WIDTH = 64  # Of the keys.
_EXACT = lax.Precision.HIGHEST


class AttentionPooling(nn.Module):
    """Averages of vectors by learned attention, one for each head's share of the channels.

    A vector's score is `query . tanh(keys(norm(x)))` (Ilse et al., arXiv:1802.04712), and a
    softmax over the vectors makes weights of the scores. Each head has a query of its own, and
    weighs its share of the channels. What is averaged are the vectors themselves, so pretrained
    features keep their meaning; the queries start small, and the result close to the average.

    The weights, [B, N, heads], are sown under "attention" in the collection "intermediates":
    `model.apply(variables, x, mutable=["intermediates"])` returns them.

    Attributes:
      heads: number of queries, at most one for each channel.
      width: of the keys; 0 for 64.
    """

    heads: int = 4
    width: int = 0

    def __post_init__(self) -> None:
        arguments.whole_number("heads", self.heads, least=1)
        arguments.whole_number("width", self.width, least=0)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Pools vectors, [B, N, C] -> [B, C].

        Args:
          x: the vectors.
          mask: [B, N], False where there is none; masked vectors have weight 0.

        Raises:
          ValueError: if there are fewer channels than heads.
        """
        x, channels, width = present(x, mask), x.shape[-1], self.width or _WIDTH
        if channels < self.heads:
            raise ValueError(
                f"attention of {self.heads} heads needs as many channels, but got {channels}; "
                f"take at most {channels} heads"
            )
        keys = nn.Dense(width, kernel_init=layers.torch_default, name="keys")
        hidden = jnp.tanh(keys(layers.LayerNorm(name="norm")(x)))
        query = self.param("query", nn.initializers.normal(0.02), (width, self.heads), jnp.float32)
        weights = masked_softmax(hidden @ query, None if mask is None else mask[..., None], axis=1)
        self.sow("intermediates", "attention", weights)
        # A product with ones and zeros: the gradient of an indexed copy would add up in any order.
        of_channel = jnp.matmul(weights, _shares(channels, self.heads), precision=_EXACT)
        return jnp.sum(of_channel * x, axis=1)


def _shares(channels: int, heads: int) -> np.ndarray:
    """Returns ones in [heads, channels] where the head weighs the channel; shares are equal."""
    head_of = np.arange(channels) * heads // channels
    return (head_of == np.arange(heads)[:, None]).astype(np.float32)
