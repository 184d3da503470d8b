"""Makes the index of pretrained weights and the list of ImageNet's class names from timm.

    python -m experiments.make_index

rewrites `index.json` and `imagenet_classes.txt` under `tl_jax/weights/`. Run it after adding an
architecture or moving to another version of timm; the result is committed.
"""

import json
from pathlib import Path
from typing import Any

from experiments.torch_peer import import_timm
from tl_jax.models import registry

WEIGHTS_FOLDER = Path(__file__).parents[1] / "tl_jax" / "weights"
# As tl_jax.weights.index.PretrainedConfig has them; empty ones are left out of the file.
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
# Ways of loading that this library has no reader for, and class offsets that it does not know.
_UNKNOWN_FIELDS = ("custom_load", "file", "state_dict", "label_offset")


def index_text(architectures: list[str]) -> str:
    """Returns the text of `index.json` for these architectures: sorted, one entry a line."""
    timm = import_timm()
    defaults, weights = {}, {}
    for arch in sorted(architectures):
        default = timm.models.get_pretrained_cfg(arch)
        defaults[arch] = f"{arch}.{default.tag}"
        for name in {defaults[arch], *timm.list_pretrained(f"{arch}.*")}:
            weights[name] = _entry(name, timm.models.get_pretrained_cfg(name).to_dict())
    lines = [
        "{",
        f'"timm": {json.dumps(timm.__version__)},',
        f'"defaults": {_block(defaults)},',
        f'"weights": {_block(weights)}',
        "}",
    ]
    return "\n".join(lines) + "\n"


def classes_text() -> str:
    """Returns the names of ImageNet-1k's classes, one a line."""
    import_timm()
    from timm.data import ImageNetInfo

    return "\n".join(ImageNetInfo("imagenet-1k").label_descriptions()) + "\n"


def _entry(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of timm's entry that the index keeps.

    Raises:
      ValueError: if timm loads these weights in a way that the index cannot state.
    """
    unknown = [field for field in _UNKNOWN_FIELDS if config.get(field)]
    if unknown:
        raise ValueError(f"{name}: timm sets {unknown}, which the index has no field for")
    entry = {field: config.get(field) for field in _FIELDS}
    entry["hub_id"] = config.get("hf_hub_id")
    entry["hub_file"] = config.get("hf_hub_filename")
    return {field: value for field, value in entry.items() if value is not None}


def _block(table: dict[str, Any]) -> str:
    lines = [
        f"{json.dumps(key)}: {json.dumps(table[key], sort_keys=True)}" for key in sorted(table)
    ]
    return "{\n" + ",\n".join(lines) + "\n}"


def main() -> None:
    """Writes both files."""
    names = list(registry.ARCHITECTURES)
    WEIGHTS_FOLDER.joinpath("index.json").write_text(index_text(names), "utf-8")
    WEIGHTS_FOLDER.joinpath("imagenet_classes.txt").write_text(classes_text(), "utf-8")


if __name__ == "__main__":
    main()
