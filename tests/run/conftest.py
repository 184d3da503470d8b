"""A table of objects, and the tiny network that runs of several tasks and inputs are made of."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import objects, task_networks


@pytest.fixture
def tiny_backbone() -> Iterator[None]:
    with task_networks.in_registry():
        yield


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    return objects.write(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    return task_networks.write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")
