"""A tiny network of several tasks, views, scales, stages and modalities, and inputs for it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.every_layer import BatchNormBlock
from tests.support.runs import save_random
from tl_jax.heads.encoders import (
    CategoricalEncoder,
    NumericEncoder,
    TokenEncoder,
    VectorEncoder,
)
from tl_jax.heads.neck import Neck
from tl_jax.heads.poolings import Pooling
from tl_jax.heads.task_network import TaskHead, TaskNetwork
from tl_jax.models import layers, registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

SIDE, VIEWS, BATCH = 8, 3, 4

ENCODERS: dict[str, Any] = {
    "numeric": NumericEncoder((0.0, 1.0), (1.0, 0.0), (5,)),
    "categorical": CategoricalEncoder((3, 4), 2),
    "tokens": TokenEncoder(10, 6, width=4, embedding=3, pooling=Pooling("attention", heads=2)),
    "vector": VectorEncoder(9, 6),
}
TASKS = (
    TaskHead("kind", 3),
    TaskHead("cell type", 2, "mlp", (8,)),
    TaskHead("level", 3, "coral"),
    TaskHead("cosine", 2, "cosine"),
)


class TwoMaps(Network):
    """A stem and a residual block of 6 channels, each the end of a stage."""

    classifier: ClassVar[str] = "fc"

    def body(self, images: jax.Array, *, train: bool) -> jax.Array:
        """Returns the last feature map, [B, h, w, 6]."""
        x = layers.Conv(6, 3, 2, name="conv1")(images)
        x = layers.BatchNorm(name="bn1")(x, train=train)
        x = layers.Activation(layers.relu, name="act1")(x)
        return BatchNormBlock(self.drop_path_rate, name="layer1")(x, train=train)


STAGES = ("act1", "layer1")


# In the registry it replaces this network.
NAME = "resnet10t"


@contextlib.contextmanager
def in_registry() -> Iterator[None]:
    """Puts the tiny network into the registry under `NAME`; convolutions are XLA's own.

    Both make programs that compile in the shortest time.
    """
    known = {NAME: Architecture(TwoMaps(), stem="conv1", stages=STAGES)}
    with mock.patch.dict(registry.ARCHITECTURES, known), layers.convolution_form("general"):
        yield


def write_weights(path: Path) -> Path:
    """Writes random weights of the tiny network, with a classifier of 10 classes."""
    with in_registry():
        return save_random(registry.create_model(NAME, num_classes=10), path)


def backbone(**fields: Any) -> TwoMaps:
    """Returns the tiny network without its top."""
    return TwoMaps(**{"num_classes": 0, "global_pool": "", **fields})


def everything(**fields: Any) -> TaskNetwork:
    """Returns a network with all that there is; its gates weigh the modalities."""
    neck = Neck(
        Pooling("gem"), Pooling("gru"), Pooling("attention", heads=2), join="gated_sum", **ENCODERS
    )
    options = {
        "neck": neck,
        "tasks": TASKS,
        "stages": STAGES,
        "scales": (1.0, 0.5),
        "views": VIEWS,
        "weighting": "learned",
    }
    return TaskNetwork(backbone(), **{**options, **fields})


def inputs(seed: int = 0) -> dict[str, np.ndarray]:
    """Returns four examples; each lacks something, and the last all but its columns."""
    rng = np.random.default_rng(seed)
    vector = rng.normal(size=(BATCH, 9)).astype(np.float32)
    vector[3] = np.nan
    return {
        "image": rng.normal(size=(BATCH, VIEWS, SIDE, SIDE, 3)).astype(np.float32),
        "view_mask": np.array([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]], bool),
        "numeric": np.array([[1, np.nan], [np.nan, np.nan], [0, 1], [2, 3]], np.float32),
        "categorical": np.array([[0, -1], [2, 3], [-1, -1], [0, 0]], np.int32),
        "tokens": np.array([[2, 3, 1, 0, 0, 0], [0] * 6, [5] * 6, [0, 2, 0, 3, 0, 0]], np.int32),
        "vector": vector,
    }


def sum_of_outputs(outputs: dict[str, jnp.ndarray]) -> jnp.ndarray:
    """Returns a loss that depends on every output."""
    return sum(jnp.sum(jnp.sin(3 * y)) for y in outputs.values())
