"""Stopping rules on histories whose right epoch to stop is plain to see."""

import math

import pytest

from tl_jax.training.stopping import Stopping

NAN = math.nan


def stopped_after(rule: Stopping, history: list[float]) -> int | None:
    """Returns the epoch after which a run with these values stops; None if it does not."""
    return next((n for n in range(len(history) + 1) if rule.decide(history[:n])), None)


@pytest.mark.parametrize(
    ("history", "options", "epoch"),
    [
        ([0.5, 0.6, 0.6, 0.5, 0.7], {"patience": 2}, 4),  # the same is not better
        ([0.5, 0.6, 0.5, 0.61, 0.5, 0.5], {"patience": 2}, 6),
        ([0.5, 0.6, 0.7, 0.8], {"patience": 1}, None),
        ([0.5, 0.5], {"patience": 1}, 2),
        ([0.8, 0.7, 0.6, 0.7, 0.7], {"patience": 2, "lower_is_better": True}, 5),
        ([0.8, 0.7, 0.6], {"patience": 2}, 3),
        ([0.5, 0.52, 0.54, 0.56], {"patience": 2, "min_delta": 0.05}, 3),
        ([0.5, 0.53, 0.56, 0.5], {"patience": 2, "min_delta": 0.05}, None),  # slow, but better
        ([1.0, 0.98, 0.96], {"patience": 2, "min_delta": 0.05, "lower_is_better": True}, 3),
        ([0.5, 0.94, 0.951], {"target": 0.95}, 3),
        ([0.5, 0.95], {"target": 0.95}, 2),
        ([0.5, 0.4, 0.2], {"target": 0.3, "lower_is_better": True}, 3),
        ([0.5, 0.4, 0.3, 0.99], {"target": 0.95}, 4),
        ([0.1, 0.0, 0.0, 0.0], {}, None),
        ([], {"patience": 1, "target": 0.5}, None),
    ],
)
def test_a_run_stops_when_it_should(history, options, epoch):
    assert stopped_after(Stopping("accuracy", **options), history) == epoch


@pytest.mark.parametrize("lower_is_better", [False, True])
@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_values_that_are_not_finite_never_improve_and_reach_no_target(bad, lower_is_better):
    target = -1.0 if lower_is_better else 2.0
    rule = Stopping("loss", patience=3, target=target, lower_is_better=lower_is_better)
    assert stopped_after(rule, [0.5, bad, bad, bad]) == 4
    assert stopped_after(rule, [bad, bad, bad]) == 3
    assert stopped_after(rule, [bad, bad, 0.5, bad, bad]) is None


def test_patience_may_begin_later_and_epochs_keep_their_numbers():
    history = [0.9, 0.8, 0.5, 0.6, 0.55, 0.6]  # a second phase from the third epoch on
    assert Stopping("accuracy", patience=2, target=0.95).decide(history[:4]) is not None
    rule = Stopping("accuracy", patience=2, patience_from=2, target=0.95)
    assert rule.decide(history[:4]) is None
    assert rule.decide(history) == "no better accuracy for 2 epochs: the best is 0.6, of epoch 4"
    for early in ([], [0.9], [0.9, 0.8]):
        assert rule.decide(early) is None
    assert rule.decide([0.96, 0.8, 0.5]) == "accuracy 0.96 reached the target 0.95 in epoch 1"
    assert rule.decide([0.5, 0.5, NAN, NAN]).endswith("there is none yet")


def test_the_decision_follows_from_the_history_alone():
    rule, history = Stopping("accuracy", patience=2), [0.5, 0.6, 0.6, 0.6]
    assert rule.decide(history) == rule.decide(tuple(history)) == rule.decide(list(history))
    assert history == [0.5, 0.6, 0.6, 0.6]


@pytest.mark.parametrize(
    ("options", "history", "reason"),
    [
        ({"target": 0.95}, [0.1, 0.951], "accuracy 0.951 reached the target 0.95 in epoch 2"),
        ({"target": 0.95}, [0.951, 0.1], "accuracy 0.951 reached the target 0.95 in epoch 1"),
        (
            {"patience": 2},
            [0.5, 0.6, 0.6, 0.55],
            "no better accuracy for 2 epochs: the best is 0.6, of epoch 2",
        ),
        ({"patience": 1}, [NAN], "no better accuracy for 1 epoch: there is none yet"),
    ],
)
def test_the_reason_says_what_was_found_and_where(options, history, reason):
    assert Stopping("accuracy", **options).decide(history) == reason


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"patience": 0}, "got patience=0"),
        ({"min_delta": -0.1}, "got min_delta=-0.1"),
        ({"min_delta": NAN}, "got min_delta=nan"),
        ({"target": NAN}, "got target=nan"),
    ],
)
def test_invalid_rules_are_errors(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Stopping("accuracy", **options)
