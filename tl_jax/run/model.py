"""What training starts from: the network with its head and additions, and its first variables."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import RANDOM_WEIGHTS, Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.heads.class_means import start_from_class_means
from tl_jax.heads.classifier import Classifier, OnBackbone
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import MLP, Cosine, Linear
from tl_jax.heads.initial import start_small
from tl_jax.models import pretrained
from tl_jax.models.registry import architecture, create_model
from tl_jax.probes import extract
from tl_jax.transfer import class_names as classes
from tl_jax.transfer.class_names import ClassMapping
from tl_jax.transfer.peft.adapters import Adapters
from tl_jax.transfer.peft.base import Adaptation, Adapted
from tl_jax.transfer.peft.lora import LoRA
from tl_jax.transfer.peft.ssf import SSF
from tl_jax.weights.classes import class_names
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.sources import WeightsRecord
from tl_jax.weights.state_dict import from_state_dict, to_state_dict

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Start:
    """The variables that training starts from, and where they came from.

    Attributes:
      variables: of the network.
      weights: the file that the backbone came from; None if it is random.
      mapping: the new classes from those of the pretrained classifier, where it is used.
    """

    variables: dict[str, Any]
    weights: WeightsRecord | None
    mapping: ClassMapping | None = None


def build_model(config: Config, num_classes: int) -> nn.Module | Adapted:
    """Makes the network with its head and what is added to it.

    `.classifier` names the head's module.
    """
    network = _network(config, num_classes)
    adaptation = _adaptation(config, network)
    return network if adaptation is None else Adapted(network, adaptation)


def stages(config: Config, model: nn.Module | Adapted) -> tuple[str, ...]:
    """Returns the dotted names of the modules that end the stages of a run's network."""
    network = model.model if isinstance(model, Adapted) else model
    prefix = "backbone." if isinstance(network, OnBackbone) else ""
    return tuple(f"{prefix}{stage}" for stage in architecture(config.model.name).stages)


def _network(config: Config, num_classes: int) -> nn.Module:
    options, dtype = config.model, _DTYPES[config.model.dtype]
    if config.transfer.classifier == "fuse":
        backbone = create_model(options.name, drop_path_rate=options.drop_path, dtype=dtype)
        return Fused(backbone, Fusion(Linear(num_classes, options.head_dropout)))
    if options.head == "linear":
        return create_model(
            options.name,
            num_classes=num_classes,
            drop_rate=options.head_dropout,
            drop_path_rate=options.drop_path,
            dtype=dtype,
        )
    backbone = create_model(
        options.name,
        num_classes=0,
        global_pool="" if options.head == "mlp" else "avg",
        drop_path_rate=options.drop_path,
        dtype=dtype,
    )
    if options.head == "cosine":
        return Classifier(backbone, Cosine(num_classes, options.head_dropout))
    start = "small" if config.transfer.head_init == "small" else "zero"
    head = MLP(num_classes, options.hidden, options.head_dropout, start, dtype)
    return Classifier(backbone, head)


def _adaptation(config: Config, network: nn.Module) -> Adaptation | None:
    transfer = config.transfer
    if transfer.adaptation == "lora":
        targets = transfer.targets or ("*",)
        return LoRA(rank=transfer.lora_rank, alpha=transfer.lora_alpha, targets=targets)
    if transfer.adaptation == "ssf":
        return SSF(targets=transfer.targets or ("*",))
    if transfer.adaptation == "adapters":
        at = transfer.targets or stages(config, network)
        return Adapters(at=at, reduction=transfer.adapter_reduction)
    return None


def begin(
    config: Config,
    model: nn.Module | Adapted,
    train: Source,
    preprocess: Preprocess,
    mesh: Mesh,
) -> Start:
    """Returns what training starts from.

    Args:
      config: the experiment.
      model: the network of `build_model`.
      train: the training split, for its class names, and its features where the head starts from
        their means.
      preprocess: the evaluation transform.
      mesh: devices.

    Raises:
      WeightsError, StateDictError: if the weights cannot be had, or do not fit.
      ValueError: if the classes cannot be mapped, or one has no example.
    """
    network = model.model if isinstance(model, Adapted) else model
    key = jax.random.key(config.train.seed)
    if config.model.weights == RANDOM_WEIGHTS:
        image = jnp.zeros((1, *preprocess.size, 3), jnp.float32)
        start = Start(jax.jit(network.init)(key, image), None)
    else:
        start = _pretrained(config, network, key, train.class_names, preprocess.size)
    if config.transfer.head_init == "small" and config.model.head == "linear":
        params = start_small(key, start.variables["params"], network.classifier)
        start = _with_params(start, params)
    if config.transfer.head_init == "class_means":
        start = _with_params(start, _from_means(config, network, start, train, preprocess, mesh))
    if isinstance(model, Adapted):
        start = dataclasses.replace(start, variables=model.add_to(key, start.variables))
    return start


def _pretrained(
    config: Config,
    network: nn.Module,
    key: jax.Array,
    new_names: Sequence[str],
    size: tuple[int, int],
) -> Start:
    """Returns the start from pretrained weights, by the strategy of the classifier."""
    name, weights, strategy = config.model.name, config.model.weights, config.transfer.classifier
    if strategy == "replace" and not isinstance(network, OnBackbone):
        return Start(*pretrained.load_weights(network, name, weights, fresh_head=True))
    if strategy == "load":
        source, record = pretrained.load_weights(
            create_model(name, dtype=network.dtype), name, weights, keep_head=True
        )
        mapping = _mapping(config, new_names)
        fresh = from_state_dict(network, to_state_dict(source), except_head=True)
        params = classes.carry_classifier(
            source["params"], network.classifier, mapping, like=fresh["params"]
        )
        return Start({**fresh, "params": params}, record, mapping)
    loaded, record = pretrained.load_weights(
        network.backbone, name, weights, keep_head=strategy == "fuse"
    )
    image = jnp.zeros((1, *size, 3), jnp.float32)
    # Compiled for what it returns alone: no random numbers are drawn for the backbone.
    head = jax.jit(lambda: network.init(key, image)["params"]["head"])()
    stats = {"backbone": loaded["batch_stats"]} if "batch_stats" in loaded else {}
    params = {"backbone": loaded["params"], "head": head}
    mapping = None
    if strategy == "fuse" and (config.transfer.class_mapping or class_names(name) is not None):
        mapping = _mapping(config, new_names)
        params = classes.start_mix(params, mapping)
    return Start({"params": params, "batch_stats": stats}, record, mapping)


def _mapping(config: Config, new_names: Sequence[str]) -> ClassMapping:
    """Returns the new classes from those of the pretrained classifier, as given or by name."""
    name = config.model.name
    known = class_names(name)
    count = pretrained_config(name).num_classes
    given = _given(config.transfer.class_mapping)
    if known is None and not given:
        raise ValueError(
            f"the names of the {count} classes of {name} are not known here; map the new classes "
            "by index (transfer.class_mapping), or take transfer.classifier='replace'"
        )
    names = known or [f"class {i}" for i in range(count)]
    return classes.match_classes(new_names, names, given)


def _given(entries: Sequence[str]) -> dict[str, list[int | str]]:
    """Reads "new class=source|source"; a source is an index or a name."""
    given: dict[str, list[int | str]] = {}
    for entry in entries:
        new, equals, sources = entry.partition("=")
        if not equals:
            raise ValueError(f"transfer.class_mapping has {entry!r}; expected 'new class=source'")
        parts = [part.strip() for part in sources.split("|") if part.strip()]
        given[new.strip()] = [int(part) if part.isdigit() else part for part in parts]
    return given


def _with_params(start: Start, params: dict[str, Any]) -> Start:
    return dataclasses.replace(start, variables={**start.variables, "params": params})


def _from_means(
    config: Config,
    network: nn.Module,
    start: Start,
    train: Source,
    preprocess: Preprocess,
    mesh: Mesh,
) -> dict[str, Any]:
    """Returns parameters whose head starts from the means of each class's training features."""
    params, stats = start.variables["params"], start.variables.get("batch_stats", {})
    if isinstance(network, OnBackbone):
        headless, layer = network.clone(head=None), f"{network.classifier}.fc"
    else:
        headless, layer = network.clone(num_classes=0), network.classifier
    if trees.layer_leaves(params, layer)["kernel"].ndim != 2:
        raise ValueError(
            f"the classifier {layer} of {config.model.name} is a convolution, which cannot start "
            "from class means; take transfer.head_init='zero'"
        )
    found = extract.extract(
        headless,
        {"params": params, "batch_stats": stats},
        train,
        preprocess=preprocess,
        mesh=mesh,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        worker_type=config.data.worker_type,
    )
    return start_from_class_means(
        params, layer, np.asarray(found.features[0]), found.labels, class_names=train.class_names
    )
