"""Means over views: predictions of the mean are the mean of the predictions, for every kind."""

import jax.numpy as jnp
import numpy as np
import pytest

from tl_jax.objectives.multi_label import MultiLabel
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.regression import Regression
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.training.view_average import average_outputs

RNG = np.random.default_rng(0)
OBJECTIVES = {
    "kind": SingleLabel(3),
    "tags": MultiLabel(3, label_key="tags"),
    "coral": Ordinal(4, "coral", "coral"),
    "corn": Ordinal(4, "corn", "corn"),
    "weight": Regression(label_key="weight", mean=5.0, std=2.0),
}
WIDTHS = {"kind": 3, "tags": 3, "coral": 3, "corn": 3, "weight": 1}
OUTPUTS = {
    # Those of CORAL descend: its levels have one weight vector.
    name: -np.sort(-RNG.normal(size=(5, 4, width)).astype(np.float32) * 3, axis=-1)
    for name, width in WIDTHS.items()
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_predictions_of_the_mean_are_the_mean_of_those_for_the_views(name):
    objective, outputs = OBJECTIVES[name], jnp.asarray(OUTPUTS[name])
    key = "predicted" if name == "weight" else "probabilities"
    found = objective.predictions(average_outputs(outputs, objective))[key]
    views = np.stack([objective.predictions(view)[key] for view in outputs])
    np.testing.assert_allclose(found, views.mean(0), rtol=1e-4, atol=1e-6)
    logits = average_outputs(outputs, objective, "logits")
    np.testing.assert_allclose(logits, OUTPUTS[name].mean(0), rtol=1e-5, atol=1e-6)


def test_conditional_answers_that_are_certain_stay_finite():
    outputs = jnp.full((2, 1, 3), 60.0).at[1].set(-60.0)
    found = average_outputs(outputs, Ordinal(4, "corn"))
    assert np.isfinite(found).all()
    probabilities = Ordinal(4, "corn").predictions(found)["probabilities"]
    np.testing.assert_allclose(probabilities, [[0.5, 0, 0, 0.5]], atol=1e-6)


def test_several_tasks_are_averaged_each_and_learned_weights_stay():
    objective = MultiTask(OBJECTIVES, learned_weights=True)
    outputs = {**OUTPUTS, "log_variances": np.tile(np.arange(5.0), (5, 1))}
    found = average_outputs({k: jnp.asarray(x) for k, x in outputs.items()}, objective)
    for name, task in OBJECTIVES.items():
        expected = average_outputs(jnp.asarray(OUTPUTS[name]), task)
        np.testing.assert_array_equal(found[name], expected)
    assert found["log_variances"].tolist() == [0, 1, 2, 3, 4]
