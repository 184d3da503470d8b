"""The config.json beside weights, in timm's form: architecture, preprocessing and class names."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_jax import files, messages
from tl_jax.weights.checkpoint import names_in_order
from tl_jax.weights.index import PretrainedConfig

FILE = "config.json"
# What timm takes for a field that a config.json does not state (timm's PretrainedCfg).
_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
}
_CROP_MODES = ("center", "squash", "border")
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "box", "hamming", "lanczos")
# Arguments of timm's networks that change nothing in evaluation, or say what the defaults are.
_HARMLESS_ARGS = frozenset(
    "num_classes in_chans pretrained pretrained_cfg pretrained_cfg_overlay cache_dir exportable "
    "scriptable no_jit checkpoint_path drop_rate drop_path_rate drop_block_rate proj_drop_rate "
    "head_init_scale zero_init_last init_values".split()
)
_DEFAULT_ARGS = {"global_pool": ("avg", "fast"), "output_stride": (32,), "features_only": (False,)}
# Names of classes that are identifiers: of WordNet and of Freebase.
_IDENTIFIER = re.compile(r"n\d{8}|/[mgt]/\w+")


class RepositoryError(ValueError):
    """A config.json cannot be read, or asks for a network that is not here."""


@dataclasses.dataclass(frozen=True)
class Repository:
    """What a config.json says of the weights beside it.

    Attributes:
      architecture: timm's name.
      config: classes and preprocessing, under the architecture's name.
      assumed: fields that it does not state; timm's defaults are taken.
      states_classes: whether it states a number of classes, or their names.
    """

    architecture: str
    config: PretrainedConfig
    assumed: tuple[str, ...] = ()
    states_classes: bool = True


def read(path: Path) -> Repository:
    """Reads a config.json that timm (`save_for_hf`, `push_to_hf_hub`) or this library wrote.

    Raises:
      RepositoryError: naming the file, and the field that cannot be meant.
    """
    return parse(path.read_text(encoding="utf-8", errors="replace"), str(path))


def parse(text: str, where: str) -> Repository:
    """Reads the text of a config.json; `where` names it in messages."""
    try:
        fields = files.parse_json(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise RepositoryError(f"{where} is not JSON ({error}); fetch or write it again") from error
    if not isinstance(fields, dict):
        raise RepositoryError(f"{where} holds a {type(fields).__name__}, expected a JSON object")
    architecture = fields.get("architecture")
    if not isinstance(architecture, str) or not architecture:
        raise RepositoryError(f"{where} {_describe_other(fields)}")
    # Older files have all fields in one object.
    cfg = fields.get("pretrained_cfg") or fields
    args = fields.get("model_args") or {}
    if not isinstance(cfg, dict) or not isinstance(args, dict):
        raise RepositoryError(f"{where}: pretrained_cfg and model_args must be JSON objects")
    _check_arguments(where, fields, cfg, args)
    values = {name: cfg[name] for name in _DEFAULTS if cfg.get(name) is not None}
    assumed = tuple(name for name in _DEFAULTS if name not in values)
    values = _checked(where, {**_DEFAULTS, **values}, args.get("in_chans"))
    stated = (fields.get("num_classes"), args.get("num_classes"), cfg.get("num_classes"))
    labels = _labels(where, fields, cfg)
    count = next((n for n in stated if n is not None), len(labels or ()) or 1000)
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise RepositoryError(f"{where}: num_classes is {count!r}, expected a whole number")
    names = _class_names(where, labels, cfg, fields, count)
    config = PretrainedConfig(
        name=architecture, num_classes=count, class_names=names, license=cfg.get("license"),
        **values,
    )  # fmt: skip
    states_classes = bool(labels) or any(n is not None for n in stated)
    return Repository(architecture, config, assumed, states_classes)


def as_text(
    config: PretrainedConfig, *, stem: str, classifier: str, num_features: int | None = None
) -> str:
    """Returns the text of a config.json with which timm and `read` make the network.

    Args:
      config: name of the architecture, classes and preprocessing.
      stem, classifier: dotted names of the first convolution and of the classifier.
      num_features: width of the classifier's input, for information.
    """
    names = config.class_names
    fields = {
        "architecture": config.name.partition(".")[0],
        "num_classes": config.num_classes,
        **({} if num_features is None else {"num_features": num_features}),
        "global_pool": "avg",
        **({} if names is None else {"label_names": list(names)}),
        "model_args": {"num_classes": config.num_classes, "in_chans": config.input_size[0]},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": list(config.input_size),
            "fixed_input_size": False,
            "interpolation": config.interpolation,
            "crop_pct": config.crop_pct,
            "crop_mode": config.crop_mode,
            "mean": list(config.mean),
            "std": list(config.std),
            "num_classes": config.num_classes,
            "pool_size": None,
            "first_conv": stem,
            "classifier": classifier,
        },
    }
    return json.dumps(fields, indent=2, ensure_ascii=False) + "\n"


def _describe_other(fields: Mapping[str, Any]) -> str:
    """Describes a config.json that is not timm's, and what to do."""
    if {"model", "data", "train"} <= fields.keys():
        return (
            "is of a run of tl_jax; export the run (python -m tl_jax export RUN --to timm FOLDER) "
            "and give that folder"
        )
    if "architectures" in fields or "model_type" in fields:
        kind = fields.get("model_type") or fields.get("architectures")
        return (
            f"is of transformers (model_type {kind!r}), whose weights have other names; give "
            "weights of timm, or save them with timm's save_for_hf"
        )
    return (
        'has no field \'architecture\', so it is not timm\'s; add "architecture": "NAME", or give '
        "the weights file itself, to be read with the preprocessing of the network's own weights"
    )


def _check_arguments(
    where: str, fields: Mapping[str, Any], cfg: Mapping[str, Any], args: Mapping[str, Any]
) -> None:
    """Refuses arguments of the network that this library cannot honour."""
    given = {**args}
    if fields.get("global_pool") is not None:
        given.setdefault("global_pool", fields["global_pool"])
    bad = [
        f"{name}={value!r}"
        for name, value in given.items()
        if value is not None
        and name not in _HARMLESS_ARGS
        and value not in _DEFAULT_ARGS.get(name, ())
    ]
    if cfg.get("label_offset"):
        bad.append(f"label_offset={cfg['label_offset']!r}")
    if bad:
        raise RepositoryError(
            f"{where}: the network was made with {messages.some(bad, quoted=False)}, which is not "
            "available here; the weights would give other logits than timm's"
        )


def _checked(where: str, values: dict[str, Any], in_channels: Any) -> dict[str, Any]:
    """Returns the fields of the preprocessing as tuples and numbers, or says which is wrong."""
    size = values["input_size"]
    if not _is_numbers(size, 3) or any(v != int(v) or v < 1 for v in size):
        raise RepositoryError(
            f"{where}: input_size is {size!r}, expected [channels, height, width]"
        )
    channels = size[0] if in_channels is None else in_channels
    for name in ("mean", "std"):
        given = values[name]
        given = [given] if isinstance(given, int | float) else given
        if not _is_numbers(given) or len(given) not in (1, 3, channels):
            raise RepositoryError(
                f"{where}: {name} is {given!r}, expected {channels} numbers, for values in [0, 1]"
            )
        if len(given) != channels:  # As timm does for other numbers of channels.
            given = [sum(given) / len(given)] * channels
        if max(map(abs, given)) > 1:
            raise RepositoryError(
                f"{where}: {name} is {given!r}, for pixels up to 255, it seems; state it for "
                "pixels in [0, 1]: divide by 255"
            )
        if name == "std" and min(given) <= 0:
            raise RepositoryError(f"{where}: std is {given!r}, expected values above 0")
        values[name] = tuple(float(v) for v in given)
    crop = values["crop_pct"]
    if not _is_numbers([crop]) or not 0 < crop <= 2:
        raise RepositoryError(
            f"{where}: crop_pct is {crop!r}, expected a share above 0 and up to 2"
        )
    for name, choices in (("crop_mode", _CROP_MODES), ("interpolation", _INTERPOLATIONS)):
        if values[name] not in choices:
            raise RepositoryError(
                f"{where}: {name} is {values[name]!r}, expected one of {', '.join(choices)}"
            )
    return {**values, "crop_pct": float(crop), "input_size": (channels, int(size[1]), int(size[2]))}


def _is_numbers(values: Any, count: int | None = None) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) == (count or len(values)) > 0
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    )


def _labels(where: str, fields: Mapping[str, Any], cfg: Mapping[str, Any]) -> Any:
    """Returns the label names, wherever a file states them."""
    for holder, key in (
        (fields, "label_names"), (cfg, "label_names"), (fields, "labels"), (cfg, "labels"),
        (fields, "id2label"),
    ):  # fmt: skip
        if holder.get(key):
            if not isinstance(holder[key], list | dict):
                raise RepositoryError(
                    f"{where}: {key} is {holder[key]!r}, expected a list of names"
                )
            return holder[key]
    return None


def _class_names(
    where: str, labels: Any, cfg: Mapping[str, Any], fields: Mapping[str, Any], count: int
) -> tuple[str, ...] | None:
    """Returns the class names in the order of the logits; a class without one has its number."""
    if not labels or not count:
        return None
    is_by_index = isinstance(labels, dict) and all(str(key).isdigit() for key in labels)
    if is_by_index:  # With gaps, in timm.
        by_index = {int(key): value for key, value in labels.items()}
        if max(by_index) < count:
            labels = [by_index.get(i, f"class {i}") for i in range(count)]
    if isinstance(labels, list):  # Classes that are numbers.
        labels = [str(name) if isinstance(name, int) else name for name in labels]
    names = names_in_order(labels)
    if names is None or len(names) != count:
        raise RepositoryError(
            f"{where}: {len(labels)} label names for {count} classes; state one for each class, in "
            "the order of the logits"
        )
    descriptions = fields.get("label_descriptions") or cfg.get("label_descriptions") or {}
    if isinstance(descriptions, dict) and all(_IDENTIFIER.fullmatch(name) for name in names):
        names = tuple(str(descriptions.get(name, name)) for name in names)
    return names
