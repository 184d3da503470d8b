"""Tests of abstention: the curve by definition, thresholds for a coverage, ties."""

import json

import numpy as np
import pytest

from tl_jax.objectives import abstention

RNG = np.random.default_rng(0)
CONFIDENCE = RNG.uniform(size=60).round(1)  # With many ties.
ERRORS = RNG.uniform(size=60) > CONFIDENCE


def test_the_curve_is_that_by_definition():
    curve = abstention.risk_coverage(CONFIDENCE, ERRORS)
    assert curve.threshold.tolist() == sorted(set(CONFIDENCE.tolist()), reverse=True)
    for coverage, risk, threshold in zip(curve.coverage, curve.risk, curve.threshold, strict=True):
        made = threshold <= CONFIDENCE
        assert coverage == pytest.approx(made.mean())
        assert risk == pytest.approx(ERRORS[made].mean())
        found = abstention.measure(CONFIDENCE, ERRORS, threshold=threshold)
        assert found == pytest.approx({"coverage": coverage, "risk": risk})


def test_the_area_is_the_mean_risk():
    confidence, errors = np.arange(50)[::-1] / 50, RNG.uniform(size=50)
    expected = np.mean([errors[: k + 1].mean() for k in range(50)])
    assert abstention.risk_coverage(confidence, errors).area == pytest.approx(expected)


@pytest.mark.parametrize("coverage", [0.01, 0.3, 0.55, 0.9, 1.0])
def test_a_threshold_reaches_the_coverage_and_no_higher_one_does(coverage):
    found = abstention.threshold(CONFIDENCE, coverage=coverage)
    assert (found <= CONFIDENCE).mean() >= coverage
    assert (found < CONFIDENCE).mean() < coverage


def test_a_coverage_of_whole_examples_is_met_exactly():
    confidence = np.arange(100)
    for percent in range(1, 101):
        found = abstention.threshold(confidence, coverage=percent / 100)
        assert (confidence >= found).sum() == percent


def test_no_examples_have_an_empty_curve_and_no_threshold():
    curve = abstention.risk_coverage(np.zeros(0), np.zeros(0))
    assert curve.area is None and len(curve.coverage) == 0
    assert json.dumps(curve.as_json())
    nothing = abstention.measure(np.zeros(0), np.zeros(0), threshold=0.5)
    assert nothing == {"coverage": None, "risk": None}
    with pytest.raises(ValueError, match="got no examples"):
        abstention.threshold(np.zeros(0), coverage=0.5)
    with pytest.raises(ValueError, match=r"in \(0, 1\]"):
        abstention.threshold(CONFIDENCE, coverage=0.0)


def test_the_curve_is_cut_for_json_with_both_ends():
    curve = abstention.risk_coverage(RNG.permutation(500), np.ones(500))
    found = curve.as_json(points=11)
    assert len(found["risk"]) == 11
    assert (found["coverage"][0], found["coverage"][-1]) == (1 / 500, 1.0)
