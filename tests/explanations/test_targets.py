"""What is explained of each kind of task, and how it and the methods are named."""

import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.data.source import Task
from tl_jax.explanations.attention import Attention
from tl_jax.explanations.cam import GradCAM
from tl_jax.explanations.explain import find_target, find_task
from tl_jax.explanations.gradients import IntegratedGradients, Saliency, SmoothGrad
from tl_jax.explanations.methods import METHODS, resolve
from tl_jax.explanations.occlusion import Occlusion
from tl_jax.explanations.target import Target, predicted_index
from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel

LOGITS = jnp.array([[0.0, 2.0, 1.0], [3.0, -1.0, 0.5]])
INDEX = jnp.array([2, 0])
STAGES = ("layer1", "layer2")


def test_a_class_is_explained_by_its_logit_and_read_as_a_probability():
    target = Target(INDEX, "kind", SingleLabel(3))
    assert target.scores({"kind": LOGITS, "other": LOGITS + 1}).tolist() == [1.0, 3.0]
    expected = np.exp([1.0, 3.0]) / np.exp(LOGITS).sum(1)
    np.testing.assert_allclose(target.values({"kind": LOGITS}), expected, rtol=1e-6)
    assert predicted_index(LOGITS, "", SingleLabel(3)).tolist() == [1, 0]


def test_without_an_objective_the_outputs_are_logits_of_classes():
    np.testing.assert_allclose(
        Target(INDEX).values(LOGITS), Target(INDEX, "", SingleLabel(3)).values(LOGITS), rtol=1e-6
    )


def test_a_label_is_explained_by_its_logit():
    target = Target(INDEX, "", MultiLabel(3))
    assert target.scores(LOGITS).tolist() == [1.0, 3.0]
    np.testing.assert_allclose(target.values(LOGITS), 1 / (1 + np.exp([-1.0, -3.0])), rtol=1e-6)


def test_the_predicted_label_is_the_most_probable_above_its_threshold():
    strict = MultiLabel(3, thresholds=(0.4, 0.95, 0.4))
    assert predicted_index(LOGITS[:1], "", strict).tolist() == [2]
    # Where none is above its threshold, the most probable of all.
    none = MultiLabel(3, thresholds=(1.0, 1.0, 1.0))
    assert predicted_index(LOGITS[:1], "", none).tolist() == [1]


def test_a_level_is_explained_by_the_logarithm_of_its_probability():
    objective, logits = Ordinal(3), jnp.array([[4.0, -2.0], [4.0, 2.0]])
    target = Target(jnp.array([1, 0]), "", objective)
    expected = np.asarray(objective.predictions(logits)["probabilities"])[[0, 1], [1, 0]]
    np.testing.assert_allclose(target.values(logits), expected, rtol=1e-6)
    np.testing.assert_allclose(target.scores(logits), np.log(expected), rtol=1e-6)
    assert predicted_index(logits, "", objective).tolist() == [1, 2]


def test_a_number_is_explained_as_the_output_and_read_in_its_unit():
    target = Target(jnp.zeros(2, int), "", Regression(mean=10.0, std=2.0))
    outputs = jnp.array([[0.5], [-1.0]])
    assert target.scores(outputs).tolist() == [0.5, -1.0]
    assert target.values(outputs).tolist() == [11.0, 8.0]


def test_a_task_that_the_network_lacks_is_refused():
    with pytest.raises(ValueError, match="tells kind, but the target's task is 'age'"):
        Target(INDEX, "age", SingleLabel(3)).scores({"kind": LOGITS})


def test_tasks_and_targets_are_found_by_name():
    kind, weight = Task("kind", ("cat", "dog")), Task("weight", ())
    assert find_task((kind, weight), None) is kind
    assert find_task((kind, weight), "weight") is weight
    assert [find_target(kind, each) for each in (None, "dog", 0)] == [None, 1, 0]
    with pytest.raises(ValueError, match="nothing of 'wait'; did you mean 'weight'"):
        find_task((kind, weight), "wait")
    with pytest.raises(ValueError, match="no class 'dogg'; did you mean 'dog'"):
        find_target(kind, "dogg")
    for place in (2, -1, True):
        with pytest.raises(ValueError, match="their places, 0 to 1"):
            find_target(kind, place)
    with pytest.raises(ValueError, match="'weight' is a number.*leave the target out"):
        find_target(weight, "heavy")


def test_methods_are_found_by_name_with_the_stage():
    assert resolve("grad_cam", None, STAGES) == (GradCAM("layer2"),)
    assert resolve(["grad_cam", "saliency"], "layer1", STAGES) == (GradCAM("layer1"), Saliency())
    assert resolve("attention", None, STAGES) == (Attention(""),)
    assert resolve(SmoothGrad(samples=2), None, STAGES) == (SmoothGrad(samples=2),)
    assert [cls.name for cls in METHODS.values()] == list(METHODS)


@pytest.mark.parametrize(
    ("methods", "stage", "message"),
    [
        ("gradcam", None, "unknown method 'gradcam'; did you mean 'grad_cam'"),
        ([], None, "at least one, and each once"),
        (["saliency", "saliency"], None, "at least one, and each once"),
        ("saliency", "layer1", "got the stage 'layer1' for saliency"),
        (GradCAM("layer2"), "layer1", "name their own"),
    ],
)
def test_methods_that_mean_nothing_are_refused(methods, stage, message):
    with pytest.raises(ValueError, match=message):
        resolve(methods, stage, STAGES)


def test_a_method_is_a_name_or_a_method():
    with pytest.raises(TypeError, match="a method is an int"):
        resolve([3], None, STAGES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothGrad(samples=0), "samples is 0"),
        (lambda: SmoothGrad(noise=1.5), "noise is 1.5"),
        (lambda: IntegratedGradients(steps=0), "steps is 0"),
        (lambda: Occlusion(window=4, stride=5), "pixels that no window hides"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
