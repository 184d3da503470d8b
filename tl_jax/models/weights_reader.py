"""Reads weights under timm's keys, with the preprocessing and classes that belong to them."""

import dataclasses
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tl_jax.models import registry
from tl_jax.models.architecture import Architecture
from tl_jax.models.network import Network
from tl_jax.models.variables import slots_of
from tl_jax.weights import aliases, classes, index, sources, tensors
from tl_jax.weights.checkpoint import USUAL, Reading
from tl_jax.weights.index import PretrainedConfig
from tl_jax.weights.sources import StateDict, WeightsError, WeightsRecord

Weights = str | os.PathLike[str] | None


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Weights of an architecture under timm's keys, with the facts that belong to them.

    Attributes:
      name: timm's `architecture` or `architecture.tag`.
      state_dict: the tensors as they were saved.
      record: the file that they come from.
      config: their preprocessing, the number of classes of their classifier (0 if they have none),
        and the class names where these are known.
      kind: whose weights they are; see `tl_jax.weights.sources.Kind`.
      is_backbone: whether they are stated to have no classifier.
      published_fields: in which fields the network that they were trained in may differ from that
        of the registry (`Network.published_fields`).
      assumes_names: whether the class names are those of the index's weights, because there are
        as many classes, and the file states no names.
    """

    name: str
    state_dict: StateDict
    record: WeightsRecord
    config: PretrainedConfig
    kind: sources.Kind
    is_backbone: bool = False
    assumes_names: bool = False
    published_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def config_of(name: str | os.PathLike[str], weights: Weights = None) -> PretrainedConfig:
    """Returns the preprocessing and classes that belong to weights, without reading their tensors.

    Someone's own weights (a repository or folder with config.json, a file that holds one) have
    their own; all others have those that were published under the name.

    Raises:
      WeightsError, ValueError: as `load_pretrained`.

    Examples:
      >>> config_of("resnet50").input_size
      (3, 224, 224)
    """
    known, weights = _as_weights(name, weights)
    if known is not None and weights in (None, "auto", "package", "hub"):
        return index.pretrained_config(known)
    return _found(known, weights).config


def resolve(name: str, weights: Weights = None) -> tuple[str, Weights]:
    """Returns architecture and source of weights; a repository or folder as name states the first.

    Raises:
      WeightsError, ValueError: as `load_pretrained`.

    Examples:
      >>> resolve("resnet50", "mine.pth")
      ('resnet50', 'mine.pth')
    """
    known, source = _as_weights(name, weights)
    if known is not None:
        return name, weights
    return registry.architecture_name(_found(None, source).record.name), source


def is_name(name: str) -> bool:
    """Returns whether a name is of a network that is here, and not of weights somewhere."""
    return registry.architecture_name(name) in registry.ARCHITECTURES


def is_checkpoint_folder(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder has a config.json of timm's form, which names an architecture."""
    return sources.is_checkpoint_folder(os.fspath(folder))


def read(
    name: str | os.PathLike[str],
    weights: Weights = None,
    reading: Reading = USUAL,
    *,
    beside: Network | None = None,
) -> Pretrained:
    """Reads weights under timm's keys, with the facts that belong to them.

    Args:
      name: as in `load_pretrained`.
      weights: their source.
      reading: the entry and the keys that are taken from a checkpoint.
      beside: a network that is traced while the file is read, because it is filled next.

    Raises:
      WeightsError: if they cannot be read, or are of another architecture.
    """
    known, weights = _as_weights(name, weights)
    if known is not None:
        registry.architecture(known)  # An unknown name is an error before anything is read.
    found = _found(known, weights)
    architecture = registry.architecture(found.record.name)
    with ThreadPoolExecutor(1) as thread:
        if beside is not None:
            thread.submit(slots_of, beside)
        contents, record = sources.read_file(found.record, reading)
    _check_architecture(record, contents.architecture)
    state_dict: StateDict = {}
    for key, value in contents.arrays.items():
        renamed = architecture.rename(key)
        if renamed in state_dict:
            raise WeightsError(
                f"{record.file} holds the same weights under timm's names and under others; remove "
                "one set"
            )
        state_dict[renamed] = value
    converted = tensors.conversions(state_dict)
    published = architecture.network.published_fields(contents.arrays.keys())
    theirs = {k: v for k, v in published.items() if v != getattr(architecture.network, k)}
    made = ", ".join(f"{field}={value!r}" for field, value in theirs.items())
    made = f"network with {made}" if made else ""
    details = ", ".join(part for part in (record.details, converted, made) if part)
    count = count_classes(state_dict, architecture.classifier)
    config = _with_classes(found, record, count, contents.class_names)
    config = _with_channels(found, record, config, _channels(architecture, state_dict, config))
    record = dataclasses.replace(record, details=details, num_classes=count, network_fields=theirs)
    return Pretrained(
        record.name, state_dict, record, config, found.kind,
        is_backbone=found.config.num_classes == 0,
        published_fields=published,
        assumes_names=found.kind == "file" and contents.class_names is None,
    )  # fmt: skip


def count_classes(state_dict: StateDict, classifier: str) -> int:
    """Returns the number of classes of a state dict's classifier; 0 if it has none."""
    weight = state_dict.get(f"{classifier}.weight")
    return 0 if weight is None or weight.ndim == 0 else weight.shape[0]


def _as_weights(name: str | os.PathLike[str], weights: Weights) -> tuple[str | None, Weights]:
    """Returns name and source; a name that is a repository or a folder is a source without name."""
    name = aliases.resolve(os.fspath(name)) if isinstance(name, os.PathLike) else name
    if is_name(name) or not (aliases.is_repository(name) or sources.is_folder(name)):
        return name, weights
    if weights not in (None, "auto", "hub"):
        raise WeightsError(
            f"{name!r} names weights, and weights={os.fspath(weights)!r} others; give one of them, "
            "or the name of the architecture with weights="
        )
    return None, name


def _found(name: str | None, weights: Weights) -> sources.Found:
    """Finds weights, and checks that they are of the architecture that was asked for."""
    found = sources.find(name, weights)
    if name is None:  # The weights decide; they may be of a network that is not here.
        try:
            registry.architecture(found.record.name)
        except ValueError as error:
            raise WeightsError(f"{weights}: {error}") from error
        return found
    _check_architecture(found.record, found.architecture)
    return found


def _check_architecture(record: WeightsRecord, stated: str | None) -> None:
    """Refuses weights that state another architecture than the one they are read for."""
    asked = registry.architecture_name(record.name)
    known = None if stated is None else registry.architecture_name(stated)
    if known is not None and known.lower() in registry.ARCHITECTURES:
        known = known.lower()
    if known is None or known == asked:
        return
    states = f"{record.file} states the architecture {stated}, not {asked}"
    if known in registry.ARCHITECTURES:
        raise WeightsError(
            f"{states}: the tensors may fit and give other numbers; load it under the name "
            f"{known!r}"
        )
    # Other names that are not known here (a class in lower case, torchvision's) say nothing.
    if aliases.is_elsewhere(known):
        raise WeightsError(f"{states}; timm has that network, and it is not here")


def _channels(
    architecture: Architecture, state_dict: StateDict, config: PretrainedConfig
) -> int | None:
    """Returns the channels of the images that a stem's kernel takes; None if that is not known."""
    kernel = state_dict.get(f"{architecture.stem}.weight")
    if kernel is None or kernel.ndim < 2 or kernel.shape[1] == config.input_size[0]:
        return None if kernel is None else config.input_size[0]
    # Some stems fold pixels into channels. A network is traced only for these, and for the others.
    slots = {slot.key: slot.torch_shape for slot in slots_of(architecture.network)}
    folds, rest = divmod(slots[f"{architecture.stem}.weight"][1], architecture.network.in_channels)
    return None if rest or kernel.shape[1] % folds else kernel.shape[1] // folds


def _with_channels(
    found: sources.Found, record: WeightsRecord, config: PretrainedConfig, channels: int | None
) -> PretrainedConfig:
    """Returns the facts of weights with the channels of the images that they are for."""
    if channels is None or channels == config.input_size[0]:
        return config
    if found.kind == "own":
        raise WeightsError(
            f"the first convolution in {record.file} takes images of {channels} channel"
            f"{'' if channels == 1 else 's'}, but its config.json states {config.input_size[0]}; "
            "correct input_size ([channels, height, width]) there"
        )
    mean, std = (sum(values) / len(values) for values in (config.mean, config.std))
    return dataclasses.replace(
        config,
        input_size=(channels, *config.input_size[1:]),
        mean=(mean,) * channels,
        std=(std,) * channels,
    )


def _with_classes(
    found: sources.Found, record: WeightsRecord, count: int, names: tuple[str, ...] | None
) -> PretrainedConfig:
    """Returns the facts of weights with the classes of their classifier."""
    config = found.config
    if found.kind == "own":
        if found.states_classes and count not in (0, config.num_classes):
            raise WeightsError(
                f"the classifier in {record.file} has {count} classes, but its config.json states "
                f"{config.num_classes}; correct num_classes and label_names there"
            )
        names = config.class_names or names
    elif names is None and count == config.num_classes:
        names = classes.class_names(config.name)
    if names is not None and len(names) != count:
        names = None
    return dataclasses.replace(config, num_classes=count, class_names=names)
