"""How a run reads its data: parts of splits, sampling, caches, mixing, and what is refused."""

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tl_jax import config as configuration
from tl_jax.data.augment import grid as augment_grid
from tl_jax.run import data, fit
from tl_jax.run import experiment as parts
from tl_jax.run.augment_grid import show_augmented
from tl_jax.training.augmenting import mix_of, prepare_of


def change(config, section, **fields):
    """Returns a configuration with some fields of a section changed."""
    found = vars(config)[section]
    return dataclasses.replace(config, **{section: dataclasses.replace(found, **fields)})


def test_a_part_of_the_training_split_is_carved_out(tiny_config):
    config = change(tiny_config, "data", carve=0.25, eval_split="validation")
    train = data.open_split(config, "train")
    held_out = data.open_split(config, "validation")
    assert len(train) + len(held_out) == 26 and len(held_out) == 6
    assert set(train.indices) & set(held_out.indices) == set()
    made = parts.prepare(config)
    record = json.loads(made.info.to_json())["subsets"]
    assert {split: found["kind"] for split, found in record.items()} == {
        "train": "carve",
        "validation": "carve",
    }
    assert len(data.open_split(config, "test")) == 14  # It is left alone.


def test_a_few_shots_are_of_the_training_split_alone(tiny_config):
    config = change(tiny_config, "data", shots=3)
    train = data.open_split(config, "train")
    assert np.bincount(train.labels()).tolist() == [3, 3]
    assert len(data.open_split(config, "val")) == 10
    both = change(config, "data", carve=0.5)
    assert len(data.open_split(both, "train")) == 6


def manifest(folder, rows):
    """Writes a manifest of gray pictures, with these labels."""
    file = folder / "set.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "label", "tags", "split"])
        for i, (label, tags) in enumerate(rows):
            Image.new("L", (9, 9), 20 * i).save(folder / f"{i}.png")
            writer.writerow([f"{i}.png", label, tags, "train"])
    return file


def test_missing_and_multiple_labels_are_refused_by_name(tiny_config, tmp_path):
    file = manifest(tmp_path, [("a", "x|y"), ("b", "y"), ("", "x"), ("a", "x")])
    config = change(tiny_config, "data", source=f"manifest:{file}")
    with pytest.raises(ValueError, match=r"1 of 4 examples of split 'train' .* have no 'label'"):
        data.open_split(config, "train")
    with pytest.raises(ValueError, match="may have several of the labels 'tags'"):
        data.open_split(change(config, "data", labels=("tags",)), "train")


@pytest.mark.parametrize("cache", ["device", "none"])
def test_a_cache_changes_nothing_but_the_time(tiny_config, tmp_path, cache):
    found = {}
    for kind in ("memory", cache):
        config = change(tiny_config, "data", cache=kind)
        found[kind] = fit.fit(config, tmp_path / kind)
    assert found[cache]["metrics"] == found["memory"]["metrics"]


def test_balanced_sampling_draws_each_class_equally_often(tiny_config):
    # Of 13 of each class, 4 are left of one.
    root = tiny_config.data.source.removeprefix("folder:")
    for i in range(9):
        (Path(root) / "train" / "red ones" / f"{i}.png").unlink()
    config = change(tiny_config, "data", sampling="balanced")
    batches = parts.train_batches(parts.prepare(config), 0)
    drawn = np.concatenate([np.asarray(next(batches)["label"]) for _ in range(4)])
    batches.close()
    assert np.bincount(drawn).tolist() == [16, 16]


def test_mixing_is_off_unless_it_is_asked_for():
    options = configuration.AugmentConfig()
    assert mix_of(options) is None
    images, targets = jax.numpy.arange(2.0).reshape(2, 1, 1, 1) * np.ones((2, 8, 8, 3)), np.eye(2)
    for field in ("mixup", "cutmix"):
        mix = mix_of(dataclasses.replace(options, **{field: 1.0}))
        mixed, shares = mix(jax.random.key(1), images, jax.numpy.asarray(targets, "float32"))
        np.testing.assert_allclose(mixed.mean((1, 2, 3)), shares[:, 1], rtol=1e-5)
        assert 0 < shares[0, 1] < 1


def test_a_run_with_cutmix_trains(tiny_config, tmp_path):
    config = change(tiny_config, "augment", cutmix=1.0, policy="trivialaugment")
    report = fit.fit(config, tmp_path / "run")
    assert np.isfinite(report["metrics"]["test"]["loss"])


def test_another_size_than_the_weights_is_told(tiny_config):
    description = parts.prepare(tiny_config).description
    assert "warning  32 x 32 pixels, where the weights were trained with" in description


def test_the_grid_shows_the_first_images_of_training(tiny_config, tmp_path):
    file = tmp_path / "grid.png"
    show_augmented(tiny_config, file, images=3, versions=4)
    with Image.open(file) as grid:
        assert grid.size == (5 * 32 + 4 * 4, 3 * 32 + 2 * 4)
    with pytest.raises(ValueError, match="versions=0"):
        show_augmented(tiny_config, file, versions=0)


def test_the_grid_is_of_what_the_step_gets(tiny_config, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augment_grid, "draw_grid", lambda *args, **options: drawn.append((args, options))
    )
    config = change(change(tiny_config, "train", seed=3), "data", sampling="balanced")
    show_augmented(config, "grid.png", images=3, versions=2)
    (((originals, pictures, file), options),) = drawn
    made = parts.prepare(config)
    batches = parts.train_batches(made, 0)
    batch = {name: array[:3] for name, array in next(batches).items()}
    batches.close()
    assert [image.shape[:2] for image in originals] == [
        tuple(row) for row in batch["size"].tolist()
    ]
    step = jax.jit(prepare_of(config.augment, made.preprocess))
    for version, key in enumerate(jax.random.split(jax.random.key(3), 2)):
        np.testing.assert_allclose(pictures[:, version], step(key, batch), atol=1e-5)
    how = made.preprocess
    assert (file, options) == ("grid.png", {"mean": how.mean, "std": how.std})


def test_the_grid_has_no_more_rows_than_there_are_images(tiny_config, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        augment_grid, "draw_grid", lambda originals, *_, **__: drawn.extend(originals)
    )
    show_augmented(tiny_config, "grid.png", images=99, versions=1)
    assert len(drawn) == 26
    with pytest.raises(ValueError, match="images=0"):
        show_augmented(tiny_config, "grid.png", images=0)


def test_a_configuration_with_tuples_survives_json(tiny_config):
    config = change(tiny_config, "data", labels=("a", "b"))
    config = change(config, "augment", zoom=(0.8, 1.2))
    assert configuration.from_json(configuration.to_json(config)) == config
