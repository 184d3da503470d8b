"""The registry: architectures by name, and networks from their names."""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping

import jax.numpy as jnp

from tl_jax import arguments
from tl_jax.models.architecture import Architecture
from tl_jax.models.families import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    hardcorenas,
    inception_resnet_v2,
    inception_v3,
    inception_v4,
    mobilenetv3,
    nfnet,
    regnet,
    resnet,
    resnetv2,
    shufflenetv2,
    simple_cnn,
    squeezenet,
    vgg,
    xception,
)
from tl_jax.models.layers import Dtype
from tl_jax.models.network import Network
from tl_jax.weights import aliases, index


@dataclasses.dataclass(frozen=True)
class Family:
    """The architectures of one file.

    Attributes:
      architectures: by name.
      papers: arXiv numbers of the papers that describe them.
    """

    architectures: Mapping[str, Architecture]
    papers: tuple[str, ...]


FAMILIES: dict[str, Family] = {
    "resnet": Family(resnet.ARCHITECTURES, ("1512.03385",)),
    "resnetv2": Family(resnetv2.ARCHITECTURES, ("1603.05027", "1912.11370")),
    "regnet": Family(regnet.ARCHITECTURES, ("2003.13678",)),
    "efficientnet": Family(efficientnet.ARCHITECTURES, ("1905.11946", "2104.00298")),
    "mobilenetv3": Family(mobilenetv3.ARCHITECTURES, ("1905.02244", "2404.10518")),
    "hardcorenas": Family(hardcorenas.ARCHITECTURES, ("2102.11646",)),
    "convnext": Family(convnext.ARCHITECTURES, ("2201.03545", "2301.00808")),
    "vgg": Family(vgg.ARCHITECTURES, ("1409.1556",)),
    "densenet": Family(densenet.ARCHITECTURES, ("1608.06993",)),
    "inception_v3": Family(inception_v3.ARCHITECTURES, ("1512.00567",)),
    "inception_v4": Family(inception_v4.ARCHITECTURES, ("1602.07261",)),
    "inception_resnet_v2": Family(inception_resnet_v2.ARCHITECTURES, ("1602.07261",)),
    "xception": Family(xception.ARCHITECTURES, ("1610.02357",)),
    "nfnet": Family(nfnet.ARCHITECTURES, ("2102.06171", "2101.08692")),
    "alexnet": Family(alexnet.ARCHITECTURES, ("1404.5997",)),
    "googlenet": Family(googlenet.ARCHITECTURES, ("1409.4842",)),
    "squeezenet": Family(squeezenet.ARCHITECTURES, ("1602.07360",)),
    "shufflenetv2": Family(shufflenetv2.ARCHITECTURES, ("1807.11164",)),
    "simple_cnn": Family(simple_cnn.ARCHITECTURES, ()),
}

ARCHITECTURES: dict[str, Architecture] = {
    name: about for family in FAMILIES.values() for name, about in family.architectures.items()
}
_FAMILY_OF = {name: family for family, about in FAMILIES.items() for name in about.architectures}


def architecture_name(name: str) -> str:
    """Returns the `arch` of `arch.tag`, also for timm's former names and its hub names.

    >>> architecture_name("resnet50.a1_in1k"), architecture_name("tf_efficientnet_b0_ns")
    ('resnet50', 'tf_efficientnet_b0')
    """
    return aliases.resolve(name).partition(".")[0]


def family_of(arch: str) -> str:
    """Returns the name of an architecture's family.

    Raises:
      KeyError: if there is no such architecture.
    """
    return _FAMILY_OF[arch]


def architecture(name: str) -> Architecture:
    """Returns an architecture by its name.

    Args:
      name: timm's `arch` or `arch.tag`, a name that timm used for it before, or `timm/NAME`; the
        tag names weights only and is ignored.

    Raises:
      TypeError: if the name is not text.
      ValueError: if there is no such architecture; it names the one that is meant, if there is one.

    Examples:
      >>> architecture("resnet50.a1_in1k").classifier
      'fc'
    """
    arch = architecture_name(name)
    if arch in ARCHITECTURES:
        return ARCHITECTURES[arch]
    if aliases.is_repository(name):
        repository = name.partition(":")[2]
        raise ValueError(
            f"{name!r} names a repository: load_pretrained({name!r}) reads it; or give the name of "
            f"its architecture and weights='hub:{repository}'"
        )
    choices = [*ARCHITECTURES, *index.pretrained_names()] if "/" in name else ARCHITECTURES
    repository = ""
    if re.fullmatch(r"[\w-]+/[\w.-]+", name) and not name.startswith("torchvision/"):
        repository = f"; a repository of the hub is named 'hf-hub:{name}'"
    raise ValueError(
        f"unknown architecture {arch!r}{aliases.hint(arch, choices)}{repository} "
        f"(list_models() lists all {len(ARCHITECTURES)})"
    )


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_channels: int = 3,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    dtype: Dtype = jnp.float32,
) -> Network:
    """Makes the network of a timm name, without weights.

    `model.init(key, images)` draws fresh weights as timm does, except for a classifier of zeros.
    `model.apply(variables, images)` evaluates; training is `model.apply(variables, images,
    train=True, mutable=["batch_stats"], rngs={"dropout": key})`.

    Args:
      name: `arch` or `arch.tag`, such as `"resnet50"` or `"resnet50.a1_in1k"`.
      num_classes: size of the classifier; 0 for pooled features [B, C]; None for the size that the
        pretrained weights of `name` have.
      in_channels: channels of the images.
      global_pool: `"avg"`, or `""` (with `num_classes=0`) for the last feature map [B, h, w, C].
      drop_rate: dropout before the classifier.
      drop_path_rate: stochastic depth of the last block.
      dtype: type of the computation; parameters, statistics and logits are float32 in any case.

    Raises:
      ValueError: if the name is unknown, or the other arguments contradict each other.

    Examples:
      >>> import jax
      >>> model = create_model("simple_cnn", num_classes=10)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> model.apply(variables, jnp.zeros((2, 40, 56, 3))).shape
      (2, 10)
    """
    network = architecture(name).network
    if num_classes is None:
        num_classes = index.pretrained_config(name).num_classes
    return network.clone(
        num_classes=num_classes,
        in_channels=in_channels,
        global_pool=global_pool,
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        dtype=dtype,
    )


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Lists the names that `create_model` takes.

    Args:
      pattern: shell wildcards, such as `"*efficientnet_b0*"`.
      pretrained: list the names of pretrained weights, `arch.tag`, in place of the architectures.

    Examples:
      >>> list_models("resnet34*")
      ['resnet34', 'resnet34d']
    """
    arguments.text("pattern", pattern, "'resnet*'")
    if pretrained:
        names = index.pretrained_names(pattern)
        return [name for name in names if architecture_name(name) in ARCHITECTURES]
    return [name for name in ARCHITECTURES if fnmatch.fnmatchcase(name, pattern)]
