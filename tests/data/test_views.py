"""Several views of each image: torchvision's places, and means of probabilities by definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.torch_peer import import_timm
from tl_jax.data.preprocess import Preprocess, eval_image
from tl_jax.data.views import ONE_VIEW, Views, average, views

import_timm()
import torch  # noqa: E402
from torchvision.transforms import functional as tv  # noqa: E402


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def by_torchvision(function, batch: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    crops = function(torch.tensor(batch).permute(0, 3, 1, 2), list(size))
    return torch.stack(crops).permute(0, 1, 3, 4, 2).numpy()


@pytest.mark.parametrize("shape", [(10, 14), (9, 12), (11, 13), (8, 6)])
def test_five_and_ten_crops_are_torchvisions(shape):
    batch, size = images(2, *shape, 3), (8, 6)
    five, ten = views(batch, size, crops=5), views(batch, size, crops=5, flip=True)
    np.testing.assert_array_equal(five, by_torchvision(tv.five_crop, batch, size))
    np.testing.assert_array_equal(ten, by_torchvision(tv.ten_crop, batch, size))


def test_one_view_is_the_middle_and_is_flipped_where_asked():
    batch = images(2, 10, 14, 3)
    middle = by_torchvision(lambda x, size: [tv.center_crop(x, size)], batch, (8, 6))
    np.testing.assert_array_equal(views(batch, (8, 6)), middle)
    both = views(batch, (8, 6), flip=True)
    np.testing.assert_array_equal(both, np.concatenate([middle, middle[:, :, :, ::-1]]))


def test_each_scale_has_all_views_and_works_in_jit():
    batch = images(2, 12, 16, 3)
    cut = functools.partial(views, size=(8, 6), crops=5, flip=True)
    actual = jax.jit(functools.partial(cut, scales=(1.0, 1.5)))(batch)
    assert actual.shape == (20, 2, 8, 6, 3)
    np.testing.assert_array_equal(actual[:10], cut(batch))
    larger = jax.image.resize(batch, (2, 18, 24, 3), "cubic")
    np.testing.assert_allclose(actual[10:], cut(larger), rtol=0, atol=1e-4)


def test_the_types_stay():
    batch = jnp.zeros((1, 12, 12, 3), jnp.bfloat16)
    assert views(batch, (8, 8), scales=(1.0, 0.75)).dtype == jnp.bfloat16


@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
@pytest.mark.parametrize("shape", [(50, 70), (97, 41), (64, 64), (83, 57)])
def test_the_middle_of_the_uncropped_image_is_the_evaluation_image(shape, crop_pct):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    config = Preprocess(size=(28, 28), crop_pct=crop_pct)
    large = eval_image(picture, config.uncropped())
    assert large.shape == (int(28 / crop_pct), int(28 / crop_pct), 3)
    middle = views(large[None].astype(np.float32), config.size)[0, 0]
    np.testing.assert_array_equal(middle, eval_image(picture, config))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"crops": 10}, "crops=10"),
        ({"scales": ()}, r"scales=\(\)"),
        ({"scales": (1.0, 0.5)}, "images of 5 x 5 pixels, after scaling, for views of 8 x 6"),
    ],
)
def test_views_that_cannot_be_cut_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        views(images(1, 10, 10, 3), (8, 6), **options)


# ---- means


def test_probabilities_are_averaged():
    logits = 5 * images(4, 3, 6)
    expected = jax.nn.softmax(logits).mean(axis=0)
    np.testing.assert_allclose(jax.nn.softmax(average(logits)), expected, rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(average(logits)).sum(-1), 1, rtol=1e-5)


def test_probabilities_of_several_labels_are_averaged():
    logits = 5 * images(4, 3, 6)
    expected = jax.nn.sigmoid(logits).mean(axis=0)
    actual = jax.nn.sigmoid(average(logits, multi_label=True))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_logits_are_averaged_on_request():
    logits = images(4, 3, 6)
    np.testing.assert_allclose(average(logits, of="logits"), logits.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"of": "logits"}])
def test_one_view_is_its_own_mean(options):
    logits = images(1, 3, 6)
    actual = jax.nn.softmax(average(logits, **options))
    np.testing.assert_allclose(actual, jax.nn.softmax(logits[0]), rtol=1e-5)


def test_extreme_logits_stay_finite():
    logits = jnp.asarray([[[1000.0, -1000.0]], [[-1000.0, 1000.0]]])
    np.testing.assert_allclose(average(logits), np.log([[0.5, 0.5]]), rtol=1e-5)
    assert np.isfinite(average(logits, multi_label=True)).all()


def test_another_mean_is_refused():
    with pytest.raises(ValueError, match="got of='votes'"):
        average(images(2, 1, 3), of="votes")


def network(inputs):
    """Three logits that tell the colours of one corner."""
    return 3 * inputs[:, 0, 0]


def test_the_views_of_an_image_are_averaged():
    transform = Preprocess(size=(8, 6), crop_pct=0.5)
    chosen = Views(crops=5, flip=True, scales=(1.0, 1.25))
    uncropped = chosen.transform(transform)
    assert (uncropped.size, uncropped.crop_pct, len(chosen)) == ((16, 12), 1.0, 20)
    batch = images(2, *uncropped.size, 3)
    many = views(batch, (8, 6), crops=5, flip=True, scales=(1.0, 1.25))
    expected = jax.nn.softmax(jnp.stack([network(view) for view in many])).mean(axis=0)
    actual = chosen.logits(network, batch, (8, 6))
    np.testing.assert_allclose(jax.nn.softmax(actual), expected, rtol=1e-5)
    by_logits = Views(crops=5, flip=True, scales=(1.0, 1.25), average="logits")
    mean = jnp.stack([network(view) for view in many]).mean(axis=0)
    np.testing.assert_allclose(by_logits.logits(network, batch, (8, 6)), mean, rtol=1e-5, atol=1e-6)


def test_one_view_is_what_the_transform_prepares():
    transform, batch = Preprocess(size=(8, 6), crop_pct=0.5), images(2, 8, 6, 3)
    for chosen in (ONE_VIEW, Views(flip=True)):
        assert chosen.transform(transform) == transform
    np.testing.assert_array_equal(ONE_VIEW.logits(network, batch, (8, 6)), network(batch))
    both = average(jnp.stack([network(batch), network(batch[:, :, ::-1])]))
    np.testing.assert_allclose(Views(flip=True).logits(network, batch, (8, 6)), both, rtol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Views(crops=5), "all 5 crops would be the same: with crop_pct=1"),
        (Views(crops=5, scales=(1.0, 0.5)), "scaled by 0.5 are smaller than the network's 8 x 6"),
        (Views(scales=(0.9,)), "scaled by 0.9 are smaller"),
    ],
)
def test_views_that_no_image_has_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        chosen.transform(Preprocess(size=(8, 6), crop_pct=1.0))
    assert Views(crops=5, scales=(1.0, 1.2)).transform(Preprocess(size=(8, 6), crop_pct=1.0))


@pytest.mark.parametrize(
    "options", [{"crops": 4}, {"scales": ()}, {"scales": (1.0, 0.0)}, {"average": "votes"}]
)
def test_invalid_views_are_refused(options):
    with pytest.raises(ValueError, match="expected"):
        Views(**options)
