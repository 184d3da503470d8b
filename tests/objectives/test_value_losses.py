"""Tests of the losses of regression: torch's numbers and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from tl_jax.objectives import value_losses as losses

RNG = np.random.default_rng(0)
OUTPUTS, TARGETS = RNG.normal(0, 2, (2, 9)).astype(np.float32)


@pytest.mark.parametrize(
    ("loss", "torchs"),
    [
        (losses.squared, functional.mse_loss),
        (losses.absolute, functional.l1_loss),
        (
            lambda x, y: losses.huber(x, y, delta=0.7),
            lambda x, y, **options: functional.huber_loss(x, y, delta=0.7, **options),
        ),
    ],
    ids=["squared", "absolute", "huber"],
)
def test_loss_and_gradient_are_torchs(loss, torchs):
    x = torch.tensor(OUTPUTS, requires_grad=True)
    expected = torchs(x, torch.tensor(TARGETS), reduction="none")
    expected.sum().backward()
    np.testing.assert_allclose(loss(OUTPUTS, TARGETS), expected.detach(), rtol=1e-6)
    gradient = jax.grad(lambda x: loss(x, TARGETS).sum())(OUTPUTS)
    np.testing.assert_allclose(gradient, x.grad, rtol=1e-6)
    assert loss(jnp.asarray(OUTPUTS, jnp.bfloat16), TARGETS).dtype == jnp.float32
