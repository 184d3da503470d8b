"""The data of a configuration: splits and parts of them, how they are read, what is refused."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.support.runs import change
from tl_jax.config import Config, DataConfig, ModelConfig
from tl_jax.data.loading.options import LoadOptions
from tl_jax.run.data import load_options, open_split, preprocess_of


def manifest(folder, rows):
    """Writes a manifest of gray pictures with these labels and tags."""
    file = folder / "set.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["photo", "other", "label", "tags", "split"])
        for i, (label, tags) in enumerate(rows):
            Image.new("L", (9, 9), 20 * i).save(folder / f"{i}.png")
            Image.new("L", (5, 5), 20 * i).save(folder / f"other{i}.png")
            writer.writerow([f"{i}.png", f"other{i}.png", label, tags, "train"])
    return file


def test_columns_of_a_manifest_are_chosen(tmp_path):
    file = manifest(tmp_path, [("a", "x"), ("b", "y"), ("a", "y")])
    data = DataConfig(f"manifest:{file}", image_column="other", labels=("tags",))
    source = open_split(Config(data=data), "train")
    assert source.class_names == ("x", "y")
    assert source.labels().tolist() == [0, 1, 1]
    assert source[0]["image"].shape == (5, 5, 3)


def test_a_part_of_a_folder_without_splits_is_held_out(shared_photos):
    data = DataConfig(f"folder:{shared_photos / 'train'}", validation_fraction=0.5)
    lengths = [len(open_split(Config(data=data), split)) for split in ("train", "validation")]
    assert sum(lengths) == 26
    assert 7 <= lengths[1] <= 19  # The hashes of the names decide.
    names = [open_split(Config(data=data), "train")[i]["path"] for i in range(3)]
    other = change(Config(data=data), "train", seed=1)
    assert names != [open_split(other, "train")[i]["path"] for i in range(3)]


def test_corrupt_images_can_be_skipped(tiny_config, photos):
    (photos / "val" / "grüne" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"2\.png"):
        open_split(tiny_config, "val")
    assert len(open_split(change(tiny_config, "data", on_corrupt="skip"), "val")) == 9


# ---- parts


def test_a_part_of_the_training_split_is_carved_out(tiny_config):
    config = change(tiny_config, "data", carve=0.25, eval_split="validation")
    train, held_out = open_split(config, "train"), open_split(config, "validation")
    assert len(train) + len(held_out) == 26
    assert 2 <= len(held_out) <= 12
    assert set(held_out.labels()) == {0, 1}
    assert set(train.indices) & set(held_out.indices) == set()
    assert len(open_split(config, "test")) == 14


def test_shots_are_of_the_training_split_alone(tiny_config):
    config = change(tiny_config, "data", shots=3)
    assert np.bincount(open_split(config, "train").labels()).tolist() == [3, 3]
    assert len(open_split(config, "val")) == 10
    assert len(open_split(change(config, "data", carve=0.5), "train")) == 6


def test_a_run_does_not_train_on_one_class(tiny_config, photos):
    config = change(tiny_config, "data", source=f"folder:{photos.parent}")
    with pytest.raises(ValueError, match=r"(is a class|one class|holds the splits).*folder:"):
        open_split(config, "train")
    labels = np.repeat([0, 1], 5)
    np.savez(photos / "a.npz", images=np.zeros((10, 8, 8), np.uint8), labels=labels)
    config = change(tiny_config, "data", source=f"npz:{photos / 'a.npz'}")
    assert len(open_split(change(config, "data", train_split="train[3:8]"), "train[3:8]")) == 5
    with pytest.raises(ValueError, match="one class to train on: all 5 labels of split 'train"):
        open_split(change(config, "data", train_split="train[:50%]"), "train[:50%]")


def test_several_columns_are_several_tasks_and_one_hot_labels_say_how_to_write_them(
    tiny_config, tmp_path
):
    file = manifest(tmp_path, [("a", "x"), ("b", "y"), ("a", "x")])
    config = change(
        tiny_config,
        "data",
        source=f"manifest:{file}",
        image_column="photo",
        labels=("label", "tags"),
    )
    assert [task.name for task in open_split(config, "train").tasks] == ["label", "tags"]
    np.savez(tmp_path / "a.npz", images=np.zeros((3, 8, 8), np.uint8), labels=np.eye(3, dtype=int))
    config = change(tiny_config, "data", source=f"npz:{tmp_path / 'a.npz'}")
    with pytest.raises(ValueError, match=r"one-hot.*labels.argmax\(axis=1\)"):
        open_split(config, "train")


@pytest.mark.parametrize("fields", [{"carve": 0.5}, {"shots": 3}])
def test_the_seed_decides_which_examples_a_part_holds(tiny_config, fields):
    config = change(tiny_config, "data", **fields)
    one, again, other = (
        open_split(change(config, "train", seed=seed), "train").indices for seed in (0, 0, 1)
    )
    assert one == again != other


def test_parts_are_of_the_training_split_whatever_its_name(tiny_config):
    config = change(tiny_config, "data", train_split="test", carve=0.5, shots=2)
    assert len(open_split(config, "test")) == 4
    assert 2 <= len(open_split(config, "validation")) <= 12  # About half of 7 of each class.
    assert len(open_split(config, "train")) == 26


# ---- labels


def test_missing_labels_are_refused_by_name_and_several_are_taken(tmp_path):
    file = manifest(tmp_path, [("a", "x|y"), ("b", "y"), ("", "x"), ("a", "x")])
    config = Config(data=DataConfig(f"manifest:{file}", image_column="photo", labels=("label",)))
    with pytest.raises(ValueError, match=r"1 of 4 examples of split 'train' .* have no 'label'"):
        open_split(config, "train")
    (tags,) = open_split(change(config, "data", labels=("tags",)), "train").tasks
    assert tags.kind == "multi_label"


# ---- reading


def test_every_option_of_reading_is_taken_from_the_configuration():
    options = {"batch_size": 7, "workers": 3, "worker_type": "process"}
    options |= {"cache": "none", "fast_jpeg": False, "stretch_on": "device"}
    assert load_options(DataConfig(**options)) == LoadOptions(**options)
    assert load_options(DataConfig(cache="device")).cache == "device"


def test_images_have_the_weights_size_unless_another_is_configured():
    config = Config(model=ModelConfig("resnet18"))
    assert preprocess_of(config).size == (224, 224)
    assert preprocess_of(change(config, "data", image_size=96)).size == (96, 96)
