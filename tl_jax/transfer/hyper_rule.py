"""BiT's hyper-rule: a recipe of fine-tuning that follows from the size of the data."""

import dataclasses

_BATCH_SIZE, _LEARNING_RATE = 512, 0.003
# By the number of examples below which it holds: all steps, those of the warm-up, where the rate
# falls, and mixup's alpha.
_REGIMES = (
    ("small", 20_000, 500, 100, (200, 300, 400), 0.0),
    ("medium", 500_000, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
    ("large", None, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
)
# Images of a smaller area than this are resized and cropped to less.
_SMALL_AREA = 96 * 96


@dataclasses.dataclass(frozen=True)
class HyperRule:
    """A recipe: how to fine-tune all layers on a data set, with SGD and without weight decay.

    The rate rises linearly over the warm-up, and is divided by ten at each of the boundaries:
    `optim.schedule("step", learning_rate, total_steps=steps, warmup_steps=warmup_steps,
    boundaries=boundaries, factor=0.1)`.

    Attributes:
      regime: "small", "medium" or "large", by the number of examples.
      resize: side of the square that a training image is resized to, without regard to its
        aspect ratio.
      crop: side of the square cut out of it at random, and flipped at random; images are
        evaluated resized to it.
      steps: of training.
      batch_size: images of a step.
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
        rows = {
            "data": self.regime,
            "images": f"resized to {self.resize}x{self.resize}, cropped to {self.crop}x{self.crop}",
            "steps": f"{self.steps:,} of {self.batch_size} images",
            "warm-up": f"{self.warmup_steps} steps",
            "rate": f"{self.learning_rate:.3g}, divided by ten at step "
            + ", ".join(f"{step:,}" for step in self.boundaries),
            "optimizer": f"SGD, momentum {self.momentum}, no weight decay",
            "mixup": f"alpha {self.mixup}" if self.mixup else "none",
        }
        width = max(len(name) for name in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows.items())


def hyper_rule(examples: int, size: tuple[int, int], *, batch_size: int = _BATCH_SIZE) -> HyperRule:
    """Returns BiT's recipe for a data set (Kolesnikov et al. 2020, arXiv:1912.11370).

    Resolution and schedule are those of the authors' code, `bit_hyperrule.py` of
    google-research/big_transfer. The paper's rule is to divide the rate at 30, 60 and 90 % of the
    steps; the code does so but for small data, where it is 40, 60 and 80 %, after a warm-up of 100
    steps. Its rate at step 0 is zero, that of `optim.schedule` one step's rise.

    A batch of another size than 512 scales the rate in proportion (arXiv:1706.02677) and leaves
    the number of steps as it is, so a smaller batch sees fewer images in all. The authors are
    more cautious: with 128 images they take 0.001 on CIFAR, where the proportion is 0.00075.

    Args:
      examples: size of the training set.
      size: height and width of its images, in pixels; below 96 x 96 in area they are small.
      batch_size: images of a step.

    Raises:
      ValueError: if a number is not positive.
    """
    height, width = size
    if min(examples, height, width, batch_size) < 1:
        raise ValueError(
            f"got {examples} examples of {height}x{width} pixels in batches of {batch_size}; "
            "each must be at least 1"
        )
    regime, _, steps, warmup, boundaries, mixup = next(
        row for row in _REGIMES if row[1] is None or examples < row[1]
    )
    resize, crop = (160, 128) if height * width < _SMALL_AREA else (512, 480)
    return HyperRule(
        regime=regime,
        resize=resize,
        crop=crop,
        steps=steps,
        batch_size=batch_size,
        learning_rate=_LEARNING_RATE * batch_size / _BATCH_SIZE,
        momentum=0.9,
        warmup_steps=warmup,
        boundaries=boundaries,
        mixup=mixup,
    )
