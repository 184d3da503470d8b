"""Nearest neighbours, and copies of images in another split."""

import io

import numpy as np
import pytest
from PIL import Image

from tl_jax.analysis import neighbours, projection
from tl_jax.data.sources.arrays import from_arrays


def picture(rng: np.random.Generator) -> np.ndarray:
    """Returns an image of soft shapes."""
    coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8))
    return np.asarray(coarse.resize((48, 48), Image.Resampling.BICUBIC))


def jpeg(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=60)
    return np.asarray(Image.open(stream))


def test_neighbours_are_those_of_all_cosines():
    rng = np.random.default_rng(0)
    features, others = rng.normal(size=(7, 5)), rng.normal(size=(30, 5))
    found = neighbours.nearest(features, others, 4)
    cosines = neighbours.unit(features) @ neighbours.unit(others).T
    assert (found.indices == np.argsort(-cosines, axis=1)[:, :4]).all()
    assert found.similarities == pytest.approx(-np.sort(-cosines, axis=1)[:, :4])


def test_more_neighbours_than_examples_are_refused():
    with pytest.raises(ValueError, match="expected 1 to 2"):
        neighbours.nearest(np.eye(2), np.eye(2), 3)


def test_changed_copies_are_found_and_other_images_are_not():
    rng = np.random.default_rng(1)
    train = np.stack([picture(rng) for _ in range(12)])
    test = np.stack(
        [
            train[3],
            jpeg(train[5]),
            np.rot90(train[7]),
            train[9][:, ::-1],
            np.clip(train[2] * 0.8 + 20, 0, 255).astype(np.uint8),
            *[picture(rng) for _ in range(5)],
        ]
    )
    first, second = (from_arrays(x, np.arange(len(x)) % 2) for x in (test, train))
    # Features that know nothing propose every image.
    found = neighbours.nearest(np.ones((10, 2)), np.ones((12, 2)), 12)
    pairs = neighbours.duplicates(first, second, found)
    assert {(pair.index, pair.other, pair.moved) for pair in pairs} == {
        (0, 3, ""),
        (1, 5, ""),
        (2, 7, "rotated"),
        (3, 9, "mirrored"),
        (4, 2, ""),
    }
    assert [pair.correlation for pair in pairs] == sorted(
        (pair.correlation for pair in pairs), reverse=True
    )


def test_copies_that_features_do_not_propose_are_found_by_their_thumbnails():
    rng = np.random.default_rng(3)
    train = np.stack([picture(rng) for _ in range(12)])
    test = np.stack([np.rot90(train[4]), np.rot90(train[6][:, ::-1], 3), picture(rng)])
    first, second = (from_arrays(x, np.arange(len(x)) % 2) for x in (test, train))
    wrong = neighbours.nearest(np.ones((3, 1)), np.ones((12, 1)), 1)
    assert not set(wrong.indices.ravel().tolist()) & {4, 6}
    found = neighbours.duplicates(first, second, wrong)
    assert {(pair.index, pair.other, pair.moved, pair.similarity) for pair in found} == {
        (0, 4, "rotated", None),
        (1, 6, "mirrored and rotated", None),
    }


def test_what_all_images_of_a_set_have_in_common_makes_no_copies():
    """As of photographs of one product, of which 0.99 of the variance is the same."""
    rng = np.random.default_rng(2)
    common = picture(rng).astype(float)
    images = [np.clip(common + rng.normal(0, 4, common.shape), 0, 255) for _ in range(24)]
    train, test = np.array(images[:16], np.uint8), np.array([*images[16:], images[3]], np.uint8)
    grays = np.stack([train[0], train[1]]).mean(-1).reshape(2, -1)
    assert np.corrcoef(grays)[0, 1] > neighbours.SAME
    first, second = (from_arrays(x, np.arange(len(x)) % 2) for x in (test, train))
    found = neighbours.nearest(np.ones((9, 2)), np.ones((16, 2)), 16)
    pairs = neighbours.duplicates(first, second, found)
    assert [(pair.index, pair.other) for pair in pairs] == [(8, 3)]


def test_principal_components_equal_those_of_scikit_learn():
    from sklearn.decomposition import PCA

    features = np.random.default_rng(0).normal(size=(40, 6)) * [5, 3, 1, 1, 1, 1]
    ours, theirs = projection.project(features), PCA(2).fit_transform(features)
    signs = np.sign((ours * theirs).sum(0))
    assert ours == pytest.approx(theirs * signs, abs=1e-9)


@pytest.mark.full
def test_t_sne_keeps_groups_apart():
    labels = np.repeat([0, 1], 20)
    features = np.random.default_rng(0).normal(size=(40, 8)) + 20 * labels[:, None]
    points = projection.project(features, "tsne")
    means = np.stack([points[labels == label].mean(0) for label in (0, 1)])
    nearest = np.linalg.norm(points[:, None] - means, axis=-1).argmin(1)
    assert (nearest == labels).all()


def test_an_unknown_projection_is_refused():
    with pytest.raises(ValueError, match="expected one of pca, tsne"):
        projection.project(np.eye(3), "umap")
