"""The names of the networks: which architectures there are, and how one is made from its name."""

import fnmatch

import jax.numpy as jnp

from tl_jax import trees
from tl_jax.models import efficientnet, resnet, vgg
from tl_jax.models.architecture import Architecture
from tl_jax.models.layers import Dtype
from tl_jax.models.network import Network
from tl_jax.weights import index

ARCHITECTURES: dict[str, Architecture] = {
    **resnet.ARCHITECTURES,
    **vgg.ARCHITECTURES,
    **efficientnet.ARCHITECTURES,
}


def architecture(name: str) -> Architecture:
    """Returns what is known of an architecture.

    Args:
      name: timm's `arch` or `arch.tag`; the tag only names weights and is ignored.

    Raises:
      ValueError: if there is no such architecture; it names the nearest.

    Example:
      >>> architecture("resnet50.a1_in1k").classifier
      'fc'
    """
    arch = name.partition(".")[0]
    if arch not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {arch!r}{trees.hint(arch, ARCHITECTURES)} "
            f"(list_models() lists all {len(ARCHITECTURES)})"
        )
    return ARCHITECTURES[arch]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    global_pool: str = "avg",
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    dtype: Dtype = jnp.float32,
) -> Network:
    """Makes the network of a timm name, without weights.

    `model.init(key, images)` draws fresh weights as timm does, but for a classifier of zeros.
    `model.apply(variables, images)` evaluates; training is `model.apply(variables, images,
    train=True, mutable=["batch_stats"], rngs={"dropout": key})`.

    Args:
      name: `arch` or `arch.tag`, such as `"resnet50"` or `"resnet50.a1_in1k"`.
      num_classes: size of the classifier; 0 for pooled features [B, C]; None for the size that the
        pretrained weights of `name` have.
      global_pool: `"avg"`, or `""` (with `num_classes=0`) for the last feature map [B, h, w, C].
      drop_rate: dropout before the classifier.
      drop_path_rate: stochastic depth of the last block.
      dtype: type of the computation; parameters, statistics and logits are float32 in any case.

    Raises:
      ValueError: if the name is unknown, or the other arguments contradict each other.

    Example:
      >>> model = create_model("resnet18", num_classes=10)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
      >>> model.apply(variables, jnp.zeros((2, 97, 131, 3))).shape
      (2, 10)
    """
    build = architecture(name).build
    if num_classes is None:
        num_classes = index.pretrained_config(name).num_classes
    return build(
        num_classes=num_classes,
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

    Example:
      >>> list_models("resnet*")
      ['resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152']
    """
    if pretrained:
        names = index.pretrained_names(pattern)
        return [name for name in names if name.partition(".")[0] in ARCHITECTURES]
    return [name for name in ARCHITECTURES if fnmatch.fnmatchcase(name, pattern)]
