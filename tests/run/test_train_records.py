"""The records of training: means of intervals, each fetched at the end of the next one."""

import json

import jax.numpy as jnp
import pytest

from tl_jax.run.divergence import NotFiniteError
from tl_jax.run.train_records import Intervals


def add_losses(intervals, losses) -> None:
    for loss in losses:
        intervals.add({"loss": jnp.float32(loss), "accuracy": jnp.float32(loss / 10)})


def test_means_are_recorded_one_interval_late_and_at_the_end():
    recorded = []
    intervals = Intervals(2, lambda steps, means: recorded.append((steps, means["loss"])))
    add_losses(intervals, [1, 2, 3])
    assert recorded == []
    add_losses(intervals, [5])
    assert recorded == [(2, 1.5)]
    add_losses(intervals, [7])
    intervals.finish()
    assert recorded == [(2, 1.5), (4, 4.0), (5, 7.0)]


def test_an_epoch_that_ends_with_an_interval_has_no_empty_record():
    recorded = []
    intervals = Intervals(2, lambda steps, means: recorded.append((steps, means)))
    add_losses(intervals, [1, 2])
    intervals.finish()
    assert recorded == [(2, {"loss": 1.5, "accuracy": pytest.approx(0.15)})]


def test_long_intervals_have_the_mean_of_all_their_steps():
    recorded, losses = [], list(range(75))
    intervals = Intervals(70, lambda steps, means: recorded.append((steps, means["loss"])))
    add_losses(intervals, losses)
    intervals.finish()
    assert recorded == [(70, 34.5), (75, 72.0)]


def test_a_loss_that_is_not_finite_is_an_error_and_no_record():
    recorded = []
    intervals = Intervals(1, lambda *record: recorded.append(record))
    add_losses(intervals, [float("nan")])
    with pytest.raises(FloatingPointError, match="the training loss is nan"):
        add_losses(intervals, [1.0])
    assert recorded == []


@pytest.mark.parametrize("stop", range(1, 8))
def test_records_of_an_epoch_that_was_broken_off_are_those_of_a_whole_one(stop):
    losses = [0.1, 0.7, 0.3, 0.9, 0.2, 0.6, 0.8]
    whole, broken = [], []
    intervals = Intervals(3, lambda *record: whole.append(record))
    add_losses(intervals, losses)
    intervals.finish()
    first = Intervals(3, lambda *record: broken.append(record))
    add_losses(first, losses[:stop])
    left = json.loads(json.dumps(first.flush()))
    assert len(left.get("loss", ())) == stop % 3
    second = Intervals(3, lambda *record: broken.append(record), steps_done=stop, interval=left)
    add_losses(second, losses[stop:])
    second.finish()
    assert broken == whole


@pytest.mark.parametrize(("name", "word"), [("loss", "training loss"), ("grad_norm", "gradient")])
def test_the_first_step_that_is_not_finite_is_named(name, word):
    intervals = Intervals(4, lambda *_: None, steps_done=10)
    for step in range(11, 15):
        values = {"loss": jnp.float32(1), "grad_norm": jnp.float32(1)}
        intervals.add(values | ({name: jnp.float32(jnp.inf)} if step >= 13 else {}))
    with pytest.raises(NotFiniteError, match=f"{word} is inf") as error:
        intervals.flush()
    assert error.value.step == 13


def test_steps_that_were_skipped_are_counted_and_in_no_mean():
    recorded = []
    intervals = Intervals(2, lambda *record: recorded.append(record))
    for loss, skipped in ((1.0, 0), (jnp.nan, 1), (jnp.inf, 1), (jnp.nan, 1)):
        intervals.add({"loss": jnp.float32(loss), "skipped": jnp.float32(skipped)})
    intervals.finish()
    (first, second) = recorded
    assert first == (2, {"loss": 1.0, "skipped_steps": 1})
    assert second == (4, {"loss": pytest.approx(float("nan"), nan_ok=True), "skipped_steps": 2})
    assert intervals.skipped == 3
