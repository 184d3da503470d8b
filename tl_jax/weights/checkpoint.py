"""The state dict inside a checkpoint: its entry, its prefix, and what the checkpoint states."""

import contextlib
import dataclasses
import fnmatch
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tl_jax import arguments, files, messages
from tl_jax.weights.stand_ins import Array, Foreign

# Entries of training checkpoints by their usual names; averaged weights are preferred, as in timm.
_AVERAGED = (
    "state_dict_ema", "model_ema", "model_ema_state_dict", "ema_state_dict", "ema_model", "ema",
    "ema_params", "averaged_model", "swa_model", "teacher",
)  # fmt: skip
_PLAIN = (
    "state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "params",
    "weights", "backbone", "encoder", "student",
)  # fmt: skip
# What torch's wrappers, Lightning's modules and transformers' wrapper of timm put before every key.
_PREFIXES = (
    "module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "model.", "net.",
    "network.", "ema_model.", "timm_model.",
)  # fmt: skip
# What torch's wrappers of a part of a network put between the parts of its keys.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_ARCHITECTURE = (
    "arch", "architecture", "model_name", "model_arch", "backbone", "backbone_name", "encoder_name",
    "encoder", "net",
)  # fmt: skip
_OPTIONS = ("args", "opt", "config", "cfg", "hyper_parameters", "hparams", "model_args")
_CLASS_NAMES = ("class_names", "classes", "label_names", "labels", "id2label", "idx_to_class")


class CheckpointError(ValueError):
    """A checkpoint holds no state dict, or several of which none was chosen."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the state dict of a checkpoint is chosen.

    Attributes:
      checkpoint_key: the entry that holds the state dict, such as `"state_dict"` or `"teacher"`,
        with dots where entries are nested; "" takes averaged weights (EMA) where there are any, and
        else the only state dict.
      prefix: only keys that start with it are taken, and it is taken off them, such as
        `"backbone."`; "" takes off what wrappers put before every key.
      ignore: shell patterns of keys that are left out, such as `"projector.*"`.

    Raises:
      TypeError: if a key or prefix is no text, or the patterns are no list of texts.
    """

    checkpoint_key: str = ""
    prefix: str = ""
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        arguments.text("checkpoint_key", self.checkpoint_key, "'state_dict'")
        arguments.text("prefix", self.prefix, "'backbone.'")
        arguments.names("ignore", self.ignore, "['projector.*']")
        object.__setattr__(self, "ignore", tuple(self.ignore))  # Equal to one of a tuple.


USUAL = Reading()


@dataclasses.dataclass(frozen=True)
class StateDict:
    """A state dict, and what its checkpoint says of it.

    Attributes:
      arrays: by key, without prefixes.
      details: which entry and prefix were taken, in words; "" if the file is the state dict itself.
      architecture: name of the architecture that the checkpoint states; None if it states none.
      class_names: in the order of the logits, where the checkpoint states them.
    """

    arrays: dict[str, np.ndarray]
    details: str = ""
    architecture: str | None = None
    class_names: tuple[str, ...] | None = None


def unwrap(checkpoint: Any, reading: Reading = USUAL) -> StateDict:
    """Finds the state dict that a checkpoint is or holds, at any depth.

    Raises:
      CheckpointError: if there is none, or several and none is chosen.

    Examples:
      >>> array = np.zeros(2)
      >>> saved = {"epoch": 3, "ema": {"fc.bias": array}, "model": {"fc.bias": array}}
      >>> found = unwrap(saved)
      >>> list(found.arrays), found.details
      (['fc.bias'], "averaged weights 'ema' (checkpoint_key='model' takes the others)")
    """
    entries = dict(_entries(checkpoint))
    if not entries:
        raise CheckpointError(_holds_none(checkpoint))
    entry = _chosen(entries, reading.checkpoint_key)
    items, ignored = _without(entries[entry], reading.ignore)
    arrays = {key: _tensor(key, value) for key, value in items.items()}
    arrays, prefix = _without_prefix(arrays, reading.prefix)
    arrays, inside = _without_wrappers(arrays)
    # The pattern of a user may be written for the keys as they are in the file, or as they are now.
    arrays, more = _without(arrays, reading.ignore)
    _check_ignored(reading.ignore, ignored | more, arrays)
    return StateDict(
        arrays,
        _details(entry, entries, prefix, inside, ignored | more),
        architecture_of(checkpoint),
        _class_names_of(checkpoint),
    )


def architecture_of(checkpoint: Any) -> str | None:
    """Returns the architecture that a checkpoint, or the metadata of a file, states."""
    if not isinstance(checkpoint, Mapping):
        return None
    stated = [checkpoint.get(key) for key in _ARCHITECTURE]
    for key in _OPTIONS:
        options = _items(checkpoint.get(key))
        stated += [options.get(name) for name in ("model", *_ARCHITECTURE)]
        # A section of options for the network.
        section = _items(options.get("model") or options.get("MODEL"))
        stated += [section.get(name) for name in ("name", "NAME", "ARCH", *_ARCHITECTURE)]
    return next((name for name in stated if isinstance(name, str) and name), None)


def _items(options: Any) -> Mapping[str, Any]:
    """Returns the items of a mapping, or the attributes of a Namespace; {} of anything else."""
    options = options.state if isinstance(options, Foreign) and options.state else options
    return options if isinstance(options, Mapping) else {}


def names_in_metadata(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Returns the class names in the metadata of a file, where they are JSON; None if not there.

    Examples:
      >>> names_in_metadata({"format": "pt", "class_names": '["cat", "eel"]'})
      ('cat', 'eel')
    """
    read = {}
    for key, text in metadata.items():
        with contextlib.suppress(json.JSONDecodeError):
            read[key] = files.parse_json(text)
    return _class_names_of(read)


def names_in_order(names: Any) -> tuple[str, ...] | None:
    """Returns class names given as a list, or as a mapping from or to indices; None if not these.

    Examples:
      >>> names_in_order({"cat": 0, "eel": 1}), names_in_order({"1": "eel", "0": "cat"})
      (('cat', 'eel'), ('cat', 'eel'))
    """
    if isinstance(names, Mapping):
        pairs = [(k, v) if isinstance(k, int) else (v, k) for k, v in names.items()]
        # Names may be digits too: then the values are the indices.
        is_by_name = all(isinstance(value, int) for value in names.values())
        if names and not is_by_name and all(isinstance(k, str) and k.isdigit() for k in names):
            pairs = [(int(k), v) for k, v in names.items()]
        if not all(isinstance(index, int) for index, _ in pairs):
            return None
        by_index = dict(pairs)
        if sorted(by_index) != list(range(len(names))):
            return None
        names = [by_index[index] for index in range(len(names))]
    if not isinstance(names, list | tuple) or not names:
        return None
    return tuple(names) if all(isinstance(name, str) for name in names) else None


def shared_prefixes(keys: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Returns the prefixes under which keys hold most of the expected ones, the fullest first.

    Examples:
      >>> shared_prefixes(["enc.q.conv1.weight", "enc.q.fc.0.bias"], ["conv1.weight"])
      ['enc.q.']
    """
    wanted = set(expected)
    found: dict[str, int] = {}
    for key in keys:
        parts = key.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[depth:]) in wanted:
                prefix = ".".join(parts[:depth]) + "."
                found[prefix] = found.get(prefix, 0) + 1
    full = [prefix for prefix, count in found.items() if 2 * count > len(wanted)]
    return sorted(full, key=lambda prefix: -found[prefix])


def _entries(value: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields the state dicts of a checkpoint by the dotted keys that lead to them."""
    if not path and isinstance(value, list | tuple):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping) or "param_groups" in value:  # These are of optimizers.
        return
    items = {key: item for key, item in value.items() if isinstance(key, str)}
    tensors = [item for item in items.values() if _is_tensor(item)]
    has_weights = any(not isinstance(item, np.ndarray) or item.ndim for item in tensors)
    if has_weights and len(tensors) == len(value):
        yield path, items
        return
    nested = [
        entry
        for key, item in items.items()
        for entry in _entries(item, f"{path}.{key}" if path else key)
    ]
    yield from nested
    if has_weights and not nested:  # A state dict with other values among its tensors.
        yield path, items


def _is_tensor(value: Any) -> bool:
    is_torch = isinstance(value, Foreign) and value.kind.startswith("torch._utils._rebuild")
    return is_torch or isinstance(value, np.ndarray | Array)


def _tensor(key: str, value: Any) -> np.ndarray:
    array = value.value if isinstance(value, Array) else value
    if isinstance(array, np.ndarray):
        return array
    if isinstance(value, Foreign) and _is_tensor(value):
        kind = value.kind.rpartition("_rebuild_")[2].removesuffix("_no_storage").replace("_", " ")
        raise CheckpointError(
            f"{key} is no dense tensor of torch but a {kind.replace('qtensor', 'quantised tensor')}"
            "; save the floating-point weights as dense tensors"
        )
    what = value.kind if isinstance(value, Foreign) else type(value).__name__
    raise CheckpointError(
        f"expected a state dict (a mapping of names to tensors), got {key!r} of type {what}; save "
        f"`model.state_dict()`, alone or under 'state_dict', or leave the key out: "
        f"ignore=({key!r},), on the command line {_option('ignore', key)}"
    )


def _chosen(entries: Mapping[str, Any], checkpoint_key: str) -> str:
    """Returns the entry that was asked for, or that is preferred."""
    listed = messages.some(list(entries))
    if checkpoint_key and "" in entries:
        raise CheckpointError(
            f"the file is a state dict itself, without entries; leave out checkpoint_key="
            f"{checkpoint_key!r}"
        )
    if checkpoint_key:
        below = [e for e in entries if e == checkpoint_key or e.startswith(f"{checkpoint_key}.")]
        if len(below) == 1:
            return below[0]
        problem = "several state dicts under" if below else "no state dict under"
        raise CheckpointError(
            f"the checkpoint has {problem} checkpoint_key={checkpoint_key!r}; it has {listed}"
        )
    if len(entries) == 1:
        return next(iter(entries))
    for names in (_AVERAGED, _PLAIN):
        ranks = {entry: _rank(entry, names) for entry in entries}
        first = [entry for entry, rank in ranks.items() if rank == min(ranks.values())]
        if ranks[first[0]] < len(names) and len(first) == 1:
            return first[0]
    raise CheckpointError(
        f"the checkpoint holds {len(entries)} state dicts: {listed}; choose one, such as "
        f"checkpoint_key={next(iter(entries))!r}, on the command line "
        f"{_option('checkpoint-key', next(iter(entries)))}"
    )


def _rank(entry: str, names: Sequence[str]) -> int:
    """Returns the first place of a part of an entry in a list; beyond the list if there is none."""
    return min((names.index(p) for p in entry.split(".") if p in names), default=len(names))


def _without_prefix(
    arrays: dict[str, np.ndarray], prefix: str
) -> tuple[dict[str, np.ndarray], str]:
    """Takes off the prefix that was asked for, and those of wrappers; returns that too."""
    found = ""
    if prefix:
        found = f"{prefix.removesuffix('.')}."
        if not any(key.startswith(found) for key in arrays):
            arrays, wrapped = _without_prefix(arrays, "")
            found = found.removeprefix(wrapped)
        below = {k.removeprefix(found): v for k, v in arrays.items() if k.startswith(found)}
        if not below:
            tops = list(dict.fromkeys(f"{key.partition('.')[0]}." for key in arrays))
            raise CheckpointError(
                f"no key starts with prefix={prefix!r}; keys start with {messages.some(tops)}"
                f"{messages.hint(prefix, tops)}"
            )
        arrays = below
    while True:
        # Counters beside the keys of an averaged model: "n_averaged", "num_updates", "decay".
        weights = {key: value for key, value in arrays.items() if value.ndim or "." in key}
        wrapper = next((p for p in _PREFIXES if all(k.startswith(p) for k in weights)), None)
        if wrapper is None or not weights:
            return arrays, found
        arrays = {key.removeprefix(wrapper): value for key, value in weights.items()}
        found += wrapper


def _without_wrappers(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], set[str]]:
    """Takes the names of torch's wrappers out of keys; returns those found, too."""
    parts = {key: key.split(".") for key in arrays}
    found = _WRAPPERS & {part for split in parts.values() for part in split}
    if not found:
        return arrays, set()
    renamed = {
        ".".join(part for part in parts[key] if part not in found): value
        for key, value in arrays.items()
    }
    # Keys with and without wrappers are two sets of weights: what does not fit is named later.
    return (renamed, set(found)) if len(renamed) == len(arrays) else (arrays, set())


def _without(items: Mapping[str, Any], patterns: Sequence[str]) -> tuple[dict[str, Any], set[str]]:
    """Returns items whose keys no pattern matches, and the other keys."""
    matched = {k for k in items if any(fnmatch.fnmatchcase(k, p) for p in patterns)}
    return {key: value for key, value in items.items() if key not in matched}, matched


def _check_ignored(patterns: Sequence[str], ignored: set[str], kept: Mapping[str, Any]) -> None:
    for pattern in patterns:
        if not fnmatch.filter(ignored, pattern):
            tops = dict.fromkeys(f"{key.partition('.')[0]}.*" for key in kept)
            raise CheckpointError(
                f"ignore={pattern!r} matches no key{messages.hint(pattern, tops)}; keys start with "
                f"{messages.some([top.removesuffix('*') for top in tops])}"
            )


def _details(
    entry: str, entries: Mapping[str, Any], prefix: str, inside: set[str], ignored: set[str]
) -> str:
    parts = []
    if entry:
        others = [other for other in entries if other != entry]
        is_averaged = bool(set(_AVERAGED) & set(entry.split(".")))
        what = f"{'averaged weights' if is_averaged else 'entry'} {entry!r}"
        # Of a file with one state dict there is nothing to choose.
        chooses = f" (checkpoint_key={others[0]!r} takes the others)" if others else ""
        parts.append(what + chooses)
    if prefix:
        parts.append(f"without the prefix {prefix!r} of its keys")
    if inside:
        parts.append(f"without {messages.some(sorted(inside))} inside its keys")
    if ignored:
        parts.append(f"{len(ignored)} keys ignored")
    return ", ".join(parts)


def _class_names_of(checkpoint: Any) -> tuple[str, ...] | None:
    if not isinstance(checkpoint, Mapping):
        return None
    found = (names_in_order(checkpoint.get(key)) for key in (*_CLASS_NAMES, "class_to_idx"))
    return next((names for names in found if names), None)


def _holds_none(checkpoint: Any) -> str:
    expected = "expected a state dict (a mapping of names to tensors), got"
    if not isinstance(checkpoint, Mapping):
        return f"{expected} a {type(checkpoint).__name__}; save `model.state_dict()`"
    whole = [
        key
        for key, value in checkpoint.items()
        if isinstance(value, Foreign) and isinstance(value.state, Mapping)
        and "_parameters" in value.state
    ]  # fmt: skip
    if whole:
        return (
            f"its entry {whole[0]!r} is a whole module (class {checkpoint[whole[0]].kind}), which "
            "cannot be read without its code; load the file with torch and save the tensors: "
            f"torch.save(checkpoint[{whole[0]!r}].state_dict(), FILE)"
        )
    kinds = [f"{key!r} of type {type(value).__name__}" for key, value in checkpoint.items()]
    listing = messages.some(kinds, quoted=False) or "an empty one"
    return f"{expected} {listing}; save `model.state_dict()`, alone or under 'state_dict'"


def _option(name: str, value: str) -> str:
    """Returns an option of the commands: one name to train with, another to predict and probe."""
    return f"--model.{name} {value!r} (train) or --{name} {value!r} (predict, probe)"
