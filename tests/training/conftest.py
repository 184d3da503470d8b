"""What tests of training share: the results of a process of four devices."""

from pathlib import Path

import pytest

from tests.support import devices


@pytest.fixture(scope="session")
def on_four(tmp_path_factory) -> Path:
    """The folder that `devices.train` left on four CPU devices."""
    folder = tmp_path_factory.mktemp("four")
    devices.run_on_devices(devices.train, folder)
    return folder
