"""The picture of augmentation: the first training images beside what the step gets of them."""

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support.runs import change
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.augment.grid import draw_grid
from tl_jax.run.augment_grid import show_augmented
from tl_jax.run.experiment import Experiment

CELL, GAP = 32, 4


def pixels(file) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image).astype(int)


def test_the_grid_is_of_what_the_step_gets(tiny_config, tmp_path):
    config = change(change(tiny_config, "train", seed=3), "data", sampling="balanced")
    show_augmented(config, tmp_path / "grid.png", images=3, versions=2)
    experiment = Experiment.from_config(config)
    batches = experiment.train_batches(0)
    batch = {name: array[:3] for name, array in next(batches).items()}
    batches.close()
    augment_fn = jax.jit(make_augment_fn(config.augment, experiment.preprocess))
    keys = jax.random.split(jax.random.key(3), 2)
    augmented = np.stack([augment_fn(key, batch) for key in keys], axis=1)
    preprocess = experiment.preprocess
    blank = [np.zeros((CELL, CELL, 3), np.uint8)] * 3
    draw_grid(blank, augmented, tmp_path / "b.png", mean=preprocess.mean, std=preprocess.std)
    actual, expected = pixels(tmp_path / "grid.png"), pixels(tmp_path / "b.png")
    assert actual.shape == (3 * CELL + 2 * GAP, 3 * CELL + 2 * GAP, 3)
    assert np.abs(actual[:, CELL:] - expected[:, CELL:]).max() <= 1
    # The first column holds the originals: in each the brighter channel of its class.
    for row, label in enumerate(batch["label"].tolist()):
        cell = actual[row * (CELL + GAP) :][8 : CELL - 8, 8 : CELL - 8]
        assert cell.mean((0, 1)).argmax() == 1 - label


def test_the_grid_has_no_more_rows_than_there_are_images(tiny_config, tmp_path):
    file = tmp_path / "grid.png"
    show_augmented(change(tiny_config, "data", shots=1), file, images=99, versions=1)
    assert pixels(file).shape == (2 * CELL + GAP, 2 * CELL + GAP, 3)


@pytest.mark.parametrize("option", ["images", "versions"])
def test_an_empty_grid_is_refused(tiny_config, option):
    with pytest.raises(ValueError, match=f"{option}=0"):
        show_augmented(tiny_config, "grid.png", **{option: 0})
