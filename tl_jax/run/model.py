"""The network of a run: architecture, head, and modules of parameter-efficient tuning."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from tl_jax.config import Config
from tl_jax.heads.classifier import Classifier, WithBackbone
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.models.model import Model
from tl_jax.models.network import Network
from tl_jax.models.registry import architecture, create_model
from tl_jax.run import task_network
from tl_jax.run import tasks as run_tasks
from tl_jax.run.objective import head_of, num_outputs
from tl_jax.run.task_network import ExampleFacts
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adaptation, Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
"""Types of the computation by their names in `ModelConfig.dtype`."""


def build_model(
    config: Config,
    num_classes: int,
    *,
    pretrained_classes: int | None = None,
    network_fields: Mapping[str, Any] | None = None,
    examples: ExampleFacts | None = None,
) -> Model:
    """Returns the network of a run, with its head and the modules added to it.

    Args:
      config: the experiment.
      num_classes: the new classes.
      pretrained_classes: classes of the pretrained classifier, which transfer.classifier="fuse"
        keeps; None for as many as the weights published under the network's name have.
      network_fields: those of the pretrained weights' network that differ from the registry's
        (`WeightsRecord.network_fields`).
      examples: what the data say of tasks and inputs; None for `num_classes` classes of one image,
        of which each has one.

    Raises:
      ValueError: if options of the classifier or the head are not for these tasks.

    Examples:
      >>> from tl_jax.config import ModelConfig, TransferConfig
      >>> config = Config(ModelConfig("simple_cnn", head="cosine"))
      >>> build_model(config, 5).classifier
      'head'
    """
    create = functools.partial(_create, config, network_fields or {})
    network: Model
    if examples is not None and task_network.is_needed(config, examples):
        _check_start(config, "several tasks or inputs")
        network = task_network.build(
            config, examples, create=create, dtype=DTYPES[config.model.dtype]
        )
    else:
        if examples is not None:
            task_network.check_inputs(config.inputs, examples.inputs)
            config, num_classes = _of_one_task(config, examples)
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


def _of_one_task(config: Config, examples: ExampleFacts) -> tuple[Config, int]:
    """Returns the configuration with the options of its one task's head, and its outputs."""
    task, options = examples.tasks[0], run_tasks.task_options(config, examples.tasks)[0]
    if task.kind != "multi_class":
        _check_start(config, f"labels of the kind {task.kind!r}")
    dropout = config.model.head_dropout if options.dropout is None else options.dropout
    model = dataclasses.replace(
        config.model,
        head=head_of(config, options, task),
        hidden=options.hidden or config.model.hidden,
        head_dropout=dropout,
    )
    return dataclasses.replace(config, model=model), num_outputs(task)


def _check_start(config: Config, what: str) -> None:
    """Refuses a start of the classifier that needs one class for each image."""
    transfer = config.transfer
    if transfer.classifier != "replace" or transfer.head_init == "class_means":
        raise ValueError(
            f"transfer.classifier {transfer.classifier!r} and transfer.head_init "
            f"{transfer.head_init!r} are for a network of one image with one class each, and the "
            f"run has {what}; take 'replace' and 'zero' or 'small'"
        )


def stage_names(config: Config, model: Model) -> tuple[str, ...]:
    """Returns the dotted names of the modules that end the stages of a run's network."""
    network = model.model if isinstance(model, Adapted) else model
    prefix = "backbone." if isinstance(network, WithBackbone) else ""
    return tuple(f"{prefix}{stage}" for stage in architecture(config.model.name).stages)


def _create(config: Config, fields: Mapping[str, Any], **arguments: Any) -> Network:
    """Returns the network of the registry, with the fields of its weights' own network."""
    options = config.model
    network = create_model(
        options.name, drop_path_rate=options.drop_path, dtype=DTYPES[options.dtype], **arguments
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
            DTYPES[options.dtype],
        ),
    )
