"""The network of a run: architecture, head, and modules of parameter-efficient tuning."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from tl_jax.config import Config
from tl_jax.heads.classifier import BackboneWithHead, Classifier
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models.model import Model
from tl_jax.models.network import Network
from tl_jax.models.registry import architecture, create_model
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adaptation, Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
    config: Config,
    num_classes: int,
    *,
    pretrained_classes: int | None = None,
    network_fields: Mapping[str, Any] | None = None,
) -> Model:
    """Returns the network of a run, with its head and the modules added to it.

    Args:
      config: the experiment.
      num_classes: the new classes.
      pretrained_classes: classes of the pretrained classifier, which transfer.classifier="fuse"
        keeps; None for as many as the weights published under the network's name have.
      network_fields: those of the pretrained weights' network that differ from the registry's
        (`WeightsRecord.network_fields`).

    Examples:
      >>> from tl_jax.config import ModelConfig, TransferConfig
      >>> config = Config(ModelConfig("simple_cnn", head="cosine"))
      >>> build_model(config, 5).classifier
      'head'
    """
    create = functools.partial(_create, config, network_fields or {})
    network = _build_network(config, num_classes, pretrained_classes, create)
    transfer = config.transfer
    adaptation: Adaptation
    if transfer.adaptation == "lora":
        adaptation = LoRA(
            rank=transfer.lora_rank, alpha=transfer.lora_alpha, targets=transfer.targets or ("*",)
        )
    elif transfer.adaptation == "ssf":
        adaptation = SSF(targets=transfer.targets or ("*",))
    elif transfer.adaptation == "adapters":
        adaptation = Adapters(
            at=transfer.targets or stage_names(config, network),
            reduction=transfer.adapter_reduction,
        )
    else:
        return network
    return Adapted(network, adaptation)


def stage_names(config: Config, model: Model) -> tuple[str, ...]:
    """Returns the dotted names of the modules that end the stages of a run's network."""
    network = model.model if isinstance(model, Adapted) else model
    prefix = "backbone." if isinstance(network, BackboneWithHead) else ""
    return tuple(f"{prefix}{stage}" for stage in architecture(config.model.name).stages)


def _create(config: Config, fields: Mapping[str, Any], **arguments: Any) -> Network:
    """Returns the network of the registry, with the fields of its weights' own network."""
    options = config.model
    network = create_model(
        options.name, drop_path_rate=options.drop_path, dtype=_DTYPES[options.dtype], **arguments
    )
    return network.clone(**fields)


def _build_network(
    config: Config,
    num_classes: int,
    pretrained_classes: int | None,
    create: Callable[..., Network],
) -> Model:
    options = config.model
    if config.transfer.classifier == "fuse":
        backbone = create(num_classes=pretrained_classes)
        return Fused(backbone, Fusion(Linear(num_classes, options.head_dropout)))
    if options.head == "linear":
        return create(num_classes=num_classes, drop_rate=options.head_dropout)
    backbone = create(num_classes=0, global_pool="" if options.head == "mlp" else "avg")
    if options.head == "cosine":
        return Classifier(backbone, Cosine(num_classes, options.head_dropout))
    return Classifier(
        backbone,
        MLP(
            num_classes,
            options.hidden,
            options.head_dropout,
            "small" if config.transfer.head_init == "small" else "zero",
            _DTYPES[options.dtype],
        ),
    )
