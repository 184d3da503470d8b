"""Evaluation of a split: every example counts once, whatever the batch, or nothing is reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, Task
from tl_jax.data.views import Views
from tl_jax.objectives import metrics
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.training import sharding
from tl_jax.training.evaluator import Evaluator


class Brightness(nn.Module):
    """Predicts class 1 for images brighter than mid-gray, 0 for others."""

    @nn.compact
    def __call__(self, x, *, train=False):
        mean = x.mean((1, 2, 3))
        return jnp.stack([-mean, mean], axis=1)


class Grays(Source):
    """`count` gray images, of label 1 where bright; every third label is wrong."""

    name, split, tasks = "grays", "all", (Task("label", ("dark", "bright")),)

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        bright = i % 2
        image = np.full((8, 8, 3), 200 if bright else 50, np.uint8)
        return {"image": image, "label": bright if i % 3 else 1 - bright}


class Rings(Grays):
    """One bright image with a dark middle."""

    def __init__(self):
        super().__init__(1)

    def __getitem__(self, i):
        image = np.full((16, 16, 3), 250, np.uint8)
        image[4:12, 4:12] = 80
        return {"image": image, "label": 1}


PREPROCESS = Preprocess(size=(8, 8), crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3)


MESH = sharding.data_mesh(jax.devices()[:1])


def evaluator_of(preprocess=PREPROCESS, *, batch_size=4, cache="none", **options):
    return Evaluator(
        Brightness(),
        preprocess,
        mesh=MESH,
        load_options=LoadOptions(batch_size, cache=cache),
        **options,
    )


@pytest.mark.parametrize("count", [1, 3, 7, 8, 13])
def test_every_example_counts_once(count):
    found, confusion = evaluator_of()({}, Grays(count))
    wrong = len(range(0, count, 3))
    assert found["count"] == confusion.sum() == count
    assert found["accuracy"] == pytest.approx((count - wrong) / count)


def test_of_many_classes_only_the_matrix_is_left_out(monkeypatch):
    expected, confusion = evaluator_of()({}, Grays(13))
    monkeypatch.setattr(metrics, "MAX_MATRIX_CLASSES", 1)
    found, counts = evaluator_of()({}, Grays(13))
    left_out = {"kappa", "auc", "average_precision", "macro_auc", "mean_average_precision"}
    assert expected.keys() - found.keys() == left_out | {"classes_without_positives"}
    assert found["recall"] == expected["recall"] and found["loss"] == expected["loss"]
    assert found["brier"] == pytest.approx(expected["brier"], rel=1e-6)
    assert counts.hits.tolist() == confusion.diagonal().tolist()


def test_the_loss_is_summed_in_64_bits(monkeypatch):
    """In 32 bits a sum of 2 ** 25 takes no further 1."""
    evaluator, count = evaluator_of(batch_size=1), 9
    losses = iter([2.0**25] + [1.0] * (count - 1))
    step = evaluator.step

    def with_loss(*args):
        return {**step(*args), "loss_sum": jnp.float32([next(losses)])}

    monkeypatch.setattr(evaluator, "step", with_loss)
    assert evaluator({}, Grays(count))[0]["loss"] == (2.0**25 + count - 1) / count


def test_examples_that_were_not_counted_are_an_error():
    evaluator, source = evaluator_of(cache="device"), Grays(7)
    assert evaluator({}, source)[0]["count"] == 7
    source.count = 9  # The cache holds the seven of the first pass.
    with pytest.raises(RuntimeError, match="counted 7 of the 9"):
        evaluator({}, source)


class TwoTasks(nn.Module):
    """The brightness as logits of two classes, and as a number."""

    @nn.compact
    def __call__(self, x, *, train=False):
        logits = Brightness()(x)
        return {"kind": logits, "grey": 100 * logits[:, 1:]}


class Greys(Grays):
    """Gray images with their pixels' value, of which some are missing."""

    tasks = (*Grays.tasks, Task("grey", ()))

    def __getitem__(self, i):
        value = 200 if i % 2 else 50
        return {**super().__getitem__(i), "grey": float("nan") if i % 4 == 1 else value + i}


OBJECTIVE = MultiTask({"kind": SingleLabel(2), "grey": Regression(label_key="grey")})


def test_several_tasks_are_measured_over_padded_batches():
    source = Greys(7)
    evaluator = Evaluator(
        TwoTasks(), PREPROCESS, mesh=MESH, load_options=LoadOptions(4), objective=OBJECTIVE
    )
    found = evaluator.evaluate({}, source)
    assert found.metrics["count"] == 7
    outputs = [200 * (200 if i % 2 else 50) / 255 - 100 for i in range(7)]
    known = [i for i in range(7) if i % 4 != 1]
    errors = [abs(outputs[i] - source[i]["grey"]) for i in known]
    assert found.metrics["tasks"]["grey"]["count"] == len(known) == 5
    assert found.metrics["tasks"]["grey"]["mae"] == pytest.approx(np.mean(errors), rel=1e-4)
    alone, confusion = evaluator_of()({}, source)
    assert found.metrics["tasks"]["kind"]["accuracy"] == alone["accuracy"]
    assert found.confusion["kind"].tolist() == confusion.tolist()
    assert found.confusion.keys() == {"kind"}
    flipped = Evaluator(
        TwoTasks(),
        PREPROCESS,
        mesh=MESH,
        load_options=LoadOptions(4),
        objective=OBJECTIVE,
        views=Views(flip=True),
    )  # Images of one colour are their own mirror images.
    of_both = flipped.evaluate({}, source).metrics["tasks"]
    assert of_both["grey"]["mae"] == pytest.approx(found.metrics["tasks"]["grey"]["mae"])
    assert of_both["kind"]["accuracy"] == alone["accuracy"]


def test_a_loss_of_any_task_that_is_not_finite_is_an_error():
    objective = MultiTask({"kind": SingleLabel(2), "grey": Regression(label_key="grey", std=1e-30)})
    evaluator = Evaluator(
        TwoTasks(), PREPROCESS, mesh=MESH, load_options=LoadOptions(4), objective=objective
    )
    with pytest.raises(FloatingPointError, match="the loss on split 'all' is inf: all parameters"):
        evaluator({}, Greys(7))


def test_several_views_are_cut_from_what_one_view_drops():
    half = dataclasses.replace(PREPROCESS, crop_pct=0.5)
    one = evaluator_of(half, batch_size=2)
    five = evaluator_of(half, batch_size=2, views=Views(crops=5))
    assert one({}, Rings())[0]["accuracy"] == 0
    assert five({}, Rings())[0]["accuracy"] == 1
