"""The variables that training starts from: random, pretrained, or carried over by class."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import RANDOM_WEIGHTS, Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.heads.class_means import init_from_class_means
from tl_jax.heads.classifier import BackboneWithHead, WithBackbone
from tl_jax.heads.initializers import init_small
from tl_jax.models import pretrained, weights_reader
from tl_jax.models.model import Model, abstract_inputs
from tl_jax.models.network import Network
from tl_jax.models.variables import from_state_dict
from tl_jax.models.weights_reader import Pretrained
from tl_jax.probes import extract
from tl_jax.run.data import load_options
from tl_jax.training.arrays import abstract
from tl_jax.transfer import carry_over
from tl_jax.transfer.class_names import ClassMapping, match_classes
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights.checkpoint import Reading
from tl_jax.weights.classes import class_names
from tl_jax.weights.index import PretrainedConfig, pretrained_config
from tl_jax.weights.sources import WeightsRecord
from tl_jax.weights.state_dict import to_state_dict


@dataclasses.dataclass
class Initial:
    """The variables that training starts from, and where they came from.

    Attributes:
      variables: of the network; abstract arrays after `release`.
      weights: the file that the backbone came from; None if it is random.
      mapping: from the pretrained classifier's classes to the new ones, where it is used.
      trained_with: the preprocessing and classes that the weights were trained with; None if they
        are random.
    """

    variables: dict[str, Any]
    weights: WeightsRecord | None
    mapping: ClassMapping | None = None
    trained_with: PretrainedConfig | None = None

    def release(self) -> None:
        """Frees the memory of the values, once training has a copy in its state; shapes stay."""
        self.variables = abstract(self.variables)


def with_architecture(config: Config) -> Config:
    """Returns a configuration whose `model.name` is an architecture.

    A repository of the hub or a folder in its place states its architecture, and becomes
    `model.weights`: a run must build its network without the weights.

    Raises:
      WeightsError, ValueError: if they cannot be found, or `model.weights` names others.
    """
    name, weights = weights_reader.resolve(config.model.name, config.model.weights)
    model = dataclasses.replace(config.model, name=name, weights=str(weights))
    return dataclasses.replace(config, model=model)


def read_weights(config: Config) -> Pretrained | None:
    """Reads the weights that a run starts from; None if they are random.

    Raises:
      WeightsError, ValueError: if they cannot be read, or are for other images than RGB.
    """
    options = config.model
    reading = Reading(options.checkpoint_key, options.prefix, options.ignore)
    if options.weights == RANDOM_WEIGHTS:
        if reading != Reading():
            raise ValueError(
                "model.weights is 'random', and model.checkpoint_key, prefix and ignore are for "
                "weights of a file: leave them out, or give the file"
            )
        return None
    return weights_reader.read(options.name, options.weights, reading)


def initial_variables(
    config: Config,
    model: Model,
    train: Source,
    preprocess: Preprocess,
    mesh: Mesh,
    *,
    weights: Pretrained | None,
) -> Initial:
    """Returns what training starts from.

    Args:
      config: the experiment.
      model: the network of `build_model`.
      train: the training split; its class names are used, and its images if the head starts from
        class means.
      preprocess: the evaluation transform.
      mesh: devices.
      weights: of `read_weights`; None for random ones.

    Raises:
      WeightsError, StateDictError: if the weights do not fit.
      ValueError: if the classes cannot be mapped, or a class has no example.
    """
    network = model.model if isinstance(model, Adapted) else model
    key = jax.random.key(config.train.seed)
    if weights is None:
        initial = Initial(jax.jit(network.init)(key, _zeros(network, preprocess.size)), None)
    else:
        initial = _pretrained(config, network, weights, key, train.class_names, preprocess.size)
        initial = dataclasses.replace(initial, trained_with=weights.config)
    variables = initial.variables
    # Other heads take it as an initializer.
    if config.transfer.head_init == "small" and not isinstance(network, WithBackbone):
        params = init_small(key, variables["params"], network.classifier)
        variables = {**variables, "params": params}
    elif config.transfer.head_init == "class_means":
        params = _from_class_means(config, network, variables, train, preprocess, mesh)
        variables = {**variables, "params": params}
    if isinstance(model, Adapted):
        variables = model.add_to(key, variables)
    return dataclasses.replace(initial, variables=variables)


def _pretrained(
    config: Config,
    network: Model,
    weights: Pretrained,
    key: jax.Array,
    new_names: Sequence[str],
    size: tuple[int, int],
) -> Initial:
    """Returns pretrained variables with the classifier that `transfer.classifier` asks for."""
    classifier = config.transfer.classifier
    backbone = network.backbone if isinstance(network, WithBackbone) else network
    if not isinstance(backbone, Network):
        raise TypeError(
            f"got a {type(backbone).__name__}; pretrained weights need a network of create_model"
        )
    if classifier == "load":
        _, source, record = pretrained.build(weights, in_channels=backbone.in_channels)
        mapping, record = _mapping_and_record(config, new_names, weights, record)
        fresh = from_state_dict(backbone, to_state_dict(source), except_head=True)
        params = carry_over.carry_classifier(
            source["params"], backbone.classifier, mapping, like=fresh["params"]
        )
        return Initial({**fresh, "params": params}, record, mapping)
    if backbone is network:
        return Initial(*pretrained.fill(backbone, weights, fresh_head=True))
    loaded, record = pretrained.fill(backbone, weights, keep_head=classifier == "fuse")
    zeros = _zeros(network, size)
    # Under jit only the random numbers of the new parts are drawn, and not the backbone's.
    new = jax.jit(lambda: _without_backbone(network.init(key, zeros)["params"]))()
    batch_stats = {"backbone": loaded["batch_stats"]} if "batch_stats" in loaded else {}
    params = {"backbone": loaded["params"], **new}
    if classifier == "fuse" and (config.transfer.class_mapping or weights.config.class_names):
        mapping, record = _mapping_and_record(config, new_names, weights, record)
        params = carry_over.init_mix(params, mapping)
        return Initial({"params": params, "batch_stats": batch_stats}, record, mapping)
    return Initial({"params": params, "batch_stats": batch_stats}, record)


def _zeros(network: Model, size: tuple[int, int]) -> Any:
    """Returns inputs of one example, all zero."""
    shapes = abstract_inputs(network, (1, *size, 3))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _without_backbone(params: trees.Tree) -> dict[str, Any]:
    return {name: leaves for name, leaves in params.items() if name != "backbone"}


def _mapping_and_record(
    config: Config, new_names: Sequence[str], weights: Pretrained, record: WeightsRecord
) -> tuple[ClassMapping, WeightsRecord]:
    """Returns the mapping of classes, and a record that says whose names were assumed."""
    mapping = class_mapping(config, new_names, weights.config)
    if not weights.assumes_names or weights.config.class_names is None:
        return mapping, record
    taken = f"its {record.num_classes} classes are taken for those of {weights.config.name}"
    details = "; ".join(part for part in (record.details, taken) if part)
    return mapping, dataclasses.replace(record, details=details)


def class_mapping(
    config: Config, new_names: Sequence[str], trained_with: PretrainedConfig | None = None
) -> ClassMapping:
    """Returns the pretrained classes of each new class: as configured, or by name.

    Args:
      config: the experiment.
      new_names: the new classes.
      trained_with: number and names of the pretrained classes; None for those of the weights that
        are published under the network's name.

    Raises:
      ValueError: if `transfer.class_mapping` cannot be read, or names a class that does not exist;
        or if it is empty and the names of the pretrained classes are not known.
    """
    name = config.model.name
    if trained_with is None:
        published = pretrained_config(name)
        trained_with = dataclasses.replace(published, class_names=class_names(published.name))
    known_names, num_classes = trained_with.class_names, trained_with.num_classes
    given: dict[str, list[int | str]] = {}
    for entry in config.transfer.class_mapping:
        new, equals, sources = entry.partition("=")
        if not equals:
            raise ValueError(f"transfer.class_mapping has {entry!r}; expected 'new class=source'")
        stripped = [source.strip() for source in sources.split("|") if source.strip()]
        given[new.strip()] = [int(each) if each.isdigit() else each for each in stripped]
    if known_names is None and not given:
        raise ValueError(
            f"the names of the {num_classes} classes of {name} are not known here; map the new "
            "classes by index (transfer.class_mapping), state label_names in a config.json beside "
            "the weights, or take transfer.classifier='replace'"
        )
    source_names = known_names or [f"class {i}" for i in range(num_classes)]
    return match_classes(new_names, source_names, given)


def _from_class_means(
    config: Config,
    network: Model,
    variables: trees.Tree,
    train: Source,
    preprocess: Preprocess,
    mesh: Mesh,
) -> dict[str, Any]:
    """Returns parameters whose head classifies by the means of each class's training features."""
    params = variables["params"]
    layer = network.classifier
    if isinstance(network, BackboneWithHead):
        layer = f"{layer}.fc"
    if trees.layer_leaves(params, layer)["kernel"].ndim != 2:
        raise ValueError(
            f"the classifier {layer} of {config.model.name} is a convolution, which cannot start "
            "from class means; take transfer.head_init='zero'"
        )
    extracted = extract.extract(
        extract.headless(network),
        {"params": params, "batch_stats": variables.get("batch_stats", {})},
        train,
        preprocess=preprocess,
        mesh=mesh,
        load_options=load_options(config.data),
    )
    return init_from_class_means(
        params,
        layer,
        np.asarray(extracted.features[0]),
        extracted.labels,
        class_names=train.class_names,
    )
