"""The network of several tasks or inputs: its neck and heads, as the configuration and data say."""

import dataclasses
from collections.abc import Callable
from typing import Any

from tl_jax.config import Config, InputsConfig, TaskConfig
from tl_jax.data.source import ONE_IMAGE, Inputs, Task
from tl_jax.heads.encoders import (
    CategoricalEncoder,
    NumericEncoder,
    TokenEncoder,
    VectorEncoder,
)
from tl_jax.heads.neck import Neck
from tl_jax.heads.poolings import Pooling, PoolingName
from tl_jax.heads.task_network import HeadKind, TaskHead, TaskNetwork
from tl_jax.models.layers import Dtype
from tl_jax.models.network import Network
from tl_jax.run import tasks as run_tasks
from tl_jax.run.objective import head_of, loss_of, num_outputs


@dataclasses.dataclass(frozen=True)
class ExampleFacts:
    """What the data say of the examples, as far as a network's shape and constants follow from it.

    Attributes:
      tasks: what is learned, the main task first.
      inputs: what an example holds beside one image.
      numeric_mean: of each column of numbers over the training examples.
      numeric_std: standard deviation of each.
    """

    tasks: tuple[Task, ...]
    inputs: Inputs = ONE_IMAGE
    numeric_mean: tuple[float, ...] = ()
    numeric_std: tuple[float, ...] = ()


def is_needed(config: Config, facts: ExampleFacts) -> bool:
    """Returns whether a run needs more than a network of the registry, or a head on it."""
    chosen, usual = config.inputs, InputsConfig()
    is_usual = (chosen.scales, chosen.stages, chosen.pooling) == (
        usual.scales,
        usual.stages,
        usual.pooling,
    )
    (first, *others), options = facts.tasks, run_tasks.task_options(config, facts.tasks)
    has_shared_kernel = first.kind == "ordinal" and loss_of(config, options[0], first) == "coral"
    return bool(others) or has_shared_kernel or not (is_usual and facts.inputs.is_one_image)


def build(
    config: Config, facts: ExampleFacts, *, create: Callable[..., Network], dtype: Dtype
) -> TaskNetwork:
    """Returns the network of several tasks or inputs.

    Args:
      config: the experiment.
      facts: of its data.
      create: makes the backbone from the arguments of `create_model`.
      dtype: computation dtype of the heads' hidden layers.

    Raises:
      ValueError: if an option is for inputs that the data do not have, or for another head.
    """
    check_inputs(config.inputs, facts.inputs)
    chosen, options = config.inputs, run_tasks.task_options(config, facts.tasks)
    heads = tuple(
        _head(config, option, task, name=task.name if len(facts.tasks) > 1 else "", dtype=dtype)
        for option, task in zip(options, facts.tasks, strict=True)
    )
    # What a family has between its last map and its classifier is kept where nothing replaces it.
    keeps_top = chosen.pooling == "average" and not chosen.stages
    keeps_top = keeps_top and all(head.kind != "mlp" for head in heads)
    return TaskNetwork(
        create(num_classes=0, global_pool="avg" if keeps_top else ""),
        neck=_neck(chosen, facts),
        tasks=heads,
        stages=chosen.stages,
        scales=chosen.scales,
        views=facts.inputs.views,
        weighting=config.train.task_weighting,
    )


def _head(config: Config, options: TaskConfig, task: Task, *, name: str, dtype: Dtype) -> TaskHead:
    kind: HeadKind = head_of(config, options, task)
    loss = loss_of(config, options, task)
    if loss == "coral":
        if kind != "linear":
            raise ValueError(
                f"tasks.loss 'coral' of {task.name!r} needs a linear head, whose levels share one "
                f"weight vector; got {kind!r}: take 'corn'"
            )
        kind = "coral"
    dropout = config.model.head_dropout if options.dropout is None else options.dropout
    return TaskHead(
        name,
        num_outputs(task),
        kind,
        options.hidden or config.model.hidden,
        dropout,
        "small" if config.transfer.head_init == "small" else "zero",
        dtype,
    )


def _neck(chosen: InputsConfig, facts: ExampleFacts) -> Neck:
    def pooling(name: PoolingName) -> Pooling:
        width = chosen.recurrent_width if name == "gru" else 0
        return Pooling(name, chosen.attention_heads, width)

    inputs, encoders = facts.inputs, dict[str, Any]()
    if inputs.numeric:
        encoders["numeric"] = NumericEncoder(facts.numeric_mean, facts.numeric_std, (chosen.width,))
    if inputs.categorical:
        sizes = tuple(len(each.values) for each in inputs.categorical)
        encoders["categorical"] = CategoricalEncoder(sizes, chosen.category_width)
    if inputs.max_tokens:
        encoders["tokens"] = TokenEncoder(
            len(inputs.vocabulary), inputs.max_tokens, chosen.width, chosen.width
        )
    if inputs.vector:
        encoders["vector"] = VectorEncoder(inputs.vector, chosen.width)
    return Neck(
        pooling(chosen.pooling),
        pooling(chosen.scale_fusion),
        pooling(chosen.view_fusion),
        join=chosen.join,
        modality_dropout=chosen.modality_dropout,
        **encoders,
    )


def check_inputs(chosen: InputsConfig, inputs: Inputs) -> None:
    """Refuses options that would have no effect on these inputs.

    Raises:
      ValueError: if there is one.
    """
    usual = InputsConfig()
    for needed, has, fields in (
        ("views", bool(inputs.views), ("view_fusion",)),
        ("two scales or more (inputs.scales)", len(chosen.scales) > 1, ("scale_fusion",)),
        ("columns beside the image", bool(inputs.keys), ("join", "modality_dropout")),
    ):
        values, defaults = vars(chosen), vars(usual)
        changed = [field for field in fields if values[field] != defaults[field]]
        if changed and not has:
            raise ValueError(
                f"inputs.{changed[0]} {values[changed[0]]!r} is for examples with {needed}, of "
                "which there are none; leave it out"
            )
