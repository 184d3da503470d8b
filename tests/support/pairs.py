"""A tiny network of a family and its peer in torch, and how to import their files."""

import dataclasses
import importlib
from collections.abc import Callable
from types import ModuleType

import torch

from experiments.torch_peer import import_timm
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network

timm = import_timm()
CLASSES = 5


def timm_file(name: str) -> ModuleType:
    """Imports a file of timm's; `timm.models.vgg` may be a function of that name."""
    return importlib.import_module(f"timm.models.{name}")


def torchvision_file(name: str) -> ModuleType:
    """Imports a file of torchvision's models; `import_timm` above has made that possible."""
    return importlib.import_module(f"torchvision.models.{name}")


@dataclasses.dataclass(frozen=True)
class Pair:
    """A tiny network and its peer.

    Attributes:
      family: name of the file.
      architecture: the network, with `CLASSES` classes, and its names.
      peer: makes the same network in torch; takes `drop_path_rate` if the network has drop paths.
      size: height and width of the images, odd in one direction where the network takes that.
      drops: whether a block of the peer calls its drop path; blocks without a shortcut may have one
        that they never call.
    """

    family: str
    architecture: Architecture
    peer: Callable[..., torch.nn.Module]
    size: tuple[int, int] = (33, 60)
    drops: Callable[[torch.nn.Module], bool] = lambda block: True

    @property
    def network(self) -> Network:
        """The network."""
        return self.architecture.network


def numbered(pattern: str, count: int, start: int = 0) -> tuple[str, ...]:
    """Returns the names that a pattern gives with consecutive numbers."""
    return tuple(pattern.format(i) for i in range(start, start + count))
