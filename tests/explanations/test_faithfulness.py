"""Insertion, deletion, the share in a region, and the check by random weights see what they should.

The network answers by one quadrant alone, so the right map is known.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats

from tests.support.tiny import TinyNet, randomised
from tl_jax import trees
from tl_jax.explanations import faithfulness, randomisation
from tl_jax.explanations.gradients import IntegratedGradients, Saliency
from tl_jax.explanations.method import Method, maps_of
from tl_jax.explanations.occlusion import Occlusion
from tl_jax.explanations.target import images_of

SIDE = 16
IMAGES = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (2, SIDE, SIDE, 3)), jnp.float32)
QUADRANT = np.kron(np.array([[False, True], [False, False]]), np.ones((8, 8), bool))
INDEX = np.array([1, 1])


class Upper(nn.Module):
    """Class 1 is how bright the upper right quadrant is; views are averaged."""

    classifier: ClassVar[str] = "fc"
    num_classes: ClassVar[int] = 2
    in_channels: ClassVar[int] = 3

    @nn.compact
    def __call__(self, inputs, *, train=False):
        del train
        images = inputs["image"].mean(1) if isinstance(inputs, dict) else inputs
        weight = self.param("weight", nn.initializers.ones, (1,))
        logit = 6 * weight * images[:, :8, 8:].mean((1, 2, 3))[:, None] - 3
        return jnp.concatenate([-logit, logit], 1)


@dataclasses.dataclass(frozen=True)
class Edges(Method):
    """A method that does not look at the network."""

    name: ClassVar[str] = "edges"

    def __call__(self, model, variables, inputs, target):
        return jnp.abs(jnp.gradient(images_of(inputs).mean(-1), axis=-1))


MODEL = Upper()
VARIABLES = {"params": {"weight": jnp.ones(1)}}


@pytest.mark.parametrize("method", [Saliency(), IntegratedGradients(2), Occlusion(4, 4)])
def test_maps_lie_in_the_quadrant_that_carries_the_class(method):
    maps = maps_of(VARIABLES, IMAGES, INDEX, model=MODEL, method=method)
    assert maps.shape == IMAGES.shape[:-1]
    np.testing.assert_allclose(faithfulness.share_in(maps, QUADRANT), 1, rtol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_of_the_scores():
    maps = maps_of(VARIABLES, IMAGES, INDEX, model=MODEL, method=IntegratedGradients(2))
    difference = MODEL.apply(VARIABLES, IMAGES) - MODEL.apply(VARIABLES, 0 * IMAGES)
    np.testing.assert_allclose(maps.sum((1, 2)), difference[:, 1], rtol=1e-4)


def test_views_are_painted_over_one_at_a_time():
    views = {"image": jnp.stack([IMAGES, 3 * IMAGES], 1)}
    for method in (Occlusion(8, 8), IntegratedGradients(2)):
        maps = maps_of(VARIABLES, views, INDEX, model=MODEL, method=method)
        assert maps.shape == (2, 2, SIDE, SIDE)
        first, second = (maps[:, view].sum((1, 2)) for view in (0, 1))
        np.testing.assert_allclose(second, 3 * first, rtol=1e-4)


def test_a_right_map_falls_soon_and_a_wrong_one_late():
    right = jnp.broadcast_to(QUADRANT.astype(np.float32), IMAGES.shape[:-1])
    found, wrong = (
        faithfulness.curves(MODEL, VARIABLES, IMAGES, INDEX, maps, steps=4)
        for maps in (right, -right)
    )
    whole, gray = (
        jax.nn.softmax(MODEL.apply(VARIABLES, images))[:, 1] for images in (IMAGES, 0 * IMAGES)
    )
    # A quarter of the pixels is the quadrant.
    np.testing.assert_allclose(found.deletion[:, 0], whole, rtol=1e-5)
    np.testing.assert_allclose(found.deletion[:, 1], gray, rtol=1e-5)
    np.testing.assert_allclose(wrong.deletion[:, 3], whole, rtol=1e-5)
    np.testing.assert_allclose(found.insertion[:, [1, 4]].T, [whole, whole], rtol=1e-5)
    assert (found.deletion_area < wrong.deletion_area - 0.4).all()
    expected = np.trapezoid(np.asarray(found.deletion), np.linspace(0, 1, 5))
    np.testing.assert_allclose(found.deletion_area, expected, rtol=1e-5)


def test_insertion_begins_with_a_blurred_image():
    # Bright in a fine grid that the blur averages away.
    grid = jnp.where((jnp.arange(SIDE) % 2)[:, None, None] > 0, 2 * IMAGES, 0)
    maps = jnp.ones(IMAGES.shape[:-1])
    found = faithfulness.curves(MODEL, VARIABLES, grid, INDEX, maps, steps=2)
    blurred = jnp.broadcast_to(grid.mean((1, 2), keepdims=True), grid.shape)
    expected = jax.nn.softmax(MODEL.apply(VARIABLES, blurred))[:, 1]
    np.testing.assert_allclose(found.insertion[:, 0], expected, rtol=1e-3)


def test_maps_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected \(2, 16, 16\)"):
        faithfulness.curves(MODEL, VARIABLES, IMAGES, INDEX, jnp.ones((2, 4, 4)))


def test_the_share_of_an_empty_map_is_zero():
    assert faithfulness.share_in(-jnp.ones((2, SIDE, SIDE)), QUADRANT).tolist() == [0, 0]


def test_rank_correlation_is_scipys_with_ties():
    rng = np.random.default_rng(1)
    one, other = rng.integers(0, 4, (2, 3, 5, 5)).astype(np.float32)
    expected = [
        stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one, other, strict=True)
    ]
    np.testing.assert_allclose(randomisation.rank_correlation(one, other), expected, rtol=1e-5)
    assert randomisation.rank_correlation(one, np.ones_like(one)).tolist() == [0, 0, 0]


TINY = TinyNet()
STAGES = ("bn1", "block")


@pytest.fixture(scope="module")
def tiny():
    return randomised(TINY)


def test_parts_hold_every_variable_once_from_the_head_down(tiny):
    parts = randomisation.parts(TINY, tiny, IMAGES, STAGES)
    assert list(parts) == ["head", "block", "bn1"]
    assert sorted(name for names in parts.values() for name in names) == sorted(trees.names(tiny))
    assert parts["head"] == {"params.fc.kernel", "params.fc.bias"}
    assert "params.conv1.kernel" in parts["bn1"] and "batch_stats.block.bn.var" in parts["block"]
    with pytest.raises(ValueError, match="no module 'blok'; did you mean 'block'"):
        randomisation.parts(TINY, tiny, IMAGES, ("blok",))


def test_a_method_that_shows_edges_only_is_seen(tiny):
    key, index = jax.random.key(0), np.array([0, 2])
    arguments = (key, TINY, tiny, IMAGES, index)
    edges = randomisation.cascade(*arguments, Edges(), stages=STAGES)
    saliency = randomisation.cascade(*arguments, Saliency(), stages=STAGES)
    assert edges.parts == ("head", "block", "bn1")
    np.testing.assert_allclose(edges.correlations, 1, atol=1e-5)
    assert saliency.correlations.shape == (3, 2)
    assert (saliency.correlations[-1] < 0.8).all()


def test_the_last_part_leaves_no_weight_as_it_was(tiny):
    """Signed maps are compared by their size; the whole network is random in the end."""
    key, index, method = jax.random.key(0), np.array([0, 2]), IntegratedGradients(2)
    found = randomisation.cascade(key, TINY, tiny, IMAGES, index, method, stages=STAGES)
    fresh = randomisation.randomised(key, TINY, tiny, IMAGES)
    before, after = (
        np.asarray(maps_of(variables, IMAGES, index, model=TINY, method=method)).reshape(2, -1)
        for variables in (tiny, fresh)
    )
    expected = [
        stats.spearmanr(*pair).statistic for pair in zip(*map(abs, (before, after)), strict=True)
    ]
    np.testing.assert_allclose(found.correlations[-1], expected, atol=1e-5)
    head_only = found.correlations[0]
    assert (np.abs(head_only - found.correlations[-1]) > 1e-3).all()


class ZeroHead(nn.Module):
    """A network whose head starts at zero, as fresh heads do."""

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.LayerNorm(scale_init=nn.initializers.zeros, name="norm")(images.mean((1, 2)))
        return nn.Dense(2, kernel_init=nn.initializers.zeros, name="fc")(x)


def test_random_weights_leave_no_part_out():
    model = ZeroHead()
    variables = model.init(jax.random.key(0), IMAGES)
    fresh, again = (
        randomisation.randomised(jax.random.key(seed), model, variables, IMAGES)["params"]
        for seed in (1, 2)
    )
    assert jax.tree.structure(fresh) == jax.tree.structure(variables["params"])
    assert (fresh["norm"]["scale"] == 1).all()
    assert (fresh["fc"]["kernel"] != 0).all()
    assert not np.allclose(fresh["fc"]["kernel"], again["fc"]["kernel"])
