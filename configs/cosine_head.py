"""Cosine head, from the means of each class's features; the head first, then all.

Command:
    python -m tl_jax train configs/cosine_head.py --data.source folder:PATH --workdir runs/cosine

The angle between features and a vector for each class decides, which helps with few images a class
(arXiv:1804.09458). `PATH` holds `class/*.jpg`. Expect a good accuracy after the first epoch. The
head is none of timm's, so `export` refuses it.
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
        model=ModelConfig(name="tf_efficientnet_lite0", head="cosine"),
        data=DataConfig(source="folder:photos", batch_size=32, image_size=96),
        augment=AugmentConfig(scale=(0.6, 1.0)),
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-4,
            head_learning_rate=5e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(head_init="class_means"),
        train=TrainConfig(head_epochs=1, epochs=5),
    )
