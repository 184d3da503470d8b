"""The section `optim`: the optimizer, its learning rates and their schedule."""

import dataclasses
from typing import Literal

from tl_jax.config import checks


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its learning rates and their schedule."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """SGD with momentum, Adam, or AdamW."""
    learning_rate: float = 3e-4
    """Peak learning rate of the backbone."""
    head_learning_rate: float | Literal["auto"] | None = "auto"
    """Peak learning rate of the head. "auto": three times `learning_rate`, or `learning_rate` with
    random weights; the first lines of a run say it. None: `learning_rate`."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of kernels (biases and normalisation are not decayed): decoupled for AdamW,
    added to the gradient for SGD and Adam."""
    layer_decay: float = 1.0
    """Factor on the rate from each stage to the one before it: the last stage has
    `learning_rate`, the one before it `learning_rate * layer_decay`, and so on to the stem."""
    l2_sp: float = 0.0
    """Pull of all but the head toward the weights that training starts from (L2-SP,
    arXiv:1802.01483), added to the gradient in place of `weight_decay`."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the rate falls within each phase after the warm-up."""
    warmup_epochs: float = 0.5
    """Epochs over which the rate rises linearly from zero, in each phase."""
    step_epochs: tuple[float, ...] = (30.0, 60.0, 80.0)
    """Epochs of a phase at which the "step" schedule multiplies the rate by `step_factor`."""
    step_factor: float = 0.1
    """Factor of the "step" schedule."""
    clip_norm: float | None = None
    """Largest global norm of the gradients of the trained parameters; None: no clipping."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": checks.at_least(0),
            "head_learning_rate": checks.Rule(
                "be 'auto' or at least 0", lambda value: value == "auto" or value >= 0
            ),
            "momentum": checks.RATE,
            "weight_decay": checks.at_least(0),
            "layer_decay": checks.Rule("be in (0, 1]", lambda value: 0 < value <= 1),
            "l2_sp": checks.at_least(0),
            "warmup_epochs": checks.at_least(0),
            "step_epochs": checks.Rule(
                "be epochs of 0 or more", lambda value: all(epoch >= 0 for epoch in value)
            ),
            "step_factor": checks.POSITIVE,
            "clip_norm": checks.POSITIVE,
        }
        checks.check("optim", self, rules)
