"""BitFit (arXiv:2106.10199): biases and the head are trained, kernels stand still.

Command:
    python -m tl_jax train configs/bitfit.py --workdir runs/bitfit

In this network all biases but the head's are BatchNorm's, which keeps its statistics. With the head
23,570 parameters are trained. Expect more than from the head alone. docs/strategies.md has it
beside the other strategies.
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
        transfer=TransferConfig(trained="head+biases", batch_norm="affine_only"),
        train=TrainConfig(epochs=6),
    )
