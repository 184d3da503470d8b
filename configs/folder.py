"""Your own photographs: a folder of class folders, EfficientNet-Lite0.

Command:
    python -m tl_jax train configs/folder.py --data.source folder:PATH --workdir runs/mine

`PATH` holds `class/*.jpg` (a fifth of each class is then held out), or `train/class/*.jpg` and
`validation/class/*.jpg`. One epoch of the head, then ten of all layers. Expect a validation
accuracy with its 95% interval after each epoch, and that of the best epoch in `report.json`.
"""

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        model=ModelConfig(name="tf_efficientnet_lite0", head_dropout=0.2),
        data=DataConfig(source="folder:photos", batch_size=32),
        augment=AugmentConfig(scale=(0.35, 1.0)),
        optim=OptimConfig(
            name="adamw",
            learning_rate=3e-4,
            head_learning_rate=3e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        train=TrainConfig(head_epochs=1, epochs=10, label_smoothing=0.1),
    )
