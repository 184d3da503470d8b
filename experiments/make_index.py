"""Makes the index of pretrained weights and the list of ImageNet's class names from timm.

    python -m experiments.make_index

rewrites `index.json` and `imagenet_classes.txt` under `tl_jax/weights/`. Run it after adding an
architecture or moving to another version of timm or torchvision; the result is committed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import torch

from experiments.torch_peer import import_timm, is_torchvision, torchvision_name
from tl_jax.models import registry
from tl_jax.models.variables import abstract_variables

WEIGHTS_FOLDER = Path(__file__).parents[1] / "tl_jax" / "weights"
# Fields of tl_jax.weights.index.PretrainedConfig; empty ones are left out of the file.
_FIELDS = (
    "num_classes",
    "input_size",
    "mean",
    "std",
    "crop_pct",
    "crop_mode",
    "interpolation",
    "license",
    "test_input_size",
    "test_crop_pct",
)
# What timm does not state of a file on the hub: kept as it was written into the index.
_PINS = ("revision", "sha256")
# Ways of loading that this library has no reader for, and class offsets that it does not know.
_UNKNOWN_FIELDS = ("custom_load", "file", "state_dict", "label_offset")
# The weights of these tags come from training without labels; timm loads them with strict=False.
_LACKS = {"fcmae": ["head.norm"]}
# torchvision's tag in timm, and the licence that timm states for it.
_TORCHVISION_TAG, _TORCHVISION_LICENSE = "tv_in1k", "bsd-3-clause"
# These weights expect pixels in [-1, 1]; torchvision rescales within the network.
_HALF = 0.5
_RESCALED = ("torchvision/googlenet",)
_NO_TAG = "untrained"
# The entry of an architecture without published weights.
_UNTRAINED = {
    "num_classes": 1000,
    "input_size": [3, 224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
}


def parameter_counts(architectures: list[str]) -> dict[str, int]:
    """Counts the parameters of the reference networks, or of ours where there is none."""
    timm, counts = import_timm(), {}
    for arch in architectures:
        if arch in timm.list_models():
            with torch.device("meta"):
                network = timm.create_model(arch)
            counts[arch] = sum(p.numel() for p in network.parameters())
        else:
            params = abstract_variables(registry.create_model(arch, num_classes=1000))["params"]
            counts[arch] = sum(leaf.size for leaf in jax.tree.leaves(params))
    return counts


def index_text(counts: Mapping[str, int]) -> str:
    """Returns the text of `index.json`: sorted, one entry a line.

    Args:
      counts: the parameters of each architecture that is to be listed.
    """
    architectures, weights = {}, {}
    for arch in sorted(counts):
        default, entries = _entries(arch)
        architectures[arch] = {"default": default, "parameters": counts[arch]}
        weights |= entries
    for name, pins in _pins().items():
        weights.get(name, {}).update(pins)
    lines = [
        "{",
        f'"timm": {json.dumps(import_timm().__version__)},',
        f'"architectures": {_block(architectures)},',
        f'"weights": {_block(weights)}',
        "}",
    ]
    return "\n".join(lines) + "\n"


def _pins() -> dict[str, dict[str, str]]:
    """Returns the commits and hashes that the present index has of files on the hub."""
    present = json.loads(WEIGHTS_FOLDER.joinpath("index.json").read_text("utf-8"))["weights"]
    return {
        name: {field: entry[field] for field in _PINS if field in entry}
        for name, entry in present.items()
    }


def classes_text() -> str:
    """Returns the names of ImageNet-1k's classes, one a line."""
    import_timm()
    from timm.data import ImageNetInfo

    return "\n".join(ImageNetInfo("imagenet-1k").label_descriptions()) + "\n"


def _entries(arch: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Returns the full name of an architecture's default weights, and the entries of all."""
    timm = import_timm()
    if is_torchvision(arch):
        name = f"{arch}.{_TORCHVISION_TAG}"
        return name, {name: _torchvision_entry(arch)}
    if arch not in timm.list_models():
        return f"{arch}.{_NO_TAG}", {f"{arch}.{_NO_TAG}": _UNTRAINED}
    config = timm.models.get_pretrained_cfg(arch)
    default = f"{arch}.{config.tag or _NO_TAG}"
    configs = {default: config} | {
        name: timm.models.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{arch}.*")
    }
    return default, {name: timm_entry(name, config.to_dict()) for name, config in configs.items()}


def timm_entry(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of timm's entry that the index keeps.

    Raises:
      ValueError: if timm loads these weights in a way that the index cannot state.
    """
    # `True` concerns an older file in another format; the hub's file is read like any other.
    known = {"custom_load": True} if config.get("hf_hub_id") else {}
    unknown = [f for f in _UNKNOWN_FIELDS if config.get(f) and config[f] != known.get(f)]
    if unknown:
        raise ValueError(f"{name}: timm sets {unknown}, which the index has no field for")
    entry = {field: config.get(field) for field in _FIELDS}
    entry["hub_id"] = config.get("hf_hub_id")
    entry["hub_file"] = config.get("hf_hub_filename")
    if not entry["hub_id"]:
        entry["url"] = config.get("url")
    if config.get("tag") in _LACKS:
        entry["lacks"] = _LACKS[config["tag"]]
    return {field: value for field, value in entry.items() if value not in (None, "")}


def _torchvision_entry(arch: str) -> dict[str, Any]:
    import_timm()
    from torchvision.models import get_model_weights

    weights = get_model_weights(torchvision_name(arch)).IMAGENET1K_V1
    transform = weights.transforms()
    (side,), (resized,) = transform.crop_size, transform.resize_size
    rescaled = arch in _RESCALED
    return {
        "num_classes": len(weights.meta["categories"]),
        "input_size": [3, side, side],
        "mean": [_HALF] * 3 if rescaled else transform.mean,
        "std": [_HALF] * 3 if rescaled else transform.std,
        "crop_pct": round(side / resized, 3),
        "crop_mode": "center",
        "interpolation": transform.interpolation.value,
        "license": _TORCHVISION_LICENSE,
        "url": weights.url,
    }


def _block(table: dict[str, Any]) -> str:
    lines = [
        f"{json.dumps(key)}: {json.dumps(table[key], sort_keys=True)}" for key in sorted(table)
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def main() -> None:
    """Writes both files."""
    text = index_text(parameter_counts(list(registry.ARCHITECTURES)))
    WEIGHTS_FOLDER.joinpath("index.json").write_text(text, "utf-8")
    WEIGHTS_FOLDER.joinpath("imagenet_classes.txt").write_text(classes_text(), "utf-8")


if __name__ == "__main__":
    main()
