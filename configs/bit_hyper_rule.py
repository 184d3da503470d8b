"""BiT's hyper-rule (arXiv:1912.11370): a recipe derived from the size of the data set.

Command:
    python -m tl_jax train configs/bit_hyper_rule.py --workdir runs/bit_hyper_rule

For the 1,574 training photographs of ELPV, 300 pixels wide, it gives: 480 pixels, 500 steps, SGD
with momentum and no weight decay, the rate divided by ten three times, no mixup. For other data
change `EXAMPLES` and `SIZE`. It needs an accelerator, because its images have 25 times as many
pixels as those of `configs/demo.py`; on a CPU add `--data.image-size 96`. This repository has not
run it.
"""

import math

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from tl_jax.transfer.hyper_rule import hyper_rule

EXAMPLES, SIZE, BATCH_SIZE = 1_574, (300, 300), 64


def get_config() -> Config:
    """Returns the configuration."""
    rule = hyper_rule(EXAMPLES, SIZE, batch_size=BATCH_SIZE)
    steps_per_epoch = max(1, round(EXAMPLES / BATCH_SIZE))
    return Config(
        model=ModelConfig(name="tf_efficientnet_lite0"),
        data=DataConfig(
            source="elpv", test_split="test", batch_size=rule.batch_size, image_size=rule.crop
        ),
        # The rule crops a fixed share of the resized image at random.
        augment=AugmentConfig(
            scale=((rule.crop / rule.resize) ** 2, 1.0), ratio=(1.0, 1.0), mixup=rule.mixup
        ),
        optim=OptimConfig(
            name="sgd",
            learning_rate=rule.learning_rate,
            head_learning_rate=None,
            momentum=rule.momentum,
            schedule="step",
            step_epochs=tuple(step / steps_per_epoch for step in rule.boundaries),
            step_factor=0.1,
            warmup_epochs=rule.warmup_steps / steps_per_epoch,
        ),
        train=TrainConfig(epochs=math.ceil(rule.steps / steps_per_epoch)),
    )
