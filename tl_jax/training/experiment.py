"""Turns a configuration into the parts of a run: data, network, starting weights, phases."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from tl_jax import trees
from tl_jax.config import Config, ModelConfig, OptimConfig
from tl_jax.data.open import open_source
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.heads.classifier import Classifier
from tl_jax.models.registry import create_model
from tl_jax.training import optim
from tl_jax.transfer import freeze
from tl_jax.weights import pretrained
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.sources import WeightsRecord

RANDOM_WEIGHTS = "random"
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def open_split(config: Config, split: str) -> Source:
    """Opens one split of the configured data."""
    return open_source(
        config.data.source,
        split,
        data_dir=config.data.data_dir,
        seed=config.train.seed,
        validation_fraction=config.data.validation_fraction,
        on_corrupt=config.data.on_corrupt,
    )


def preprocess_of(config: Config) -> Preprocess:
    """Returns the evaluation transform: that of the weights, at the configured image size."""
    weights = pretrained_config(config.model.name)
    return Preprocess.of(weights, input_size=config.data.image_size)


def build_model(config: ModelConfig, num_classes: int) -> nn.Module:
    """Makes the network with its new head. `.classifier` names the head's module."""
    dtype = _DTYPES[config.dtype]
    if config.head == "linear":
        return create_model(
            config.name,
            num_classes=num_classes,
            drop_rate=config.head_dropout,
            drop_path_rate=config.drop_path,
            dtype=dtype,
        )
    backbone = create_model(
        config.name, num_classes=0, global_pool="", drop_path_rate=config.drop_path, dtype=dtype
    )
    return Classifier(backbone, num_classes, config.hidden, config.head_dropout, dtype)


def initial_variables(
    config: Config, model: nn.Module, size: tuple[int, int]
) -> tuple[dict[str, Any], WeightsRecord | None]:
    """Returns the variables that training starts from, and where their backbone came from.

    The head is fresh. With `weights="random"` all is, and there is no record.
    """
    image = jnp.zeros((1, *size, 3), jnp.float32)

    def fresh() -> dict[str, Any]:
        return model.init(jax.random.key(config.train.seed), image)

    if config.model.weights == RANDOM_WEIGHTS:
        return jax.jit(fresh)(), None
    nested = isinstance(model, Classifier)
    backbone = model.backbone if nested else model
    loaded, record = pretrained.load_weights(
        backbone, config.model.name, config.model.weights, fresh_head=True
    )
    if not nested:
        return loaded, record
    # Compiled for what it returns alone: no random numbers are drawn for the backbone.
    head = jax.jit(lambda: fresh()["params"]["head"])()
    stats = {"backbone": loaded["batch_stats"]} if "batch_stats" in loaded else {}
    params = {"backbone": loaded["params"], "head": head}
    return {"params": params, "batch_stats": stats}, record


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive epochs in which the same parameters are trained by the same optimizer.

    Attributes:
      name: what is trained: "head" or "all".
      first_epoch: epochs done before it.
      epochs: its length.
      plan: labels of `tl_jax.transfer.freeze.plan`.
      tx: optimizer of the trained parameters.
      rates: learning rate by label, as functions of the step within the phase.
    """

    name: str
    first_epoch: int
    epochs: int
    plan: Any
    tx: optax.GradientTransformation
    rates: dict[str, optax.Schedule]

    @property
    def last_epoch(self) -> int:
        """Epochs done at its end."""
        return self.first_epoch + self.epochs


def phases(config: Config, params: Any, head: str, steps_per_epoch: int) -> list[Phase]:
    """Returns the phases of a run: the head alone, then all layers; an empty one is left out."""
    lengths = {"head": config.train.head_epochs, "all": config.train.epochs}
    made, first_epoch = [], 0
    for name, epochs in lengths.items():
        if not epochs:
            continue
        plan = freeze.plan(params, [head], train_backbone=name == "all")
        rates = _rates(config.optim, epochs, steps_per_epoch)
        tx = optim.optimizer(
            config.optim.name,
            rates,
            plan,
            momentum=config.optim.momentum,
            weight_decay=config.optim.weight_decay,
            clip_norm=config.optim.clip_norm,
        )
        made.append(Phase(name, first_epoch, epochs, plan, tx, rates))
        first_epoch += epochs
    return made


def _rates(config: OptimConfig, epochs: int, steps_per_epoch: int) -> dict[str, optax.Schedule]:
    head = config.learning_rate if config.head_learning_rate is None else config.head_learning_rate
    peaks = {freeze.HEAD: head, freeze.BACKBONE: config.learning_rate}
    return {
        label: optim.schedule(
            config.schedule,
            peak,
            total_steps=epochs * steps_per_epoch,
            warmup_steps=round(config.warmup_epochs * steps_per_epoch),
            boundaries=[round(epoch * steps_per_epoch) for epoch in config.step_epochs],
            factor=config.step_factor,
        )
        for label, peak in peaks.items()
    }


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run beside its configuration, so that it can be used without its data.

    Attributes:
      class_names: in the order of the logits.
      preprocess: the evaluation transform.
      weights: where the backbone's weights came from, with their hash; None if random.
      parameters: number of parameters.
      examples: number of examples by split.
      skipped: corrupt images that were left out, by split.
      versions: of the libraries that decide the numbers.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    weights: WeightsRecord | None
    parameters: int
    examples: dict[str, int]
    skipped: dict[str, list[str]]
    versions: dict[str, str]

    def to_json(self) -> str:
        """Returns it as JSON: the inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunInfo":
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        values = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields["preprocess"].items()
        }
        weights = fields["weights"]
        return cls(
            **fields
            | {
                "class_names": tuple(fields["class_names"]),
                "preprocess": Preprocess(**values),
                "weights": None if weights is None else WeightsRecord(**weights),
            }
        )


def count_parameters(params: Any) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(leaf.size for leaf in trees.flatten(params).values())
