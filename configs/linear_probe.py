"""Linear probe: the head alone is trained, on frozen features.

Command:
    python -m tl_jax train configs/linear_probe.py --workdir runs/linear_probe

2,562 of 3,373,570 parameters are trained, and BatchNorm stands still. A step costs little more than
a forward pass. Expect the fastest of the recipes, and less accuracy than from the others where the
images are unlike ImageNet's. docs/strategies.md has it beside the other strategies.
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
        transfer=TransferConfig(trained="head"),
        train=TrainConfig(epochs=6),
    )
