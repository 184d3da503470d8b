"""The section `model`: the network, the weights it starts from, and its head."""

import dataclasses
from typing import Literal

from tl_jax.config import checks

RANDOM_WEIGHTS = "random"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network, the weights it starts from, and its new head."""

    name: str = "tf_efficientnet_lite0"
    """timm's name, `arch` or `arch.tag`; `python -m tl_jax models` lists them. A repository of the
    hub ("hf-hub:OWNER/REPO") or a folder, whose config.json states the architecture, is taken as
    `weights` too."""
    weights: str = "auto"
    """Where the pretrained weights come from: "auto" (an installed package, then the hub's
    cache, then the hub), "package", "hub", "hub@REVISION", "hub:OWNER/REPO@REVISION", a
    folder with config.json and weights, a .safetensors or .pth file, or "random" to train from
    scratch."""
    head: Literal["linear", "mlp", "cosine"] = "linear"
    """"linear": the network's own classifier, resized to the new classes. "mlp": global average
    pooling, dense layers and a classifier in place of the network's top. "cosine": the angle
    between the features and a vector for each class, times a learned scale."""
    hidden: tuple[int, ...] = (1024,)
    """Widths of the dense layers (each followed by a ReLU) of the "mlp" head."""
    head_dropout: float = 0.0
    """Dropout rate before the classifier."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone, in families that have it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, statistics, logits and losses stay float32. bfloat16 is
    for accelerators: on a CPU it is slower, but for some networks on processors that have
    instructions for it, with oneDNN."""
    checkpoint_key: str = ""
    """Entry of a training checkpoint that holds the weights, such as "state_dict" or "teacher";
    empty: averaged weights (EMA) where there are any."""
    prefix: str = ""
    """Prefix of the keys that are taken from the weights file, such as "backbone."; empty: all
    keys, without what torch's wrappers put before them."""
    ignore: tuple[str, ...] = ()
    """Shell patterns of keys in the weights file that are left out, such as "projector.*"."""

    def __post_init__(self) -> None:
        rules = {
            "hidden": checks.Rule(
                "be widths of 1 or more", lambda value: all(w > 0 for w in value)
            ),
            "head_dropout": checks.RATE,
            "drop_path": checks.RATE,
        }
        checks.check("model", self, rules)
