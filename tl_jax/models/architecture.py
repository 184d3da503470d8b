"""What the registry knows of one architecture."""

import dataclasses
from collections.abc import Callable

from flax import linen as nn


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One architecture under timm's name (torchvision's, for those that timm has not).

    Attributes:
      build: makes the network; called with the keywords `num_classes`, `in_channels`,
        `global_pool`, `drop_rate`, `drop_path_rate` and `dtype`.
      classifier: dotted name of the last dense layer, such as `"fc"`.
      stem: dotted name of the first convolution, such as `"conv1"`.
      stages: dotted names of the modules whose outputs are the stage features, shallow to deep.
      rename: maps a key of a checkpoint published under other names to timm's key, and leaves
        every other key as it is.
    """

    build: Callable[..., nn.Module]
    classifier: str
    stem: str
    stages: tuple[str, ...]
    rename: Callable[[str], str] | None = None
