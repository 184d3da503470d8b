"""The data of a configuration: every option reaches what opens it; and the record of a run."""

import dataclasses

import pytest

from tests.run.test_data_options import change
from tl_jax.config import Config, DataConfig, ModelConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.run import data as experiment
from tl_jax.run.data import RunInfo, open_split
from tl_jax.weights.sources import WeightsRecord


@pytest.mark.parametrize(
    ("fields", "split", "expected"),
    [
        ({}, "test", "test"),
        ({}, "part", "part"),
        ({"carve": 0.5}, "part", "part"),
        ({"carve": 0.5}, "validation", "part"),
        ({"carve": 0.5}, "train", "train"),
        ({"carve": 0.5}, "test", "test"),
    ],
)
def test_the_options_of_the_data_reach_what_opens_it(monkeypatch, fields, split, expected):
    class OpenedError(Exception):
        """What was asked for."""

    def record(*args, **options):
        raise OpenedError(args, options)

    monkeypatch.setattr(experiment, "open_source", record)
    data = DataConfig(
        source="manifest:a.csv",
        data_dir="somewhere",
        labels=("a", "b"),
        image_column="picture",
        validation_fraction=0.3,
        on_corrupt="skip",
        train_split="part",
        **fields,
    )
    with pytest.raises(OpenedError) as found:
        open_split(change(Config(data=data), "train", seed=7), split)
    assert found.value.args == (
        ("manifest:a.csv", expected),
        {
            "data_dir": "somewhere",
            "seed": 7,
            "validation_fraction": 0.3,
            "on_corrupt": "skip",
            "labels": ("a", "b"),
            "image_column": "picture",
        },
    )


@pytest.mark.parametrize("fields", [{"carve": 0.5}, {"shots": 3}])
def test_the_seed_decides_which_examples_a_part_holds(tiny_config, fields):
    config = change(tiny_config, "data", **fields)
    one, again, other = (
        open_split(change(config, "train", seed=seed), "train").indices for seed in (0, 0, 1)
    )
    assert one == again != other


def test_parts_are_of_the_split_that_is_trained_on_whatever_its_name(tiny_config):
    config = change(tiny_config, "data", train_split="test", carve=0.5, shots=2)
    train, held_out = (open_split(config, split) for split in ("test", "validation"))
    assert len(train) == 4
    assert len(held_out) == 8  # Of 7 of each class, half, rounded up.
    assert len(open_split(config, "train")) == 26


def test_images_are_of_the_weights_size_unless_another_is_asked_for():
    config = Config(model=ModelConfig("resnet18"))
    assert experiment.preprocess_of(config).size == (224, 224)
    assert experiment.preprocess_of(change(config, "data", image_size=96)).size == (96, 96)


@pytest.mark.parametrize(
    "weights", [None, WeightsRecord("resnet18", "hub x", "file", "0", revision="1")]
)
def test_the_record_of_a_run_is_read_back_as_it_was_written(weights):
    info = RunInfo(
        class_names=("grüne", "red ones"),
        preprocess=Preprocess(size=(32, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)),
        weights=weights,
        parameters=5,
        examples={"train": 3, "val": 2},
        skipped={"train": ["a.png"], "val": []},
        subsets={"train": {"kind": "carve", "fraction": 0.5}},
        versions={"jax": "1"},
    )
    found = RunInfo.from_json(info.to_json())
    assert found == info
    assert hash(found.preprocess) == hash(info.preprocess)  # jit takes it as static.
    assert dataclasses.asdict(found) == dataclasses.asdict(info)
