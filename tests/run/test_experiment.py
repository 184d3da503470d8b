"""An experiment: every option has its effect on batches, steps and statistics."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from tests.support.runs import change
from tl_jax import trees
from tl_jax.config import GroupConfig, PhaseConfig
from tl_jax.data.loading import device_batches
from tl_jax.data.loading.order import make_order
from tl_jax.data.preprocess import preprocess
from tl_jax.run.data import load_options
from tl_jax.run.experiment import Experiment
from tl_jax.training import recalibrate, sharding, state

pytestmark = pytest.mark.slow


@pytest.fixture
def experiment(tiny_config) -> Experiment:
    return Experiment.from_config(tiny_config)


# ---- data


def test_an_evaluation_of_the_training_split_is_warned_of(tiny_config):
    experiment = Experiment.from_config(change(tiny_config, "data", eval_split="train"))
    assert "data.eval_split is 'train', the training split" in experiment.info.warnings[-1]


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_training_batches_are_drawn_as_configured_from_any_step_on(tiny_config, sampling):
    config = change(change(tiny_config, "data", sampling=sampling), "train", seed=5)
    experiment = Experiment.from_config(config)
    batches = experiment.train_batches(9)
    expected_batches = device_batches.train_batches(
        experiment.train,
        load_options(config.data),
        canvas=experiment.preprocess.canvas,
        order=make_order(sampling, experiment.train, seed=5),
        sharding=sharding.sharded(experiment.mesh),
        start_step=9,
    )
    actual, expected = next(batches), next(expected_batches)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name])
    batches.close()
    expected_batches.close()


@pytest.mark.parametrize(("size", "steps"), [(7, 4), (8, 3), (26, 1), (64, 1)])
def test_an_epoch_is_the_nearest_number_of_batches_and_at_least_one(tiny_config, size, steps):
    experiment = Experiment.from_config(change(tiny_config, "data", batch_size=size))
    assert experiment.steps_per_epoch == steps


@pytest.mark.parametrize(
    ("evaluated", "tested", "expected"),
    [("val", "test", ["val", "test"]), ("val", None, ["val"]), ("test", "test", ["test"])],
)
def test_held_out_splits_are_opened_once(tiny_config, evaluated, tested, expected):
    config = change(tiny_config, "data", eval_split=evaluated, test_split=tested)
    assert list(Experiment.from_config(config).held_out) == expected


def test_skipped_images_are_recorded_by_split(tiny_config, photos):
    (photos / "val" / "grüne" / "2.png").write_bytes(b"not a picture")
    experiment = Experiment.from_config(change(tiny_config, "data", on_corrupt="skip"))
    skipped = experiment.info.skipped
    assert (skipped["train"], skipped["test"], len(skipped["val"])) == ([], [], 1)
    assert experiment.info.examples == {"train": 26, "val": 9, "test": 14}
    lines = experiment.description.splitlines()
    (line,) = [line for line in lines if line.startswith("skipped")]
    assert "1 corrupt images of val" in line and "2.png" in line


def test_subsets_are_recorded_by_split(tiny_config):
    config = change(tiny_config, "data", carve=0.25, eval_split="validation")
    subsets = Experiment.from_config(config).info.subsets
    kinds = {split: record["kind"] for split, record in subsets.items()}
    assert kinds == {"train": "carve", "validation": "carve"}


# ---- the step


def program(config) -> str:
    """Returns the training step of the last phase, as it is compiled."""
    experiment = Experiment.from_config(config)
    phase = experiment.phases[-1]
    first = jax.eval_shape(
        lambda variables: state.create(variables, phase.tx, phase.plan),
        experiment.initial.variables,
    )
    batches = experiment.train_batches(0)
    step = experiment.compile_step(phase)
    lowered = step.func.lower(*step.args, first, next(batches))
    batches.close()
    return lowered.as_text()


@pytest.fixture(scope="module")
def programs():
    return {}


@pytest.mark.parametrize(
    ("section", "fields"),
    [
        ("train", {"label_smoothing": 0.3}),
        ("augment", {"mixup": 0.5}),
        ("augment", {"brightness": 0.3}),
        ("transfer", {"batch_norm": "affine_only"}),
        ("optim", {"clip_norm": None}),
        ("model", {"drop_path": 0.0}),
    ],
)
def test_options_of_the_step_change_the_program(tiny_config, programs, section, fields):
    if "default" not in programs:
        programs["default"] = program(tiny_config)
    assert program(change(tiny_config, section, **fields)) != programs["default"]


def test_the_seed_is_an_argument_of_the_program(tiny_config, programs):
    if "default" not in programs:
        programs["default"] = program(tiny_config)
    other = change(tiny_config, "train", seed=5)
    assert program(other) == programs["default"]
    experiment = Experiment.from_config(other)
    (key,) = experiment.compile_step(experiment.phases[0]).args
    assert jax.random.key_data(key).tolist() == jax.random.key_data(jax.random.key(5)).tolist()


def test_mixed_precision_keeps_the_state_in_float32(tiny_config):
    experiment = Experiment.from_config(change(tiny_config, "model", dtype="bfloat16"))
    assert experiment.model.dtype == jax.numpy.bfloat16
    phase = experiment.phases[-1]
    first = experiment.begin(phase, None)
    batches = experiment.train_batches(0)
    step = experiment.compile_step(phase)
    after, metrics = step.func.eval_shape(*step.args, first, next(batches))
    batches.close()
    floats = [leaf.dtype for leaf in jax.tree.leaves((after, metrics)) if leaf.ndim]
    assert {dtype.name for dtype in floats if dtype.kind == "f"} == {"float32"}


# ---- from phase to phase


def moments_by_name(opt_state):
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    return {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in leaves if leaf.ndim}


def test_parameters_that_stay_trained_keep_their_moments(tiny_config):
    phases = (PhaseConfig(1, "head"), PhaseConfig(1, "head+last:1"))
    experiment = Experiment.from_config(change(tiny_config, "transfer", phases=phases))
    first, second = experiment.phases
    before = experiment.begin(first, None)
    moved = jax.tree.map(lambda leaf: leaf + 1, before.opt_state)
    begun = experiment.begin(second, before.replace(step=before.step + 3, opt_state=moved))
    assert int(begun.step) == 3
    old, new = moments_by_name(moved), moments_by_name(begun.opt_state)
    head = {name for name in new if "['fc']" in name}
    assert len(head) == 4 and head <= old.keys()
    for name, moment in new.items():
        np.testing.assert_array_equal(moment, old[name] if name in head else 0)


def test_the_average_of_trained_parameters_is_evaluated_with_the_frozen_ones(tiny_config):
    experiment = Experiment.from_config(change(tiny_config, "train", ema=0.5))
    phase = experiment.phases[0]
    variables = jax.tree.map(lambda leaf: leaf + 1, experiment.initial.variables)
    train_state = state.create(variables, phase.tx, phase.plan)  # The average begins here.
    moved = jax.tree.map(lambda leaf: leaf + 1, variables["params"]["fc"])
    train_state = train_state.replace(params={**variables["params"], "fc": moved})
    evaluated = experiment.variables_to_evaluate(phase, train_state)
    jax.tree.map(np.testing.assert_array_equal, evaluated, variables)


# ---- recalibration


@pytest.mark.parametrize("when", ["before", "after"])
def test_statistics_are_recalibrated_in_the_groups_that_ask_for_it(tiny_config, when):
    groups = (GroupConfig("stage1", batch_norm="recalibrate"),)
    config = change(tiny_config, "transfer", groups=groups, recalibrate=when)
    experiment = Experiment.from_config(config)
    phase, initial = experiment.phases[0], experiment.initial.variables
    train_state = experiment.begin(phase, None)
    evaluated = experiment.variables_to_evaluate(phase, train_state)
    if when == "before":
        assert evaluated is None
        actual = train_state.variables
    else:
        jax.tree.map(np.testing.assert_array_equal, train_state.variables, initial)
        actual = evaluated
    # Three whole batches of eight: the last two of the 26 images are left out.
    images = [experiment.train[i]["image"] for i in range(24)]
    inputs = np.asarray(preprocess(images, experiment.preprocess)).reshape(3, 8, 32, 32, 3)
    expected = recalibrate.recalibrate(
        experiment.model, initial, inputs, names=["layer1"], mesh=experiment.mesh
    )
    for path, leaf in trees.flatten(actual).items():
        np.testing.assert_allclose(leaf, trees.flatten(expected)[path], rtol=1e-4, atol=1e-5)
        moved = not np.array_equal(leaf, trees.flatten(initial)[path])
        assert moved == (path[:2] == ("batch_stats", "layer1")), path


def test_without_average_or_recalibration_the_state_is_evaluated(experiment):
    phase = experiment.phases[0]
    train_state = experiment.begin(phase, None)
    assert experiment.variables_to_evaluate(phase, train_state) is None


def test_too_few_images_for_the_devices_are_refused(tiny_config):
    config = change(tiny_config, "transfer", batch_norm="recalibrate", recalibrate="after")
    experiment = Experiment.from_config(config)
    wide = dataclasses.replace(experiment, mesh=AbstractMesh((27,), ("data",)))
    train_state = experiment.begin(experiment.phases[0], None)
    with pytest.raises(ValueError, match="26 training images do not fill 27 devices"):
        wide.variables_to_evaluate(experiment.phases[0], train_state)


# ---- stopping


def test_patience_is_of_the_last_phase_and_a_target_of_all(tiny_config):
    config = change(tiny_config, "train", patience=2, target=0.5, best_metric="loss")
    stopping = Experiment.from_config(config).stopping
    assert stopping.decide([0.7, 0.9, 0.9]) is None  # Two epochs are of the first phase.
    assert "no better loss for 2 epochs" in stopping.decide([0.7, 0.7, 0.8, 0.9, 0.9])
    assert "reached the target" in stopping.decide([0.4])
    assert Experiment.from_config(tiny_config).stopping.decide([0.5] * 9) is None


def test_the_norm_of_the_gradient_is_left_out_where_it_is_not_asked_for(tiny_config):
    experiment = Experiment.from_config(change(tiny_config, "train", log_grad_norm=False))
    phase = experiment.phases[0]
    batch = {
        "image": jax.ShapeDtypeStruct((8, *[experiment.preprocess.canvas] * 2, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((8, 2), np.int32),
        "label": jax.ShapeDtypeStruct((8,), np.int32),
    }
    step = experiment.compile_step(phase)
    _, metrics = step.func.eval_shape(*step.args, experiment.begin(phase, None), batch)
    assert metrics.keys() == {"loss", "accuracy"}
