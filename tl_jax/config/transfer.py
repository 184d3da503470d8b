"""The section `transfer`: what is trained, how it starts, and what is added to the network."""

import dataclasses
from typing import Literal

from tl_jax.config import checks

BatchNormMode = Literal["update", "affine_only", "frozen", "recalibrate"]


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """Consecutive epochs in which the same parameters are trained in the same way."""

    epochs: int = 5
    """Number of epochs."""
    trained: str = "all"
    """What is trained; see `transfer.trained`."""
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    """None: `optim.name`."""
    learning_rate: float | None = None
    """None: `optim.learning_rate`."""
    head_learning_rate: float | None = None
    """None: the phase's own `learning_rate` if it has one, or else `optim.head_learning_rate`."""
    warmup_epochs: float | None = None
    """None: `optim.warmup_epochs`."""

    def __post_init__(self) -> None:
        rules = {
            "epochs": checks.at_least(1),
            "learning_rate": checks.at_least(0),
            "head_learning_rate": checks.at_least(0),
            "warmup_epochs": checks.at_least(0),
        }
        checks.check("transfer.phases", self, rules)


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """A group of parameters with its own learning rate, weight decay or BatchNorm mode."""

    name: str = ""
    """"stage0" (the stem and the first stage's output), "stage1" and so on, "head"; or a new
    name for the parameters that `patterns` match."""
    patterns: tuple[str, ...] = ()
    """Shell wildcards on dotted names ("layer4.*.bn*"), for a new group."""
    learning_rate: float | None = None
    """Peak rate; None: that of its stage, or `optim.learning_rate` for a new group."""
    weight_decay: float | None = None
    """None: `optim.weight_decay`."""
    batch_norm: BatchNormMode | None = None
    """None: `transfer.batch_norm`."""

    def __post_init__(self) -> None:
        rules = {
            "learning_rate": checks.at_least(0),
            "weight_decay": checks.at_least(0),
        }
        checks.check("transfer.groups", self, rules)


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """What is trained, how it starts, and what is added to it."""

    classifier: Literal["replace", "load", "fuse"] = "replace"
    """"replace": a new head. "load": the pretrained classifier's rows are carried over for the
    classes that have the same name or that `class_mapping` names. "fuse": the pretrained
    classifier stays, and a new head takes its logits beside the features."""
    class_mapping: tuple[str, ...] = ()
    """For "load" and "fuse": "new class=source class", by name or index, several sources with
    "|" between them; empty: by name."""
    head_init: Literal["zero", "small", "class_means"] = "zero"
    """Initial values of a new linear or cosine head, or of the "mlp" head's last layer ("zero" and
    "small" only): zero, normal with standard deviation 0.01, or the mean features of each
    class."""
    trained: str = "all"
    """What `train.epochs` train: "all", "head", "last:N" (the last N stages), "batch_norm",
    "norms", "biases", "added" (what `adaptation` adds), a group's name or a pattern on dotted
    names; several with "+" between them ("head+biases")."""
    phases: tuple[PhaseConfig, ...] = ()
    """The phases of training, in place of `train.head_epochs` and `train.epochs`. On the command
    line a word each: epochs=2,trained=head epochs=8,learning_rate=1e-4."""
    groups: tuple[GroupConfig, ...] = ()
    """Groups with their own learning rates, weight decay or BatchNorm mode. On the command line a
    word each: name=stem,patterns=conv1|bn1,learning_rate=1e-5."""
    batch_norm: BatchNormMode | Literal["auto"] = "auto"
    """BatchNorm of trained layers; that of frozen layers never changes. "update": normalise by
    the batch and update the running statistics. "affine_only": normalise by the running
    statistics as they are; train scale and bias. "frozen": nothing changes. "recalibrate":
    as "affine_only", with the statistics of all layers estimated anew from the training
    images. "auto": "affine_only" with pretrained weights, "update" with random ones; the first
    lines of a run say it."""
    recalibrate: Literal["before", "after"] = "before"
    """When "recalibrate" estimates statistics: once before training, which then uses them; or
    before each evaluation. "after" is for networks that hardly change: what was trained with the
    pretrained statistics fails with others (`docs/strategies.md`)."""
    adaptation: Literal["none", "lora", "ssf", "adapters"] = "none"
    """Parameters that are added to the network: low-rank kernels (LoRA, arXiv:2106.09685), scales
    and shifts (SSF, arXiv:2210.08823), or small residual branches behind each stage. Train them
    with `trained="head+added"`."""
    lora_rank: int = 8
    """Rank of LoRA."""
    lora_alpha: float = 8.0
    """LoRA's products are scaled by `lora_alpha / lora_rank`."""
    targets: tuple[str, ...] = ()
    """Patterns on the dotted names of the modules that are adapted; empty: all but the head (LoRA,
    SSF), the stages (adapters)."""
    adapter_reduction: int = 4
    """An adapter's inner width is its outer width divided by this."""

    def __post_init__(self) -> None:
        rules = {
            "lora_rank": checks.at_least(1),
            "lora_alpha": checks.POSITIVE,
            "adapter_reduction": checks.at_least(1),
        }
        checks.check("transfer", self, rules)
        names = [group.name for group in self.groups]
        if "" in names or len(set(names)) < len(names):
            raise ValueError(f"each of transfer.groups must have a name of its own; got {names}")
        if self.class_mapping and self.classifier == "replace":
            raise ValueError(
                "transfer.class_mapping needs transfer.classifier 'load' or 'fuse'; got 'replace'"
            )
