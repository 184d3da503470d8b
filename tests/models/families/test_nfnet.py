"""What only the networks without normalisation have: the expected deviations of their blocks."""

import pytest

from tests.support.families import PAIRS
from tl_jax.models.families import nfnet


@pytest.mark.parametrize("depths", [(1, 3, 2, 4), (2, 1, 1, 3)])
def test_expected_deviations_are_timms(depths):
    peer = PAIRS["nf_regnet"].peer(depths=depths, channels=(16, 24, 32, 40))
    expected = [[block.beta for block in stage] for stage in peer.stages]
    assert [list(stage) for stage in nfnet.expected_betas(depths)] == [
        pytest.approx(stage) for stage in expected
    ]
