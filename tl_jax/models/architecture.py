"""The registry's entry for one architecture, and how the family files are written.

A family file reads like its papers: docstring (papers, timm's file), blocks, network, table of
variants, registration. In every family the table is `NETWORKS` and maps timm's names to networks.
A Linen module is a frozen dataclass, so an entry is the network's class with the fields in which
the variant differs from the defaults, and a new variant is a new line:

    NETWORKS = {
        "vgg11": VGG(depths=(1, 1, 2, 2, 2)),
        "vgg11_bn": VGG(depths=(1, 1, 2, 2, 2), batch_norm=True),
    }

Fields that many entries share have a name (`EfficientNet(width=1.4, depth=1.8, **_TF)`); where a
paper derives the fields from parameters of its own, a function does (`_bit(50, 3)`). The
registration adds the names that weights and features are addressed by:

    ARCHITECTURES = {
        name: Architecture(network, stem="conv1", stages=("act1", "layer1"))
        for name, network in NETWORKS.items()
    }
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tl_jax.models.network import Network

# Fields of a network by name, shared by several entries of a table.
Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One architecture under timm's name, or torchvision's where timm does not have it.

    Attributes:
      network: the network; `network.clone(num_classes=10)` is the same with another classifier.
      stem: dotted name of the first convolution, such as `"conv1"`.
      stages: dotted names of the modules whose outputs are the stage features, shallow to deep.
    """

    network: Network
    stem: str
    stages: tuple[str, ...]

    @property
    def classifier(self) -> str:
        """Dotted name of the last layer, such as `"fc"`."""
        return self.network.classifier

    @property
    def rename(self) -> Callable[[str], str]:
        """Maps a key of a checkpoint published under other names to timm's; see `Network`."""
        return self.network.timm_key
