"""Losses of regression, by example: squared, absolute and Huber's error of one number."""

import jax
import jax.numpy as jnp
import optax


def squared(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the squared error of each example, float32 [B], for outputs and targets [B].

    >>> squared(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 4.0]
    """
    return (outputs.astype(jnp.float32) - targets.astype(jnp.float32)) ** 2


def absolute(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Returns the absolute error of each example, float32 [B], for outputs and targets [B].

    >>> absolute(jnp.array([1.0, 2.0]), jnp.array([1.0, 4.0])).tolist()
    [0.0, 2.0]
    """
    return jnp.abs(outputs.astype(jnp.float32) - targets.astype(jnp.float32))


def huber(outputs: jax.Array, targets: jax.Array, *, delta: float = 1.0) -> jax.Array:
    """Returns Huber's loss of each example, float32 [B], for outputs and targets [B].

    Half the squared error up to an error of delta, and a line of slope delta beyond (Huber,
    "Robust Estimation of a Location Parameter", 1964); torch's `HuberLoss`.

    >>> huber(jnp.array([1.0, 2.0]), jnp.array([1.5, 4.0])).tolist()
    [0.125, 1.5]
    """
    return optax.huber_loss(outputs.astype(jnp.float32), targets.astype(jnp.float32), delta=delta)
