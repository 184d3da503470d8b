"""XLA's own convolution and its gradients: the form of accelerators."""

from collections.abc import Callable

import jax
from jax import lax

from tl_jax.models.layers.geometry import Function, Geometry, Kind


def general_form(kind: Kind, geometry: Geometry, precision: str) -> Function:
    """Returns the function of the two operands that XLA's own convolution computes."""

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(geometry.stride, geometry.stride),
            padding=geometry.pads,
            feature_group_count=geometry.groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision,
        )

    return of_kind(kind, geometry, forward)


def of_kind(
    kind: Kind, geometry: Geometry, forward: Callable[[jax.Array, jax.Array], jax.Array]
) -> Function:
    """Returns a convolution, or the gradient of it that JAX derives, as a function of two operands.

    Args:
      kind: which of them.
      geometry: of the convolution.
      forward: computes it from map and kernel, each of which it is linear in.
    """

    # The type of the result is that of `g` with another shape: it varies over the same devices.
    def input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
        x = jax.typeof(g).update(shape=geometry.result_shape(kind, g.shape, kernel.shape))
        return jax.linear_transpose(lambda x: forward(x, kernel), x)(g)[0]

    def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        kernel = jax.typeof(g).update(shape=geometry.result_shape(kind, x.shape, g.shape))
        return jax.linear_transpose(lambda kernel: forward(x, kernel), kernel)(g)[0]

    return {
        "forward": forward,
        "input_gradient": input_gradient,
        "kernel_gradient": kernel_gradient,
    }[kind]
