"""Networks with their pretrained weights: from a timm name to a model and its variables."""

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tl_jax import trees
from tl_jax.models import registry
from tl_jax.models.layers import Dtype
from tl_jax.weights import index, sources
from tl_jax.weights.sources import WeightsError, WeightsRecord
from tl_jax.weights.state_dict import from_state_dict, slots_of
from tl_jax.weights.stem import adapt_stem


def load_pretrained(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    dtype: Dtype = jnp.float32,
    verbose: bool = True,
) -> tuple[nn.Module, dict[str, Any]]:
    """Makes a network and loads its pretrained weights; everything must fit but a replaced head.

    Args:
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: where from, as in `read_weights`; None takes the installed package for the name if
        there is one, then the hub's cache, then the hub.
      num_classes: None keeps the pretrained classifier, whatever its size. Another number than the
        pretrained one's gives a fresh classifier; 0 gives pooled features.
      in_channels: channels of the images; the first convolution is adapted (`adapt_stem`).
      dtype: type of the computation; the variables are float32 in any case.
      verbose: print to stderr which file was used.

    Returns:
      The model and its variables, `{"params": ..., "batch_stats": ...}`.

    Raises:
      WeightsError: if the weights cannot be had, saying what to do.
      StateDictError: if they do not fit the architecture, naming every key.
      ValueError: if the name is unknown.

    Example:
      >>> model, variables = load_pretrained("tf_efficientnet_lite0")        # doctest: +SKIP
      >>> logits = model.apply(variables, images)                            # doctest: +SKIP
    """
    registry.architecture(name)  # An unknown name is told before anything is read.
    published = index.pretrained_config(name).num_classes
    expected = published if num_classes is None else num_classes
    model = registry.create_model(name, num_classes=expected, in_channels=in_channels, dtype=dtype)
    state_dict, record = _read(name, weights, model)
    found = _classes(state_dict, registry.architecture(name).classifier)
    wanted = _pretrained_classes(published, found, record) if num_classes is None else num_classes
    model = model.clone(num_classes=wanted)
    variables = from_state_dict(
        model,
        state_dict,
        except_head=num_classes is not None and wanted != found,
        may_lack=index.pretrained_config(name).lacks,
    )
    if verbose:
        fresh = f"; the classifier of {wanted} classes starts fresh" if wanted != found else ""
        print(f"{record}{fresh if wanted else ''}", file=sys.stderr)
    return model, variables


def load_weights(
    model: nn.Module,
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    fresh_head: bool = False,
    keep_head: bool = False,
) -> tuple[dict[str, Any], WeightsRecord]:
    """Loads pretrained weights into a network that is already made.

    The classifier is kept if the network has as many classes as the weights, and starts fresh
    otherwise. The first convolution is adapted to the network's `in_channels`. Everything else must
    fit.

    Args:
      model: a network of `create_model(name, ...)`; any `num_classes`.
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: where from, as in `read_weights`.
      fresh_head: start the classifier fresh even if the number of classes is the same.
      keep_head: the classifier must fit too.

    Returns:
      The variables, and the record of the file that they come from.

    Raises:
      As `load_pretrained`.

    Example:
      >>> backbone = create_model("resnet50", num_classes=0)
      >>> variables, record = load_weights(backbone, "resnet50")             # doctest: +SKIP
    """
    classifier = registry.architecture(name).classifier
    state_dict, record = _read(name, weights, model)
    same = model.num_classes > 0 and model.num_classes == _classes(state_dict, classifier)
    lacks = index.pretrained_config(name).lacks
    variables = from_state_dict(
        model, state_dict, except_head=fresh_head or not (same or keep_head), may_lack=lacks
    )
    return variables, record


def _read(
    name: str, weights: str | os.PathLike[str] | None, model: nn.Module
) -> tuple[dict[str, np.ndarray], WeightsRecord]:
    """Reads weights, names their keys as timm does, and adapts the first convolution.

    Meanwhile the network that they are read for is traced, which their conversion asks for next.
    """
    with ThreadPoolExecutor(1) as beside:
        beside.submit(slots_of, model)
        state_dict, record = sources.map_weights(name, weights)
    architecture = registry.architecture(name)
    if architecture.rename is not None:
        state_dict = _renamed(state_dict, architecture.rename, record)
    if model.in_channels != 3:
        state_dict = adapt_stem(state_dict, architecture.stem, model.in_channels)
    return state_dict, record


def _renamed(
    state_dict: Mapping[str, np.ndarray], rename: Callable[[str], str], record: WeightsRecord
) -> dict[str, np.ndarray]:
    renamed = {rename(key): value for key, value in state_dict.items()}
    if len(renamed) != len(state_dict):
        raise WeightsError(f"{record.file} holds the same weights under timm's names and others")
    return renamed


def _classes(state_dict: Mapping[str, np.ndarray], classifier: str) -> int:
    """Returns the number of classes of a state dict's classifier; 0 if it has none."""
    rows = {value.shape[:1] for key, value in state_dict.items() if trees.is_under(key, classifier)}
    return max((shape[0] for shape in rows if shape), default=0)


def _pretrained_classes(published: int, found: int, record: WeightsRecord) -> int:
    """Returns the size of the pretrained classifier, where none is asked for.

    A file may have another one than the published weights of that name; a published file may not.
    """
    if record.source != "file":
        return published
    if found == 0 and published != 0:
        raise WeightsError(
            f"{record.file} holds no classifier; say num_classes: 0 for pooled features, or the "
            "number of classes of a fresh one"
        )
    return found
