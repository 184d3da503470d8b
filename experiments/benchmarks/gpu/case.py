"""What a case is: its name, its arguments and how it may run."""

import dataclasses
import os
from typing import Any

TINY_NETWORKS = {
    "resnet50": "test_resnet",
    "efficientnet_b0": "test_efficientnet",
    "convnext_tiny": "test_convnext",
}
NETWORKS = tuple(TINY_NETWORKS)


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
      kind: decides the module that measures it.
      network: timm's name of the architecture; "" where there is none.
      mode: what is done with it, or another word that the kind takes.
      seconds: the most that it may take.
      shares: it may run beside others of its kind, because nothing is timed that they disturb.
      deterministic: its process has TL_JAX_DETERMINISTIC=1.
    """

    kind: str
    network: str = ""
    mode: str = ""
    seconds: int = 90
    shares: bool = False
    deterministic: bool = False

    @property
    def name(self) -> str:
        """The words of the case."""
        return " ".join(word for word in (self.kind, self.network, self.mode) if word)


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large the cases are, which depends on the device alone.

    Attributes:
      device: "gpu", or "cpu" to try the suite itself.
      tiny: networks and sizes that a laptop manages in seconds.
    """

    device: str
    tiny: bool

    def network(self, name: str) -> str:
        """Returns the architecture that stands for a network."""
        return TINY_NETWORKS[name] if self.tiny else name

    def setting(self, case: Case, batch_size: int = 256, mode: str = "") -> Any:
        """Returns the setting of a case's program."""
        # jax's modules read the environment when they are imported: not before `prepare`.
        from experiments.benchmarks.programs import Setting

        size = 64 if self.tiny else 224
        batch = min(batch_size, 4) if self.tiny else batch_size
        return Setting(self.device, self.network(case.network), mode or case.mode, batch, size)

    @property
    def warmups(self) -> int:
        """Steps before anything is timed."""
        return 1 if self.tiny else 10

    @property
    def steps(self) -> int:
        """Steps of a block."""
        return 1 if self.tiny else 20

    @property
    def blocks(self) -> int:
        """Blocks of each side."""
        return 2 if self.tiny else 5

    def torch_options(self) -> Any:
        """Returns how the peer runs; a tiny one is traced by `torch.compile` and not compiled."""
        from experiments.benchmarks.torch_sides import TorchOptions

        return TorchOptions("eager" if self.tiny else "inductor", fuse=True)

    def prepare(self) -> None:
        """Binds the libraries to the device; both share its memory, so neither reserves it."""
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        os.environ["JAX_PLATFORMS"] = "cuda" if self.device == "gpu" else "cpu"


def prepare_torch(scale: Scale) -> None:
    """Sets torch up as fast as tl_jax is by default: TF32 products, cuDNN's algorithms tried."""
    import torch

    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = scale.device == "gpu"
