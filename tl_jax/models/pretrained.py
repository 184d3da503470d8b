"""Networks with their pretrained weights: from a timm name to a model and its variables."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from tl_jax import messages, trees
from tl_jax.models import registry, weights_reader
from tl_jax.models.layers import Dtype
from tl_jax.models.network import Network
from tl_jax.models.variables import from_state_dict, slots_of
from tl_jax.models.weights_reader import Pretrained, Weights
from tl_jax.weights import checkpoint, index, tensors
from tl_jax.weights.checkpoint import USUAL, Reading
from tl_jax.weights.sources import StateDict, WeightsError, WeightsRecord
from tl_jax.weights.state_dict import StateDictError
from tl_jax.weights.stem import adapt_stem

# What torch puts in the place of a weight, by a part of its keys, and how that is undone.
_UNDONE = {
    "_mask.": "weights are pruned: make that permanent, torch.nn.utils.prune.remove(module, name)",
    ".parametrizations.": "weights are parametrized: remove that, "
    "torch.nn.utils.parametrize.remove_parametrizations(module, name)",
    "_v.": "weights are normalised: remove that, torch.nn.utils.remove_weight_norm(module)",
}


def load_pretrained(
    name: str | os.PathLike[str],
    *,
    weights: Weights = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    dtype: Dtype = jnp.float32,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: Sequence[str] = (),
    verbose: bool = True,
) -> tuple[Network, dict[str, Any]]:
    """Makes a network and loads its pretrained weights; all but a replaced classifier must fit.

    Args:
      name: timm's `architecture.tag`, or `architecture` for its default tag; or a repository of
        the hub (`"hf-hub:OWNER/REPO"`) or a folder with config.json, which states its architecture.
      weights: their source, as in `read_weights`; None takes the installed package for the name if
        there is one, then the hub's cache, then the hub.
      num_classes: None keeps the pretrained classifier, whatever its size. Another number than the
        pretrained one's gives a fresh classifier; 0 gives pooled features.
      in_channels: channels of the images; the first convolution is adapted (`adapt_stem`). None
        takes the weights' own.
      dtype: type of the computation; the variables are float32 in any case.
      checkpoint_key, prefix, ignore: the entry of a training checkpoint, the prefix of its keys,
        and patterns of keys to leave out; see `tl_jax.weights.checkpoint.Reading`.
      verbose: print to stderr which file was used, and what was decided in reading it.

    Returns:
      The model and its variables, `{"params": ..., "batch_stats": ...}`.

    Raises:
      WeightsError: if the weights cannot be read, saying what to do.
      StateDictError, TensorError: if they do not fit the architecture, or are not floating-point
        numbers, naming every key.
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
    reading = Reading(checkpoint_key, prefix, ignore)
    loaded = weights_reader.read(
        name, weights, reading, beside=_expected(name, num_classes, in_channels, dtype)
    )
    model, variables, record = build(
        loaded, num_classes=num_classes, in_channels=in_channels, dtype=dtype
    )
    if verbose:
        print(record, file=sys.stderr)
    return model, variables


def load_weights(
    model: Network,
    name: str,
    weights: Weights = None,
    *,
    fresh_head: bool = False,
    keep_head: bool = False,
    reading: Reading = USUAL,
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
      reading: the entry and the keys that are taken from a checkpoint.

    Returns:
      The variables, and the record of the file that they come from.

    Raises:
      WeightsError, StateDictError, ValueError: as `load_pretrained`.

    Examples:
      >>> backbone = registry.create_model("resnet50", num_classes=0)
      >>> variables, record = load_weights(backbone, "resnet50")  # doctest: +SKIP
    """
    loaded = weights_reader.read(name, weights, reading, beside=model)
    return fill(model, loaded, fresh_head=fresh_head, keep_head=keep_head)


def build(
    loaded: Pretrained,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    dtype: Dtype = jnp.float32,
) -> tuple[Network, dict[str, Any], WeightsRecord]:
    """Makes the network of weights that were read, and fills it; arguments as `load_pretrained`."""
    keep_head = num_classes is None
    if num_classes is None:
        # Published weights must have the classifier that was published.
        published = index.pretrained_config(loaded.name).num_classes
        num_classes = published if loaded.kind == "published" else loaded.config.num_classes
        if num_classes == 0 and not loaded.is_backbone:
            _check_prefix(loaded)
            raise WeightsError(_no_classifier(loaded))
    model = registry.create_model(
        loaded.name,
        num_classes=num_classes,
        in_channels=loaded.config.input_size[0] if in_channels is None else in_channels,
        dtype=dtype,
    )
    model = model.clone(**loaded.published_fields)
    variables, record = fill(model, loaded, keep_head=keep_head and num_classes != 0)
    return model, variables, record


def fill(
    model: Network, loaded: Pretrained, *, fresh_head: bool = False, keep_head: bool = False
) -> tuple[dict[str, Any], WeightsRecord]:
    """Returns the variables of a network from weights that were read; see `load_weights`.

    Returns:
      The variables, and the record with what was left out and what starts fresh.
    """
    model.check_fields(loaded.published_fields)
    state_dict, classifier = loaded.state_dict, model.classifier
    count = weights_reader.count_classes(state_dict, classifier)
    fits = model.num_classes > 0 and model.num_classes == count
    except_head = fresh_head or not (fits or keep_head)
    decided = []
    if except_head:
        state_dict, dropped = _without_head(state_dict, model)
        if dropped:
            decided.append(f"left out: {messages.some(dropped, quoted=False)}")
        if model.num_classes:
            decided.append(f"the classifier of {model.num_classes} classes starts fresh")
    if model.in_channels != 3 or loaded.config.input_size[0] != 3:
        stem = registry.architecture(loaded.name).stem
        state_dict = adapt_stem(state_dict, stem, model.in_channels)
    try:
        variables = from_state_dict(
            model,
            state_dict,
            except_head=except_head,
            may_lack=index.pretrained_config(loaded.name).lacks,
        )
    except StateDictError as error:
        _check_prefix(loaded)
        raise StateDictError(_does_not_fit(loaded, error)) from error
    except tensors.TensorError as error:
        raise tensors.TensorError(f"{loaded.record.file}: {error}") from error
    details = "; ".join(part for part in (loaded.record.details, *decided) if part)
    return variables, dataclasses.replace(loaded.record, details=details)


def _expected(
    name: str | os.PathLike[str], num_classes: int | None, in_channels: int | None, dtype: Dtype
) -> Network | None:
    """Returns the network that weights are probably loaded into; None if only they can say."""
    if not isinstance(name, str) or not weights_reader.is_name(name):
        return None
    return registry.create_model(
        name, num_classes=num_classes, in_channels=in_channels or 3, dtype=dtype
    )


def _check_prefix(loaded: Pretrained) -> None:
    """Refuses keys that have an unknown prefix before them, saying which."""
    network = registry.architecture(loaded.name).network
    expected = [s.key for s in slots_of(network) if not trees.is_under(s.key, network.classifier)]
    if 2 * len(loaded.state_dict.keys() & set(expected)) > len(expected):
        return
    prefixes = checkpoint.shared_prefixes(list(loaded.state_dict), expected)
    if prefixes:
        first = prefixes[0]
        also = f" (also there: {messages.some(prefixes[1:])})" if prefixes[1:] else ""
        raise WeightsError(
            f"the keys of {loaded.record.file} start with {first!r}{also}; take those, without it: "
            f"prefix={first!r}, on the command line --model.prefix {first} (train) or "
            f"--prefix {first} (predict, probe)"
        )


def _without_head(state_dict: StateDict, model: Network) -> tuple[StateDict, list[str]]:
    """Leaves out a classifier of any shape, and what else stands beside it in the head.

    Returns:
      The rest, and the keys left out that are not the network's own classifier.
    """
    classifier = model.classifier
    parent = classifier.rpartition(".")[0]
    full = model if model.num_classes else model.clone(num_classes=1, global_pool="avg")
    known = {slot.key for slot in slots_of(full)}
    head = [
        key
        for key in state_dict
        if trees.is_under(key, classifier)
        or (parent and trees.is_under(key, parent) and key not in known)
    ]
    kept = {key: value for key, value in state_dict.items() if key not in set(head)}
    return kept, [key for key in head if key not in known]


def _does_not_fit(loaded: Pretrained, error: StateDictError) -> str:
    """Returns the message for weights that do not fit, with the remedies of who loads a file."""
    statistics = [key for key in error.missing if key.endswith(("running_mean", "running_var"))]
    undone = next((advice for part, advice in _UNDONE.items() if _any(part, error.unused)), None)
    numbered = [key for key in error.unused if key[0].isdigit()]
    if undone is not None:
        remedy = f"{undone}, and save the state dict again"
    elif 2 * len(numbered) > len(loaded.state_dict):
        remedy = (
            "the keys are numbers, because the layers were put into a torch.nn.Sequential, as "
            "fastai and Sequential(*model.children()) do; name them in torch, in their order: "
            "dict(zip(model.state_dict(), saved.values())) of the network as it was made"
        )
    elif statistics and len(statistics) == len(error.missing):
        remedy = (
            "its BatchNorm statistics are missing: save model.state_dict(), not only the parameters"
        )
    elif error.unused and not error.missing:
        top = error.unused[0].partition(".")[0]
        pattern = f"{top}.*" if "." in error.unused[0] else top
        remedy = (
            f"if the unused keys are not needed, leave them out: ignore=({pattern!r},), on the "
            f"command line --model.ignore {pattern} (train) or --ignore {pattern} (predict, probe)"
        )
    elif error.missing and not error.unused and len(error.missing) < len(loaded.state_dict):
        top = messages.some(list(dict.fromkeys(k.rpartition(".")[0] for k in error.missing)))
        remedy = (
            f"the file lacks {top}: a head that was replaced held them, perhaps, or they were not "
            f"saved; is it of the architecture {registry.architecture_name(loaded.name)}?"
        )
    else:
        remedy = (
            f"is it of the architecture {registry.architecture_name(loaded.name)}? A classifier of "
            "other classes is replaced with num_classes=N in load_pretrained, and always in "
            "training with transfer.classifier='replace'"
        )
    return f"{loaded.record.file} does not fit {loaded.name}:\n{error.listing}\n  {remedy}"


def _any(part: str, keys: Sequence[str]) -> bool:
    return any(part in f"{key}." for key in keys)


def _no_classifier(loaded: Pretrained) -> str:
    """Returns the message for weights whose classifier cannot be kept."""
    classifier = registry.architecture(loaded.name).classifier
    other = [key for key in loaded.state_dict if trees.is_under(key, classifier)]
    holds = (
        f"another head than {loaded.name} has ({messages.some(other, quoted=False)})"
        if other
        else "no classifier"
    )
    return (
        f"{loaded.record.file} holds {holds}; set num_classes to 0 for pooled features, or to the "
        "number of classes of a fresh classifier (load_pretrained); to train, leave "
        "transfer.classifier at 'replace'"
    )
