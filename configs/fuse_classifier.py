"""The pretrained classifier kept, its logits combined with those of a new head.

Command:
    python -m tl_jax train configs/fuse_classifier.py --data.source folder:PATH --workdir runs/fuse

Both are trained together with all layers. `PATH` holds `class/*.jpg`; classes that are named as
ImageNet's, or mapped to them (`--transfer.class-mapping`), start from their logits. The network is
none of timm's, so `export` refuses it. Expect a gain where the new classes are made of ImageNet's.
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
        data=DataConfig(source="folder:photos", batch_size=32, image_size=96),
        augment=AugmentConfig(scale=(0.6, 1.0)),
        optim=OptimConfig(
            name="adamw",
            learning_rate=5e-4,
            head_learning_rate=5e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(classifier="fuse"),
        train=TrainConfig(epochs=6),
    )
