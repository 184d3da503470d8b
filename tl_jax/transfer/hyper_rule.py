"""BiT's hyper-rule: a fine-tuning recipe that follows from the size of the data set."""

import dataclasses
from collections.abc import Sequence

from tl_jax import arguments

_BATCH_SIZE, _LEARNING_RATE = 512, 0.003
# Images of a smaller area are resized and cropped to smaller sizes.
_SMALL_AREA = 96 * 96


@dataclasses.dataclass(frozen=True)
class HyperRule:
    """A recipe: how to fine-tune all layers on a data set, with SGD and without weight decay.

    The rate rises linearly over the warm-up, and is divided by ten at each of the boundaries:
    `optim.schedule("step", learning_rate, total_steps=steps, warmup_steps=warmup_steps,
    boundaries=boundaries, factor=0.1)`.

    Attributes:
      regime: "small", "medium" or "large", by the number of examples.
      resize: side of the square that a training image is resized to, ignoring its aspect ratio.
      crop: side of the square that is cut out of it at random, and flipped at random; for
        evaluation, images are resized to it.
      steps: number of training steps.
      batch_size: images per step.
      learning_rate: at the end of the warm-up.
      momentum: of SGD.
      warmup_steps: steps over which the rate rises.
      boundaries: steps at which the rate is divided by ten.
      mixup: alpha of mixup; 0 for none.
    """

    regime: str
    resize: int
    crop: int
    steps: int
    batch_size: int
    learning_rate: float
    momentum: float
    warmup_steps: int
    boundaries: tuple[int, ...]
    mixup: float

    def __str__(self) -> str:
        boundaries = ", ".join(f"{step:,}" for step in self.boundaries)
        rows = {
            "data": self.regime,
            "images": f"resized to {self.resize}x{self.resize}, cropped to {self.crop}x{self.crop}",
            "steps": f"{self.steps:,} of {self.batch_size} images",
            "warm-up": f"{self.warmup_steps} steps",
            "rate": f"{self.learning_rate:.3g}, divided by ten at step {boundaries}",
            "optimizer": f"SGD, momentum {self.momentum}, no weight decay",
            "mixup": f"alpha {self.mixup}" if self.mixup else "none",
        }
        width = max(len(name) for name in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def hyper_rule(examples: int, size: tuple[int, int], *, batch_size: int = _BATCH_SIZE) -> HyperRule:
    """Returns BiT's recipe for a data set (Kolesnikov et al. 2020, arXiv:1912.11370).

    Resolution and schedule are those of the authors' code, `bit_hyperrule.py` of
    google-research/big_transfer. The paper's rule is to divide the rate at 30, 60 and 90% of the
    steps. The code does so except for small data, where it divides at 40, 60 and 80%, after a
    warm-up of 100 steps. Its rate at step 0 is zero; that of `optim.schedule` is one step's rise.

    A batch size other than 512 scales the rate in proportion (arXiv:1706.02677) and keeps the
    number of steps, so a smaller batch sees fewer images in all. The authors are more cautious:
    with 128 images they use 0.001 on CIFAR, where the proportion gives 0.00075.

    Args:
      examples: size of the training set.
      size: height and width of its images, in pixels; images below 96 x 96 in area are small.
      batch_size: images per step.

    Raises:
      ValueError: if a number is not positive.

    Examples:
      >>> rule = hyper_rule(1_574, (300, 300), batch_size=64)
      >>> rule.steps, rule.boundaries, rule.crop, round(rule.learning_rate, 6)
      (500, (200, 300, 400), 480, 0.000375)
    """
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise TypeError(f"size is {size!r}; expected height and width in pixels, as in (224, 224)")
    height, width = size
    for name, value in (
        ("examples", examples), ("a side of size", height), ("a side of size", width),
        ("batch_size", batch_size),
    ):  # fmt: skip
        arguments.whole_number(name, value)
    if min(examples, height, width, batch_size) < 1:
        raise ValueError(
            f"got {examples} examples of {height}x{width} pixels in batches of {batch_size}; "
            "each must be at least 1"
        )
    mixup, warmup_steps = 0.1, 500
    if examples < 20_000:
        regime, steps, boundaries = "small", 500, (200, 300, 400)
        mixup, warmup_steps = 0.0, 100
    elif examples < 500_000:
        regime, steps, boundaries = "medium", 10_000, (3_000, 6_000, 9_000)
    else:
        regime, steps, boundaries = "large", 20_000, (6_000, 12_000, 18_000)
    resize, crop = (160, 128) if height * width < _SMALL_AREA else (512, 480)
    return HyperRule(
        regime=regime,
        resize=resize,
        crop=crop,
        steps=steps,
        batch_size=batch_size,
        learning_rate=_LEARNING_RATE * batch_size / _BATCH_SIZE,
        momentum=0.9,
        warmup_steps=warmup_steps,
        boundaries=boundaries,
        mixup=mixup,
    )
