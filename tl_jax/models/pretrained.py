"""Networks with their pretrained weights: from a timm name to a model and its variables."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax.numpy as jnp

from tl_jax import trees
from tl_jax.models import registry
from tl_jax.models.layers import Dtype
from tl_jax.models.network import Network
from tl_jax.models.variables import from_state_dict, slots_of
from tl_jax.weights import index, sources
from tl_jax.weights.sources import StateDict, WeightsError, WeightsRecord
from tl_jax.weights.stem import adapt_stem


def load_pretrained(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    in_channels: int = 3,
    dtype: Dtype = jnp.float32,
    verbose: bool = True,
) -> tuple[Network, dict[str, Any]]:
    """Makes a network and loads its pretrained weights; all but a replaced classifier must fit.

    Args:
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: their source, as in `read_weights`; None takes the installed package for the name if
        there is one, then the hub's cache, then the hub.
      num_classes: None keeps the pretrained classifier, whatever its size. Another number than the
        pretrained one's gives a fresh classifier; 0 gives pooled features.
      in_channels: channels of the images; the first convolution is adapted (`adapt_stem`).
      dtype: type of the computation; the variables are float32 in any case.
      verbose: print to stderr which file was used.

    Returns:
      The model and its variables, `{"params": ..., "batch_stats": ...}`.

    Raises:
      WeightsError: if the weights cannot be read, saying what to do.
      StateDictError: if they do not fit the architecture, naming every key.
      ValueError: if the name is unknown.

    Examples:
      >>> import jax, safetensors.numpy
      >>> from tl_jax.weights.state_dict import to_state_dict
      >>> trained = registry.create_model("simple_cnn", num_classes=5)
      >>> variables = trained.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
      >>> safetensors.numpy.save_file(to_state_dict(variables), "mine.safetensors")
      >>> model, variables = load_pretrained(
      ...     "simple_cnn", weights="mine.safetensors", num_classes=3, verbose=False
      ... )
      >>> model.apply(variables, jnp.zeros((2, 32, 32, 3))).shape
      (2, 3)
    """
    registry.architecture(name)  # An unknown name is an error before anything is read.
    published_classes = index.pretrained_config(name).num_classes
    model = registry.create_model(
        name,
        num_classes=published_classes if num_classes is None else num_classes,
        in_channels=in_channels,
        dtype=dtype,
    )
    state_dict, record = _read(name, weights, model)
    file_classes = _num_classes(state_dict, model.classifier)
    if num_classes is None:
        # A file may have another classifier than the weights that were published under the name.
        num_classes = file_classes if record.source == "file" else published_classes
        if num_classes == 0 and published_classes != 0:
            raise WeightsError(
                f"{record.file} holds no classifier; set num_classes to 0 for pooled features, or "
                "to the number of classes of a fresh classifier"
            )
        except_head = False
    else:
        except_head = num_classes != file_classes
    model = model.clone(num_classes=num_classes)
    variables = from_state_dict(
        model,
        state_dict,
        except_head=except_head,
        may_lack=index.pretrained_config(name).lacks,
    )
    if verbose:
        is_fresh = num_classes not in (0, file_classes)
        fresh = f"; the classifier of {num_classes} classes starts fresh" if is_fresh else ""
        print(f"{record}{fresh}", file=sys.stderr)
    return model, variables


def load_weights(
    model: Network,
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    fresh_head: bool = False,
    keep_head: bool = False,
) -> tuple[dict[str, Any], WeightsRecord]:
    """Loads pretrained weights into an existing network.

    The classifier is loaded if the network has as many classes as the weights, and starts fresh
    otherwise. The first convolution is adapted to the network's `in_channels`. Everything else must
    fit.

    Args:
      model: a network of `create_model(name, ...)`; any `num_classes`.
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: their source, as in `read_weights`.
      fresh_head: start the classifier fresh even if the number of classes is the same.
      keep_head: the classifier must fit too.

    Returns:
      The variables, and the record of the file that they come from.

    Raises:
      WeightsError, StateDictError, ValueError: as `load_pretrained`.

    Examples:
      >>> backbone = registry.create_model("resnet50", num_classes=0)
      >>> variables, record = load_weights(backbone, "resnet50")  # doctest: +SKIP
    """
    state_dict, record = _read(name, weights, model)
    classes = _num_classes(state_dict, registry.architecture(name).classifier)
    fits = model.num_classes > 0 and model.num_classes == classes
    variables = from_state_dict(
        model,
        state_dict,
        except_head=fresh_head or not (fits or keep_head),
        may_lack=index.pretrained_config(name).lacks,
    )
    return variables, record


def _read(
    name: str, weights: str | os.PathLike[str] | None, model: Network
) -> tuple[StateDict, WeightsRecord]:
    """Reads weights, renames their keys to timm's, and adapts the first convolution.

    The network is traced at the same time, because the conversion needs its slots next.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(slots_of, model)
        state_dict, record = sources.map_weights(name, weights)
    architecture = registry.architecture(name)
    if architecture.rename is not None:
        renamed = {architecture.rename(key): value for key, value in state_dict.items()}
        if len(renamed) != len(state_dict):
            raise WeightsError(
                f"{record.file} holds the same weights under timm's names and under others; remove "
                "one set"
            )
        state_dict = renamed
    if model.in_channels != 3:
        state_dict = adapt_stem(state_dict, architecture.stem, model.in_channels)
    return state_dict, record


def _num_classes(state_dict: StateDict, classifier: str) -> int:
    """Returns the number of classes of a state dict's classifier; 0 if it has none."""
    shapes = [v.shape for key, v in state_dict.items() if trees.is_under(key, classifier)]
    return max((shape[0] for shape in shapes if shape), default=0)
