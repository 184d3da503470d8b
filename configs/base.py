"""What the recipes share: two sets of images to start from, and a rate for few parameters."""

import dataclasses

from tl_jax.config import AugmentConfig, Config, DataConfig, OptimConfig, TrainConfig

# EfficientNet-Lite0 with the default options, for six epochs, on the photographs of solar cells
# that `make demo` uses. They may be turned upside down.
SOLAR_CELLS = Config(
    data=DataConfig(source="elpv", test_split="test", image_size=96),
    augment=AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
    train=TrainConfig(epochs=6),
)

# The same on a folder of your own photographs, which are upright.
PHOTOS = dataclasses.replace(
    SOLAR_CELLS,
    data=DataConfig(source="folder:photos", image_size=96),
    augment=AugmentConfig(scale=(0.6, 1.0)),
)

# If few parameters are trained, they need a higher rate than the whole network.
HIGH_RATE = OptimConfig(learning_rate=3e-3, head_learning_rate=5e-3)
