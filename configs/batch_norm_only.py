"""BatchNorm only: its scales and biases, its statistics, and the head.

Command:
    python -m tl_jax train configs/batch_norm_only.py --workdir runs/batch_norm_only

All kernels stand still (arXiv:2003.00152 trains so even from random ones). Expect much of what full
fine-tuning gains, for 44,578 of 3,373,570 parameters. docs/strategies.md has it beside the other
strategies.
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
        transfer=TransferConfig(trained="head+batch_norm"),
        train=TrainConfig(epochs=6),
    )
