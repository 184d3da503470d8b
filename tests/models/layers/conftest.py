"""Fixtures of the tests of layers: convolutions without oneDNN and with it."""

from collections.abc import Iterator

import pytest

from tests.support.onednn import loaded
from tl_jax import onednn


@pytest.fixture(params=["off", "on"])
def without_and_with_onednn(request) -> Iterator[None]:
    """Runs a test twice; the second time is skipped where oneDNN is not installed."""
    if request.param == "on":
        loaded()
    with onednn.switched(request.param):
        yield
