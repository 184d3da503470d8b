"""The section `parallel`: how a step is divided over devices, and what it keeps in memory."""

import dataclasses
from typing import Literal

from tl_jax.config import checks


@dataclasses.dataclass(frozen=True)
class ParallelConfig:
    """How a step is divided over devices, and what it keeps in memory.

    Batches are always divided over all devices.
    """

    fsdp: int = 1
    """Devices over which large parameters and their optimizer state are divided; it divides the
    number of devices. 1: every device has all of them. Results are the same up to rounding."""
    accumulate: int = 1
    """Slices that a batch is computed in, one after the other, to save memory: their gradients are
    averaged before the update. BatchNorm that updates its statistics sees those of a slice."""
    remat: Literal["none", "stages", "blocks"] = "none"
    """What the backward pass computes again in place of keeping it in memory: nothing; the inside
    of each stage of the backbone; or of each block. Results are the same up to rounding."""
    batch_norm: Literal["global", "device"] = "global"
    """Whether BatchNorm that updates its statistics sees the whole batch, or the part of each
    device alone, which needs no communication within the network."""
    gradient_sum: Literal["compute", "float32"] = "compute"
    """Type in which gradients are added up over the devices: that of `model.dtype` where the
    gradient of a kernel is computed, or float32. With "device" it is always float32."""

    def __post_init__(self) -> None:
        rules = {"fsdp": checks.at_least(1), "accumulate": checks.at_least(1)}
        checks.check("parallel", self, rules)
