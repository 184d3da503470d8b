"""The section `augment`: random changes of training images, on the device."""

import dataclasses
from typing import Literal

from tl_jax.config import checks


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, on the device."""

    scale: tuple[float, float] = (0.35, 1.0)
    """Range of the random crop's share of the image's area."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Range of the random crop's aspect ratio, width over height."""
    horizontal_flip: bool = True
    """Flip left and right with probability 1/2."""
    vertical_flip: bool = False
    """Flip top and bottom with probability 1/2."""
    rotation: float = 0.0
    """Largest angle of a random rotation to either side, in degrees."""
    shear: float = 0.0
    """Largest angle of a random shear to either side, in degrees."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the visible extent, drawn for height and width separately, as in Keras: 0.8
    enlarges, 1.2 shows the whole image with a border."""
    shift: float = 0.0
    """Largest random shift in each direction, as a share of height or width."""
    fill: Literal["constant", "nearest", "reflect", "wrap"] = "constant"
    """What a geometric change shows outside the image: the mean colour, the nearest edge pixel,
    the mirrored image or the repeated image."""
    policy: Literal["none", "randaugment", "trivialaugment", "augmix"] = "none"
    """RandAugment (arXiv:1909.13719), TrivialAugment (2103.10158) or AugMix (1912.02781)."""
    policy_operations: int = 2
    """Operations of RandAugment on each image."""
    policy_magnitude: int = 9
    """RandAugment's magnitude, 0 to 30 as in torchvision (timm's 9 is about 27)."""
    policy_severity: int = 3
    """AugMix's severity, 1 to 10."""
    brightness: float = 0.0
    """Colour jitter by a factor between 1 - this and 1 + this."""
    contrast: float = 0.0
    """See `brightness`."""
    saturation: float = 0.0
    """See `brightness`."""
    hue: float = 0.0
    """Colour jitter that turns the hue by up to this share of the circle, at most 1/2."""
    grayscale: float = 0.0
    """Probability of conversion to gray."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in pixels of the image that the network sees."""
    erase: float = 0.0
    """Probability of erasing a rectangle (arXiv:1708.04896)."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Range of the rectangle's share of the image's area."""
    erase_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of the rectangle's height over its width."""
    erase_fill: Literal["const", "rand", "pixel"] = "const"
    """What the rectangle is filled with: the mean colour, a random colour, or noise."""
    mixup: float = 0.0
    """Parameter of mixup's Beta distribution: each batch is mixed with a permutation of itself,
    images and labels (arXiv:1710.09412); 0: no mixup."""
    cutmix: float = 0.0
    """The same for CutMix (arXiv:1905.04899), which pastes a box instead of adding; 0: no
    CutMix."""
    mix_switch: float = 0.5
    """Probability that a batch gets CutMix rather than mixup, if both are on."""
    mix_probability: float = 1.0
    """Probability that a batch is mixed at all."""

    def __post_init__(self) -> None:
        rules = {
            "scale": checks.SHARES,
            "ratio": checks.INCREASING,
            "rotation": checks.between(0, 180),
            "shear": checks.Rule("be in [0, 90) degrees", lambda value: 0 <= value < 90),
            "zoom": checks.INCREASING,
            "shift": checks.PROBABILITY,
            "policy_operations": checks.at_least(1),
            "policy_magnitude": checks.between(0, 30),
            "policy_severity": checks.between(1, 10),
            "brightness": checks.at_least(0),
            "contrast": checks.at_least(0),
            "saturation": checks.at_least(0),
            "hue": checks.between(0, 0.5),
            "grayscale": checks.PROBABILITY,
            "blur": checks.PROBABILITY,
            "blur_sigma": checks.INCREASING,
            "erase": checks.PROBABILITY,
            "erase_area": checks.SHARES,
            "erase_ratio": checks.INCREASING,
            "mixup": checks.at_least(0),
            "cutmix": checks.at_least(0),
            "mix_switch": checks.PROBABILITY,
            "mix_probability": checks.PROBABILITY,
        }
        checks.check("augment", self, rules)
