"""What a run is made of: every option reaches what reads, trains, measures and recalibrates."""

import dataclasses

import jax
import numpy as np
import pytest

from tests.run.test_data_options import change
from tl_jax.config import AugmentConfig, Config, GroupConfig, TransferConfig
from tl_jax.data.loading import host_batches
from tl_jax.data.loading import order as sampling
from tl_jax.data.preprocess import preprocess
from tl_jax.run import experiment
from tl_jax.run.phases import Phase

READING = {
    "batch_size": 7,
    "workers": 3,
    "worker_type": "process",
    "cache": "none",
    "fast_jpeg": False,
    "stretch_on": "device",
}


class Calls:
    """Stands for a function: keeps what it was called with."""

    def __init__(self):
        self.found = []

    def __call__(self, *args, **options):
        self.found.append((args, options))
        return iter(())


@pytest.fixture
def calls():
    return Calls()


def no_start(monkeypatch):
    """Leaves out the weights, which reading and measuring do not ask for."""
    begun = experiment.start.Start({"params": {}}, None)
    monkeypatch.setattr(experiment.start, "begin", lambda *args: begun)
    monkeypatch.setattr(experiment.phases, "phases", lambda *args: [])


# ---- reading


@pytest.mark.parametrize("sampled", ["uniform", "balanced"])
def test_the_options_of_reading_reach_the_training_batches(
    tiny_config, monkeypatch, calls, sampled
):
    no_start(monkeypatch)
    config = change(tiny_config, "data", sampling=sampled, **READING)
    made = experiment.prepare(change(config, "train", seed=5))
    monkeypatch.setattr(experiment.feed, "train_batches", calls)
    experiment.train_batches(made, 9)
    (((source,), options),) = calls.found
    assert source is made.train
    order = options.pop("order")
    assert type(order) is {"uniform": sampling.Uniform, "balanced": sampling.Balanced}[sampled]
    assert order.seed == 5
    assert options.pop("sharding").mesh == made.mesh
    assert options == READING | {"canvas": made.preprocess.canvas, "start_step": 9}


@pytest.mark.parametrize("cache", ["none", "device"])
def test_the_options_of_reading_reach_the_measure(tiny_config, monkeypatch, calls, cache):
    monkeypatch.setattr(experiment.measure, "Measure", calls)
    config = change(tiny_config, "data", **READING | {"stretch_on": "auto", "cache": cache})
    experiment.measure_of(config, "model", "preprocess", "mesh")
    (((*given,), options),) = calls.found
    assert given == ["model", "preprocess"]
    expected = {"mesh": "mesh", "batch_size": 7, "workers": 3, "worker_type": "process"}
    assert options == expected | {"cache": cache}


@pytest.mark.parametrize(("size", "steps"), [(7, 4), (8, 3), (26, 1), (64, 1)])
def test_an_epoch_is_the_nearest_whole_number_of_batches_and_at_least_one(
    tiny_config, monkeypatch, size, steps
):
    no_start(monkeypatch)
    made = experiment.prepare(change(tiny_config, "data", batch_size=size))
    assert made.steps_per_epoch == steps


@pytest.mark.parametrize(
    ("evaluated", "tested", "expected"),
    [("val", "test", ["val", "test"]), ("val", None, ["val"]), ("test", "test", ["test"])],
)
def test_what_is_held_out_is_opened_once(tiny_config, monkeypatch, evaluated, tested, expected):
    no_start(monkeypatch)
    config = change(tiny_config, "data", eval_split=evaluated, test_split=tested)
    assert list(experiment.prepare(config).held_out) == expected


def test_a_batch_that_the_devices_cannot_share_is_refused(tiny_config, monkeypatch):
    def refuse(batch_size, mesh):
        raise ValueError(f"{batch_size} over {mesh}")

    monkeypatch.setattr(experiment.parallel, "check_batch_size", refuse)
    with pytest.raises(ValueError, match="8 over Mesh"):
        experiment.prepare(tiny_config)


def test_what_was_left_out_is_recorded_by_split(tiny_config, photos, monkeypatch):
    no_start(monkeypatch)
    (photos / "val" / "grüne" / "2.png").write_bytes(b"not a picture")
    made = experiment.prepare(change(tiny_config, "data", on_corrupt="skip"))
    skipped = made.info.skipped
    assert (skipped["train"], skipped["test"], len(skipped["val"])) == ([], [], 1)
    assert made.info.examples == {"train": 26, "val": 9, "test": 14}
    (line,) = [line for line in made.description.splitlines() if line.startswith("skipped")]
    assert "1 corrupt images of val" in line and "2.png" in line


# ---- the step


def test_the_options_of_the_step_reach_it(tiny_config, monkeypatch, calls):
    config = change(tiny_config, "train", label_smoothing=0.3, seed=5)
    config = dataclasses.replace(config, augment=AugmentConfig(cutmix=0.7, mix_switch=0.2))
    made = experiment.prepare(config)
    phase = Phase("all", 0, 1, {"plan": "all"}, frozenset({"stage1"}), None, {}, {}, "")
    kept = {}
    monkeypatch.setattr(
        experiment.step, "make_train_step", lambda *a, **k: kept.update(k, args=a) or max
    )
    monkeypatch.setattr(
        experiment.parallel, "jit_keyed_train_step", lambda step, mesh, key: (step, mesh, key)
    )
    keyed, mesh, key = experiment.compile_step(made, phase, "tx")
    assert keyed(key, 1, 2) == 2  # What was made is called with the state and the batch.
    assert kept.pop("args") == (made.model, "tx", phase.plan)
    assert mesh is made.mesh
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(5)).tolist()
    assert kept.pop("seed_key") is key
    assert kept.pop("mix").keywords["cutmix"] == 0.7
    assert kept.pop("prepare")
    assert kept == {"label_smoothing": 0.3, "still": frozenset({"stage1"})}


# ---- recalibration


@pytest.mark.parametrize(("size", "count"), [(8, 3), (64, 1)])
def test_statistics_are_estimated_on_whole_batches_as_for_evaluation(tiny_config, size, count):
    made = experiment.prepare(change(tiny_config, "data", batch_size=size))
    found = [np.asarray(batch) for batch in experiment._whole_batches(made)]
    size = min(size, 26)
    assert [batch.shape for batch in found] == [(size, 32, 32, 3)] * count
    images = [made.train[i]["image"] for i in range(size * count)]
    expected = preprocess(images, made.preprocess)
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5)


def test_the_options_of_reading_reach_the_batches_of_recalibration(tiny_config, monkeypatch, calls):
    no_start(monkeypatch)
    made = experiment.prepare(change(tiny_config, "data", **READING))
    monkeypatch.setattr(host_batches, "eval_batches", calls)
    assert list(experiment._whole_batches(made)) == []
    ((_, options),) = calls.found
    expected = {"batch_size": 7, "workers": 3, "worker_type": "process"}
    assert {name: options[name] for name in expected} == expected


def test_too_few_images_for_the_devices_are_refused(tiny_config, monkeypatch):
    no_start(monkeypatch)
    made = experiment.prepare(tiny_config)
    wide = dataclasses.make_dataclass("Wide", ["size"])(27)
    with pytest.raises(ValueError, match="26 training images do not fill 27 devices"):
        next(experiment._whole_batches(dataclasses.replace(made, mesh=wide)))


def test_the_layers_of_the_groups_that_say_so_are_estimated_anew(tiny_config, monkeypatch, calls):
    config = change(
        tiny_config, "transfer", groups=(GroupConfig("stage1", batch_norm="recalibrate"),)
    )
    made = experiment.prepare(config)
    monkeypatch.setattr(experiment.recalibrate, "recalibrate", calls)
    experiment.recalibrated(made, made.start.variables)
    ((_, options),) = calls.found
    assert options["names"] == ["layer1.0.bn1", "layer1.0.bn2", "layer1.0.downsample.1"]
    none = dataclasses.replace(made, config=tiny_config)
    assert experiment.recalibrated(none, made.start.variables) is made.start.variables
    assert len(calls.found) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("of_a_group", [False, True])
def test_when_statistics_are_estimated_anew(when, of_a_group):
    mode = {"groups": (GroupConfig("stage1", batch_norm="recalibrate"),)} if of_a_group else {}
    mode = mode or {"batch_norm": "recalibrate"}
    config = Config(transfer=TransferConfig(recalibrate=when, **mode))
    assert experiment.recalibrates(config, when)
    assert not experiment.recalibrates(config, "after" if when == "before" else "before")
    assert not experiment.recalibrates(Config(transfer=TransferConfig(recalibrate=when)), when)
