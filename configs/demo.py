"""Defects of solar cells (ELPV), EfficientNet-Lite0: one epoch of the head, three of all layers.

Command:
    python -m tl_jax train configs/demo.py --workdir runs/solar

Expect a test accuracy near 0.82 (654 photographs, of which 450 are of functional cells), after two
and a half minutes on two CPU cores. `make demo` runs it beside the same budget from random weights,
which ends near 0.74.
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
            warmup_epochs=0.5,
        ),
        train=TrainConfig(head_epochs=1, epochs=3),
    )
