"""The records of training: means of intervals, each fetched at the end of the next one."""

import jax.numpy as jnp
import pytest

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
