"""SSF (arXiv:2210.08823): a scale and a shift behind every frozen layer, and the head.

Command:
    python -m tl_jax train configs/ssf.py --workdir runs/ssf

BatchNorm keeps the pretrained statistics. What is added is merged into the plain weights on export.
With the head 44,578 parameters are trained, at a rate several times that of full fine-tuning.
docs/strategies.md has it beside the other strategies.
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
        transfer=TransferConfig(trained="head+added", adaptation="ssf", batch_norm="affine_only"),
        train=TrainConfig(epochs=6),
    )
