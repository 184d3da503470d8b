"""Layer-wise rate decay: all layers, each stage at 0.65 of the rate of the next.

Command:
    python -m tl_jax train configs/llrd.py --workdir runs/llrd

The last stage has the rate 5e-4, the stem 9e-5. Expect about the accuracy of one rate for all; the
gain grows with depth and with the likeness of the images to ImageNet's. docs/strategies.md has it
beside the other strategies.
"""

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


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
            layer_decay=0.65,
            warmup_epochs=0.5,
        ),
        train=TrainConfig(epochs=6),
    )
