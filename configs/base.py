"""What the recipes share: the images to start from, and a rate for few parameters."""

import dataclasses

from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    OptimConfig,
    TrainConfig,
    TransferConfig,
)

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


def composed(name: str, image_size: int) -> Config:
    """Returns what recipes share that train on a set which `experiments.composed` writes.

    The backbone is frozen, so that a run takes a minute on a CPU; `--transfer.trained all
    --optim.learning-rate 3e-4` trains all of the network.

    Args:
      name: of the set; its examples are those of seed 0.
      image_size: that the network sees.
    """
    return Config(
        data=DataConfig(
            source=f"manifest:runs/composed/{name}-0/manifest.csv",
            test_split="test",
            image_size=image_size,
        ),
        # Nothing is cut off: what the labels name may be at the edge.
        augment=AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0)),
        optim=OptimConfig(learning_rate=2e-3, head_learning_rate=None),
        transfer=TransferConfig(trained="head"),
        train=TrainConfig(epochs=6),
    )
