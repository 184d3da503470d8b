"""The learning-rate finder of a run: its phases, proportions of rates, and the picture."""

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.config import GroupConfig
from tl_jax.run.lr_find import lr_find

pytestmark = pytest.mark.slow


@pytest.mark.draws
def test_the_curve_of_a_phase_is_drawn(tiny_config, tmp_path):
    groups = (GroupConfig("stage1", learning_rate=0.1),)
    config = change(tiny_config, "transfer", groups=groups)
    file = tmp_path / "rate.png"
    curve, group = lr_find(config, file, phase=2, low=1e-5, high=1.0, steps=12)
    assert group == "stage1"  # It has the highest rate.
    assert len(curve.rates) == len(curve.losses) <= 12
    np.testing.assert_allclose(curve.rates, np.geomspace(1e-5, 1, 12)[: len(curve.rates)])
    assert np.isfinite(curve.losses).all()
    assert file.stat().st_size > 5000


def test_phases_and_rates_that_do_not_exist_are_refused(tiny_config, tmp_path):
    with pytest.raises(ValueError, match=r"has 2 phase\(s\); got phase=3"):
        lr_find(tiny_config, tmp_path / "rate.png", phase=3)
    config = change(tiny_config, "optim", learning_rate=0.0)
    with pytest.raises(ValueError, match="all rates of the phase are 0"):
        lr_find(config, tmp_path / "rate.png")
