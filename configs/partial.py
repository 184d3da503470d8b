"""Partial fine-tuning: the head and the last two stages.

Command:
    python -m tl_jax train configs/partial.py --workdir runs/partial

3,318,066 of 3,373,570 parameters are trained: those of EfficientNet lie almost all in its last
stages. The backward pass ends before the earlier ones, which have most of the pixels. Expect nearly
the accuracy of training all. docs/strategies.md has it beside the other strategies.
"""

from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        model=ModelConfig(name="tf_efficientnet_lite0"),
        data=DataConfig(source="elpv", test_split="test", batch_size=32, image_size=96),
        augment=AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-4,
            head_learning_rate=5e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(trained="head+last:2"),
        train=TrainConfig(epochs=6),
    )
