"""A recurrent network with gates (GRU) over sequences of vectors, some of which may be missing."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax import arguments
from tl_jax.heads.pooling import present
from tl_jax.models import layers


class GRU(nn.Module):
    """The states of a gated recurrent unit after each step (arXiv:1406.1078), as torch's `nn.GRU`.

    The input's kernel and bias, `input`, and those of the state, `hidden`, hold the reset gate,
    the update gate and the candidate side by side, in the order of torch's `weight_ih_l0` and
    `weight_hh_l0`. The state starts at zero, and a masked step keeps it.

    Attributes:
      width: of the state.
    """

    width: int

    def __post_init__(self) -> None:
        arguments.whole_number("width", self.width, least=1)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Returns the state after each step, [B, N, C] -> [B, N, width], at least float32.

        Args:
          x: vectors in their order.
          mask: [B, N], False for steps that are left out.
        """
        width = self.width
        x = present(x, mask)
        steps = jnp.ones(x.shape[:2], bool) if mask is None else mask
        # The inputs of all steps in one product; only the state needs one after the other.
        inputs = nn.Dense(3 * width, kernel_init=layers.torch_default, name="input")(x)
        kernel, bias = _Hidden(width, name="hidden")()

        def step(state: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            from_input, is_step = at
            from_state = state @ kernel + bias
            reset, update = jnp.split(
                nn.sigmoid(from_input[:, : 2 * width] + from_state[:, : 2 * width]), 2, axis=-1
            )
            candidate = jnp.tanh(from_input[:, 2 * width :] + reset * from_state[:, 2 * width :])
            following = (1.0 - update) * candidate + update * state
            state = jnp.where(is_step, following, state)
            return state, state

        first = jnp.zeros((len(x), width), inputs.dtype)
        in_order = jnp.moveaxis(inputs, 1, 0), jnp.moveaxis(steps, 1, 0)[..., None]
        return jnp.moveaxis(lax.scan(step, first, in_order)[1], 0, 1)


class GRUPooling(nn.Module):
    """The last state of a GRU over vectors, [B, N, C] -> [B, width]; zero where all is masked.

    Attributes:
      width: of the state; 0 for as many as the vectors have channels.
    """

    width: int = 0

    def __post_init__(self) -> None:
        arguments.whole_number("width", self.width, least=0)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        # Masked steps keep the state, so the last one is that after the last vector.
        return GRU(self.width or x.shape[-1], name="gru")(x, mask)[:, -1]


class _Hidden(nn.Module):
    """Kernel and bias by which the state enters the next; the kernel of each gate is orthogonal."""

    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        shape = (self.width, 3 * self.width)
        kernel = self.param("kernel", _orthogonal_gates, shape, jnp.float32)
        return kernel, self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)


def _orthogonal_gates(key: jax.Array, shape: tuple[int, int], dtype: jnp.dtype) -> jax.Array:
    width, outputs = shape
    draw = nn.initializers.orthogonal()
    keys = jax.random.split(key, outputs // width)
    return jnp.concatenate([draw(each, (width, width), dtype) for each in keys], axis=1)
