"""The index of pretrained weights: what is published for each architecture of this library."""

import dataclasses
import fnmatch
import functools
import importlib.resources
import json
from typing import Any

from tl_jax.weights import aliases


@dataclasses.dataclass(frozen=True)
class PretrainedConfig:
    """Facts about one set of pretrained weights, as timm (or torchvision) states them.

    Attributes:
      name: timm's full name, `architecture.tag`.
      num_classes: classes of its classifier; 0 if it was published without one.
      input_size: channels, height and width (pixels) of the images it was trained for.
      mean: mean of each channel, which is subtracted, for pixels in [0, 1].
      std: standard deviation of each channel, by which the result is divided.
      crop_pct: the image side that evaluation keeps, as a fraction of the resized image's.
      crop_mode: `"center"` (resize the shorter side, crop the middle), `"squash"` (resize both
        sides, whatever the aspect ratio) or `"border"` (resize the longer side, pad).
      interpolation: `"bicubic"`, `"bilinear"` or `"nearest"`.
      hub_id: the repository on the Hugging Face hub; None if the weights were never published.
      hub_file: the file in that repository, if it is not model.safetensors or pytorch_model.bin.
      revision: the commit of that repository that is read where none is asked for; None: the newest
        that there is.
      sha256: hash of that file at that commit; None: not known.
      url: the file's URL, for weights that are not on the hub; the name ends in the first digits of
        the file's SHA-256.
      lacks: dotted names of modules of the architecture that these weights do not have.
      license: SPDX identifier in lower case; None where timm states none.
      test_input_size: a larger input that evaluates better, where timm states one.
      test_crop_pct: the crop fraction that goes with `test_input_size`.
      class_names: of the classifier, in the order of its logits, where weights bring them along;
        for the index's own weights see `tl_jax.weights.classes.class_names`.
    """

    name: str
    num_classes: int
    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str
    interpolation: str
    hub_id: str | None = None
    hub_file: str | None = None
    url: str | None = None
    lacks: tuple[str, ...] = ()
    license: str | None = None
    test_input_size: tuple[int, int, int] | None = None
    test_crop_pct: float | None = None
    class_names: tuple[str, ...] | None = None
    revision: str | None = None
    sha256: str | None = None

    @property
    def published(self) -> bool:
        """Whether such weights can be downloaded."""
        return self.hub_id is not None or self.url is not None


def pretrained_config(name: str) -> PretrainedConfig:
    """Returns the facts about a set of weights.

    Args:
      name: `architecture.tag`, or `architecture` alone for timm's default tag. An architecture
        without published weights (`efficientnet_b6`) has an entry too, for its input size and
        normalisation; its `hub_id` and `url` are None.

    Raises:
      ValueError: if there is no such entry, naming the nearest.

    Examples:
      >>> pretrained_config("resnet50").name
      'resnet50.a1_in1k'
    """
    name = aliases.resolve(name)
    configs = _configs()
    architectures = _index()["architectures"]
    full = architectures[name]["default"] if name in architectures else name
    if full not in configs:
        choices = [*architectures, *configs]
        raise ValueError(
            f"no pretrained weights named {name!r}{aliases.hint(name, choices)} "
            "(pretrained_names() lists all)"
        )
    return configs[full]


def config_of_repository(repo: str) -> PretrainedConfig | None:
    """Returns the entry whose weights a repository of the hub (OWNER/REPO) holds, if there is one.

    Examples:
      >>> config_of_repository("timm/resnet18.a1_in1k").name
      'resnet18.a1_in1k'
    """
    return next((config for config in _configs().values() if config.hub_id == repo), None)


def has_file(name: str) -> bool:
    """Returns whether weights are published at an address that ends in this name.

    Examples:
      >>> has_file("alexnet-owt-7be5be79.pth"), has_file("model-20260101.pth")
      (True, False)
    """
    return any((config.url or "").rpartition("/")[2] == name for config in _configs().values())


def pretrained_names(pattern: str = "*") -> list[str]:
    """Returns the full names, sorted, of all published weights that a shell pattern matches.

    Examples:
      >>> pretrained_names("vgg1[13]*")
      ['vgg11.tv_in1k', 'vgg11_bn.tv_in1k', 'vgg13.tv_in1k', 'vgg13_bn.tv_in1k']
    """
    published = sorted(name for name, config in _configs().items() if config.published)
    return [name for name in published if fnmatch.fnmatchcase(name, pattern)]


def parameter_count(architecture: str) -> int:
    """Returns how many parameters an architecture has with the classifier of its default weights.

    Args:
      architecture: its name, without a tag.

    Raises:
      KeyError: if the index does not list it.

    Examples:
      >>> parameter_count("resnet50")
      25557032
    """
    return _index()["architectures"][architecture]["parameters"]


@functools.cache
def _index() -> dict[str, Any]:
    text = importlib.resources.files("tl_jax.weights").joinpath("index.json").read_text("utf-8")
    return json.loads(text)


@functools.cache
def _configs() -> dict[str, PretrainedConfig]:
    configs = {}
    for name, entry in _index()["weights"].items():
        # JSON has lists only. With tuples the dataclass is hashable: jit can take it as static.
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()
        }
        configs[name] = PretrainedConfig(name=name, **fields)
    return configs
