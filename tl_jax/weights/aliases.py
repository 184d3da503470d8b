"""Other spellings of the names of networks: which are the same name, and which is meant.

`timm_former_names.txt` has timm's deprecated names of networks that are here, each with its present
name; `timm_other_names.txt` the networks of timm that are not here.
"""

import difflib
import functools
import importlib.resources
import re
from collections.abc import Collection, Iterable

from tl_jax import arguments

# timm's own repositories on the hub are called as the weights.
_TIMM = re.compile(r"(?:(?:hf[-_]hub:|https?://huggingface\.co/)?timm/)(?=[\w.-]+$)")
# A repository of someone else.
_REPOSITORY = re.compile(r"(?:hf[-_]hub:|hub:|https?://huggingface\.co/).+")
# What other libraries call networks that are here, in small letters without punctuation.
_ELSEWHERE = {
    "mobilenet": "mobilenetv1_100",
    "mobilenetv1": "mobilenetv1_100",
    "mobilenetv2": "mobilenetv2_100",
    "mobilenetv3": "mobilenetv3_large_100",
    "mobilenetv3large": "mobilenetv3_large_100",
    "mobilenetv3small": "mobilenetv3_small_100",
    "mobilenetv4": "mobilenetv4_conv_small",
    "mnasnet": "mnasnet_100",
    "mnasnet05": "mnasnet_050",
    "mnasnet10": "mnasnet_100",
    "vgg": "vgg16",
    "densenet": "densenet121",
    "resnext50": "resnext50_32x4d",
    "resnext101": "resnext101_32x8d",
    "resnetv250x1": "resnetv2_50x1_bit",
    "wideresnet50": "wide_resnet50_2",
    "wideresnet101": "wide_resnet101_2",
    "resnet18v2": "resnetv2_18",
    "resnet34v2": "resnetv2_34",
    "resnet50v2": "resnetv2_50",
    "resnet101v2": "resnetv2_101",
    "resnet152v2": "resnetv2_152",
    "inception": "inception_v3",
    "inceptionv1": "torchvision/googlenet",
    "squeezenet": "torchvision/squeezenet1_1",
    "shufflenet": "torchvision/shufflenet_v2_x1_0",
    "shufflenetv2": "torchvision/shufflenet_v2_x1_0",
    "convnext": "convnext_tiny",
    "convnextv2": "convnextv2_tiny",
    **{f"convnext{size}v2": f"convnextv2_{size}" for size in ("nano", "tiny", "base", "large")},
    "efficientnet": "efficientnet_b0",
    "regnetx400mf": "regnetx_004_tv",
    "regnetx800mf": "regnetx_008",
    "regnety400mf": "regnety_004",
    "regnety800mf": "regnety_008_tv",
}
# Words before a name that say whose weights or which variant it is, not which family.
_PREFIXES = ("tf", "nf", "dm", "legacy", "gc", "test", "ig", "tv", "ssl", "swsl", "gluon")
# Names this much alike are taken for a misspelling, if they have so many letters.
_NEAR, _LONG = 0.8, 6
# A network of torchvision that is not here, although its like of other widths are.
_TORCHVISIONS = ("mnasnet1_3",)
# Networks for the images of CIFAR, of 32 pixels, whose names differ from others in the depth only.
_CIFARS = re.compile(r"resnet[_-]?(9|20|32|44|56|110|164|1001|1202)")


def resolve(name: str) -> str:
    """Returns the name here of a network or its weights that timm calls, or called, otherwise.

    Names with timm's owner on the hub, and names that timm has given up, have one meaning; any
    other name is returned as it is.

    Args:
      name: `architecture` or `architecture.tag`, in any spelling.

    Raises:
      TypeError: if it is not text.

    Examples:
      >>> resolve("hf-hub:timm/resnet50.a1_in1k"), resolve("tf_efficientnet_b0_ns")
      ('resnet50.a1_in1k', 'tf_efficientnet_b0.ns_jft_in1k')
    """
    if not isinstance(name, str):
        raise TypeError(
            f"the name of a network is text, such as 'resnet50', but got {arguments.kind(name)}; "
            "list_models() lists them"
        )
    name = _TIMM.sub("", name, count=1)
    arch, dot, tag = name.partition(".")
    present = _former_names().get(arch, arch)
    if dot and "." in present:  # The former name is itself that of a set of weights.
        return name
    return present + dot + tag


def is_elsewhere(name: str) -> bool:
    """Returns whether a name is of a network of timm that is not here.

    >>> is_elsewhere("vit_base_patch16_224"), is_elsewhere("resnet50"), is_elsewhere("resnet")
    (True, False, False)
    """
    return name.partition(".")[0] in _other_names()


def is_repository(name: str) -> bool:
    """Returns whether a name is the address of a repository on the hub, and not timm's.

    >>> is_repository("hf-hub:me/pets"), is_repository("hf-hub:timm/resnet50")
    (True, False)
    """
    return _REPOSITORY.fullmatch(_TIMM.sub("", name, count=1)) is not None


def hint(name: str, choices: Collection[str]) -> str:
    """Returns the end of an error message about an unknown name.

    It suggests the choice that is meant, says that a network is not here, or is empty.

    Args:
      name: the unknown name, as it was given.
      choices: the known names, of architectures or of weights or of both.

    Examples:
      >>> hint("ResNet-50", ["resnet34", "resnet50"])
      "; did you mean 'resnet50'?"
      >>> hint("vit_base_patch16_224", ["vgg16", "resnet50"])
      '; timm has this network, and it is not here'
      >>> hint("zzz", ["vgg16", "resnet50"])
      ''
    """
    given = resolve(name)
    name = given.rpartition("/")[2].strip()
    arch = name.partition(".")[0].lower()
    if arch in _other_names():
        return "; timm has this network, and it is not here"
    if arch in _TORCHVISIONS:
        return "; torchvision has this network, and it is not here"
    if _CIFARS.fullmatch(arch):
        return "; this network, for images of 32 pixels as in CIFAR, is not here"
    same = _same_letters(name, choices)
    if same is not None:
        torchvisions = f"{same}.tv_in1k"
        is_theirs = given.startswith("torchvision/") and torchvisions in choices
        return f"; did you mean {(torchvisions if is_theirs else same)!r}?"
    tags = [choice for choice in choices if choice.startswith(f"{arch}.")]
    meant = _nearest(name.lower(), tags) if "." in name else None
    if meant is not None:
        return f"; did you mean {meant!r}?"
    beginnings = [c for c in choices if re.match(rf"{re.escape(c)}(?![a-z0-9])", name.lower())]
    if beginnings:
        return f"; did you mean {max(beginnings, key=len)!r}?"
    stem = _stem(arch)
    own = {_stem(choice) for choice in choices}
    others = {_stem(other) for other in _other_names()} - own
    nearest = stem if stem in own | others else None
    if nearest is None and len(stem) >= _LONG:
        nearest = _nearest(stem, own | others)
    if nearest in others:
        return f"; no network of the family {nearest!r} is here"
    if nearest is None:
        return ""
    meant = _nearest(name.lower(), [c for c in choices if _stem(c) == nearest], cutoff=0.5)
    return f"; did you mean {meant!r}?" if meant else ""


def _same_letters(name: str, choices: Iterable[str]) -> str | None:
    """Returns the choice that has the same letters and digits, or that others call so."""
    known = {_letters(choice.removeprefix("torchvision/")): choice for choice in choices}
    wanted = _letters(_torchvision_regnet(name))
    meant = _ELSEWHERE.get(wanted)
    if meant is not None and meant in known.values():
        return meant
    return known.get(wanted) or known.get(f"tf{wanted}")


def _torchvision_regnet(name: str) -> str:
    """Returns timm's name of torchvision's regnet_x_1_6gf and its like; other names as they are.

    The number is of operations, in millions or thousands of millions; timm counts hundreds.

    >>> _torchvision_regnet("regnet_y_1_6gf")
    'regnety_016'
    """
    match = re.fullmatch(r"regnet[_-]?([xy])[_-]?(\d+)(?:[_.](\d))?gf", name.lower())
    if match is None:
        return name
    hundreds = 10 * int(match[2]) + int(match[3] or 0)
    # The one whose widths timm has under both roundings.
    return (
        "regnety_080_tv"
        if match[1] == "y" and hundreds == 80
        else (f"regnet{match[1]}_{hundreds:03d}")
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _stem(name: str) -> str:
    """Returns the part of a name that names its family: its first word without final digits.

    >>> _stem("tf_efficientnet_b0"), _stem("res2net50d")
    ('efficientnet', 'res2net')
    """
    words = re.split(r"[_.\-\s]", name.removeprefix("torchvision/").lower())
    while len(words) > 1 and words[0] in _PREFIXES:
        words = words[1:]
    return re.sub(r"(?<=[a-z])\d+[a-z]{0,2}\d*$", "", words[0])


def _nearest(name: str, choices: Iterable[str], cutoff: float = _NEAR) -> str | None:
    close = difflib.get_close_matches(name, sorted(set(choices)), n=1, cutoff=cutoff)
    return close[0] if close else None


@functools.cache
def _former_names() -> dict[str, str]:
    lines = _text("timm_former_names.txt").splitlines()
    return {former: present for former, _, present in (line.partition(" ") for line in lines)}


@functools.cache
def _other_names() -> frozenset[str]:
    return frozenset(_text("timm_other_names.txt").splitlines())


def _text(file: str) -> str:
    return importlib.resources.files("tl_jax.weights").joinpath(file).read_text("utf-8")
