"""Runs that are asked for more epochs, or fewer: what leaves the done epochs as they are."""

import pytest

from tests.support.runs import change
from tl_jax.config import Config, PhaseConfig
from tl_jax.run import longer
from tl_jax.training.stopping import Stopping

CONSTANT = change(change(Config(), "optim", schedule="constant"), "train", head_epochs=2, epochs=3)
STEP = change(CONSTANT, "optim", schedule="step", step_epochs=(2.0,))
COSINE = change(CONSTANT, "optim", schedule="cosine")


def check(before, now, done):
    longer.check(before, now, epochs_done=done, steps_per_epoch=4, folder="runs/x")


@pytest.mark.parametrize(
    ("before", "done", "fields"),
    [
        (CONSTANT, 5, {"epochs": 9}),
        (STEP, 5, {"epochs": 9}),
        (CONSTANT, 4, {"epochs": 2}),
        (CONSTANT, 1, {"head_epochs": 7}),
        (COSINE, 2, {"epochs": 9}),
        (COSINE, 0, {"head_epochs": 9}),
    ],
)
def test_epochs_that_leave_the_done_ones_as_they_are_are_taken(before, done, fields):
    check(before, change(before, "train", **fields), done)


@pytest.mark.parametrize(
    ("before", "done", "fields", "message"),
    [
        (CONSTANT, 5, {"epochs": 2}, "has trained 5 epochs, and the configuration asks for 4"),
        (CONSTANT, 4, {"head_epochs": 3}, r"of phase 1 \(head, 2 epochs\), it lasted 2 epochs"),
        (CONSTANT, 4, {"head_epochs": 1, "epochs": 4}, "2 are done, more than 1"),
        (COSINE, 5, {"epochs": 9}, r"(?s)'cosine' over 3 epochs.*export runs/x --to timm FOLDER"),
        (COSINE, 1, {"head_epochs": 4}, "with 4 every step would have had another rate"),
    ],
)
def test_epochs_that_would_change_the_done_ones_are_refused(before, done, fields, message):
    with pytest.raises(ValueError, match=message):
        check(before, change(before, "train", **fields), done)


def test_phases_are_added_at_the_end_of_a_cosine_run_and_not_changed():
    phases = (PhaseConfig(2, "head"), PhaseConfig(3, "all"))
    more = change(COSINE, "transfer", phases=(*phases, PhaseConfig(4, "all", learning_rate=1e-5)))
    check(COSINE, more, 5)
    other = change(COSINE, "transfer", phases=(phases[0], PhaseConfig(3, "last:1")))
    check(COSINE, other, 2)
    with pytest.raises(ValueError, match="its trained was 'all', not 'last:1'"):
        check(COSINE, other, 3)


def test_the_message_shows_the_phases_as_an_option():
    with pytest.raises(ValueError, match="epochs=2,trained=head epochs=3,trained=all epochs=N"):
        check(COSINE, change(COSINE, "train", epochs=9), 5)


def test_the_message_starts_a_new_run_with_the_classifier_that_was_trained():
    with pytest.raises(ValueError, match="weights FOLDER --transfer.classifier load\n"):
        check(COSINE, change(COSINE, "train", epochs=9), 5)
    mapped = change(COSINE, "transfer", classifier="load", class_mapping=("a=b",))
    keyed = change(mapped, "model", prefix="net.")
    with pytest.raises(
        ValueError, match="FOLDER --model.prefix '' --transfer.class-mapping\n"
    ):  # Those of the first weights.
        check(keyed, change(keyed, "train", epochs=9), 5)


@pytest.mark.parametrize(
    ("model", "transfer", "options"),
    [
        ({"weights": "random"}, {}, "weights FOLDER --transfer.classifier load\n"),
        ({}, {"head_init": "small"}, "classifier load --transfer.head-init zero\n"),
    ],
)
def test_the_new_run_starts_from_exported_weights_whatever_the_first_started_from(
    model, transfer, options
):
    before = change(change(COSINE, "model", **model), "transfer", **transfer)
    with pytest.raises(ValueError, match=options):
        check(before, change(before, "train", epochs=9), 5)


@pytest.mark.parametrize(
    ("section", "field", "value"), [("model", "head", "mlp"), ("transfer", "classifier", "fuse")]
)
def test_a_run_that_cannot_be_exported_is_told_of_a_further_phase_alone(section, field, value):
    before = change(COSINE, section, **{field: value})
    with pytest.raises(ValueError, match="\\.\nLet this run go on") as error:
        check(before, change(before, "train", epochs=9), 5)
    assert "export" not in str(error.value)


def test_a_rule_that_would_have_ended_the_run_before_is_refused():
    history = [{"accuracy": value} for value in (0.5, 0.6, 0.5, 0.7)]
    longer.check_stopping(Stopping("accuracy", patience=2), history, folder="x")
    longer.check_stopping(Stopping("accuracy", target=0.7), history, folder="x")  # It ends now.
    with pytest.raises(ValueError, match="would have ended after epoch 3"):
        longer.check_stopping(Stopping("accuracy", patience=1), history, folder="x")
    with pytest.raises(ValueError, match="would have ended after epoch 2"):
        longer.check_stopping(Stopping("accuracy", target=0.55), history, folder="x")
