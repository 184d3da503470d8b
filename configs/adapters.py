"""Residual adapters: a small bottleneck behind each frozen stage, and the head.

Command:
    python -m tl_jax train configs/adapters.py --workdir runs/adapters

Adapters start as the identity; with the head they have 61,890 parameters. The network is then none
of timm's, so `export` refuses it. Expect better accuracy than of the head alone, for few
parameters. docs/strategies.md has it beside the other strategies.
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
            learning_rate=3e-3,
            head_learning_rate=5e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(trained="head+added", adaptation="adapters"),
        train=TrainConfig(epochs=6),
    )
