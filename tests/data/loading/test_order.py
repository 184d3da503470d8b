"""Orders: what comes how often, nothing again before all, the same at every place of the stream."""

from collections import Counter

import numpy as np
import pytest

from tl_jax.data.loading import order as sampling
from tl_jax.data.loading.order import Balanced, Stream, Uniform, Weighted, square_root_weights
from tl_jax.data.source import Source, Task

LABELS = np.array([0, 1, 1, 2, 2, 2, 2, 0, 2, 1, 2, 2, 5])  # 2, 3, 7 and 1 examples of 4 classes.


def stream_of(order, count):
    return Stream(order)[range(count)]


def orders():
    return {
        "uniform": Uniform(13, 3),
        "balanced": Balanced(LABELS, 3),
        "weighted": Weighted(np.arange(13.0), 3),
    }


def test_the_uniform_order_stays_the_same_between_versions():
    # Recorded runs can be continued and repeated only as long as it does.
    assert stream_of(Uniform(5, 7), 10).tolist() == [3, 4, 0, 2, 1, 1, 3, 2, 4, 0]


def test_the_other_orders_stay_the_same_between_versions():
    assert stream_of(Balanced(LABELS, 7), 8).tolist() == [9, 4, 0, 12, 2, 12, 5, 7]
    assert stream_of(Weighted(np.arange(6.0), 7), 6).tolist() == [4, 1, 4, 5, 5, 3]


@pytest.mark.parametrize("count", [1, 2, 13, 64])
def test_a_uniform_epoch_holds_every_example_once(count):
    for epoch in range(3):
        assert sorted(Uniform(count, 0).epoch(epoch)) == list(range(count))


def test_each_example_is_as_likely_to_come_first():
    firsts = Counter(int(Uniform(5, seed).epoch(0)[0]) for seed in range(300))
    assert set(firsts) == set(range(5))
    assert max(firsts.values()) < 100


@pytest.mark.parametrize("name", ["uniform", "balanced", "weighted"])
def test_every_piece_of_the_stream_can_be_read_alone(name):
    whole = stream_of(orders()[name], 200)
    for start in (0, 1, 12, 13, 14, 40, 95):
        for length in (0, 1, 5, 30):
            piece = Stream(orders()[name])[range(start, start + length)]
            np.testing.assert_array_equal(piece, whole[start : start + length])


@pytest.mark.parametrize("name", ["uniform", "balanced", "weighted"])
def test_epochs_and_seeds_differ(name):
    order = orders()[name]
    other = {"uniform": Uniform(13, 4), "balanced": Balanced(LABELS, 4)}.get(
        name, Weighted(np.arange(13.0), 4)
    )
    drawn = [tuple(o.epoch(e)) for o in (order, other) for e in range(3)]
    assert len(set(drawn)) == 6
    assert order.epoch(1).tolist() == list(drawn[1])


def test_each_turn_of_a_balanced_stream_holds_every_class_once():
    order = Balanced(LABELS, 0)
    assert len(order) == 16  # 13 rounded up to a multiple of 4.
    classes = LABELS[stream_of(order, 3 * len(order))].reshape(-1, 4)
    assert {tuple(sorted(turn)) for turn in classes} == {(0, 1, 2, 5)}
    assert len({tuple(turn) for turn in classes}) > 4


@pytest.mark.parametrize("label", [0, 1, 2, 5])
def test_no_example_of_a_class_comes_again_before_all_of_it(label):
    drawn = stream_of(Balanced(LABELS, 0), 400)
    members = np.flatnonzero(label == LABELS)
    own = drawn[LABELS[drawn] == label]
    assert len(own) == 100
    walks = [own[i : i + len(members)] for i in range(0, 100, len(members))][:-1]
    assert all(sorted(walk) == members.tolist() for walk in walks)
    assert len({tuple(walk) for walk in walks}) > len(members) // 2


def test_examples_without_a_label_are_not_drawn():
    labels = np.array([1, -1, 0, -1, 1])
    assert set(stream_of(Balanced(labels, 0), 60)) == {0, 2, 4}
    np.testing.assert_allclose(square_root_weights(labels), [0.5**0.5, 0, 1, 0, 0.5**0.5])


@pytest.mark.parametrize("seed", range(5))
def test_an_epoch_follows_the_weights(seed):
    weights = np.array([0.0, 1.0, 2.5, 0.1, 4.4, 0.0, 2.0])
    order = Weighted(weights, seed)
    share = weights / weights.sum() * len(weights)
    for epoch in range(20):
        counts = np.bincount(order.epoch(epoch), minlength=7)
        assert counts.sum() == 7
        assert (np.abs(counts - share) < 1).all()


def test_weights_are_right_on_average_and_their_draws_mixed():
    weights = np.array([1.0, 2.0, 3.0, 0.5])
    order = Weighted(weights, 1)
    drawn = np.stack([order.epoch(epoch) for epoch in range(2000)])
    np.testing.assert_allclose(
        np.bincount(drawn.ravel()) / drawn.size, weights / weights.sum(), atol=0.01
    )
    np.testing.assert_allclose(np.mean(drawn == 2, axis=0), 3 / 6.5, atol=0.05)


def test_equal_weights_draw_every_example_once():
    assert sorted(Weighted(np.full(11, 0.3), 0).epoch(4)) == list(range(11))


def test_square_root_weights_give_classes_their_root():
    labels = np.repeat([0, 1], [16, 4])
    weights = square_root_weights(labels)
    sums = [weights[labels == label].sum() for label in (0, 1)]
    assert sums[0] / sums[1] == pytest.approx(2)


class Labelled(Source):
    """A source of labels."""

    name, split = "labelled", "train"

    def __init__(self, labels, *, multi_label=False):
        self._labels = np.asarray(labels)
        self.tasks = (Task("kind", ("a", "b", "c"), multi_label=multi_label),)

    def labels(self):
        return self._labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return {"label": self._labels[index]}


@pytest.mark.parametrize(
    ("name", "shares"),
    [("uniform", [8, 1]), ("balanced", [4.5, 4.5]), ("square_root", [6.65, 2.35])],
)
def test_an_order_by_name(name, shares):
    labels = np.repeat([0, 2], [8, 1])
    order = sampling.make_order(name, Labelled(labels), seed=0)
    drawn = labels[stream_of(order, 9000)]
    np.testing.assert_allclose(
        [np.mean(drawn == 0), np.mean(drawn == 2)], np.divide(shares, 9), atol=0.01
    )
    assert Counter(drawn.tolist()).keys() == {0, 2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Weighted([1.0, -1.0], 0), "1 are negative and 0 not finite"),
        (lambda: Weighted([1.0, np.nan], 0), "0 are negative and 1 not finite"),
        (lambda: Weighted([0.0, 0.0], 0), "at least one above 0"),
        (lambda: Weighted([[1.0]], 0), r"shape \(1, 1\)"),
        (lambda: Balanced(np.array([-1, -1]), 0), "0 examples with a label"),
        (lambda: Balanced(np.array([0.5]), 0), "expected one integer for each example"),
        (lambda: Uniform(0, 0), "at least one to draw from"),
        (lambda: sampling.make_order("even", Labelled([0]), seed=0), "expected 'uniform'"),
        (
            lambda: sampling.make_order("balanced", Labelled([[1, 0]], multi_label=True), seed=0),
            "of 'kind'; expected sampling='uniform'",
        ),
    ],
)
def test_invalid_labels_and_weights_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
