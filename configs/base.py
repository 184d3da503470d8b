"""What the recipes share: a network, its training, and two sets of images to start from."""

import dataclasses

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig

# All layers, six epochs, on the photographs of solar cells that `make demo` uses.
SOLAR_CELLS = Config(
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
    train=TrainConfig(epochs=6),
)

# The same on a folder of your own photographs, which are upright.
PHOTOS = dataclasses.replace(
    SOLAR_CELLS,
    data=DataConfig(source="folder:photos", batch_size=32, image_size=96),
    augment=AugmentConfig(scale=(0.6, 1.0)),
)

# If few parameters are trained, they need a higher rate than the whole network.
HIGH_RATE = dataclasses.replace(SOLAR_CELLS.optim, learning_rate=3e-3)
