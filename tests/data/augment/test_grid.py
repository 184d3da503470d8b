"""The grid of augmented images: each pixel where it belongs."""

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.augment.grid import denormalize, draw_grid
from tl_jax.data.preprocess import normalize

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GAP = 4


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_each_cell_holds_its_image(tmp_path):
    pixels = noise(2, 3, 20, 30, 3)
    originals = list(noise(2, 20, 30, 3))
    path = tmp_path / "new" / "grid.png"
    draw_grid(originals, np.asarray(normalize(pixels, MEAN, STD)), path, mean=MEAN, std=STD)
    sheet = np.asarray(Image.open(path))
    assert sheet.shape == (2 * 20 + GAP, 4 * 30 + 3 * GAP, 3)
    for row in range(2):
        cells = [originals[row], *pixels[row]]
        for column, cell in enumerate(cells):
            top, left = row * (20 + GAP), column * (30 + GAP)
            np.testing.assert_array_equal(sheet[top : top + 20, left : left + 30], cell)
    assert (sheet[20:24] == 255).all()


def test_originals_are_fitted_into_their_cells(tmp_path):
    tall, wide = np.zeros((40, 20, 3), np.uint8), np.zeros((5, 50, 3), np.uint8)
    draw_grid([tall, wide], np.zeros((2, 1, 20, 20, 3)), tmp_path / "a.png", mean=MEAN, std=STD)
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    assert (sheet[:20, 5:15] == 0).all()
    assert (sheet[:20, :5] == 255).all()
    assert (sheet[33:35, :20] == 0).all()
    assert (sheet[24:33, :20] == 255).all()


def test_gray_inputs_are_drawn_in_gray(tmp_path):
    pixels = noise(1, 1, 8, 8, 1)
    scaled = (pixels / 255 - 0.5) / 0.25
    draw_grid(list(noise(1, 8, 8, 3)), scaled, tmp_path / "a.png", mean=(0.5,), std=(0.25,))
    cell = np.asarray(Image.open(tmp_path / "a.png"))[:, -8:]
    np.testing.assert_array_equal(cell, np.repeat(pixels[0, 0], 3, axis=-1))


def test_the_normalisation_is_taken_back_and_noise_cut_off():
    np.testing.assert_array_equal(denormalize(np.array([[-9.0] * 3, [9.0] * 3]), MEAN, STD)[0], 0)
    np.testing.assert_array_equal(denormalize(np.array([[-9.0] * 3, [9.0] * 3]), MEAN, STD)[1], 255)


@pytest.mark.parametrize(
    ("count", "shape"), [(0, (0, 1, 8, 8, 3)), (2, (1, 1, 8, 8, 3)), (1, (1, 8, 8, 3))]
)
def test_rows_that_do_not_match_are_refused(count, shape, tmp_path):
    with pytest.raises(ValueError, match=f"got {count} images"):
        draw_grid(list(noise(count, 8, 8, 3)), np.zeros(shape), tmp_path / "a", mean=MEAN, std=STD)
