"""An image folder with a pretrained ResNet-50: SGD with momentum, all layers at one rate.

Command:
    python -m tl_jax train configs/imagefolder_resnet50.py --data.source folder:PATH

The plain recipe of many tutorials: `PATH/train/class/*` and `PATH/val/class/*`, SGD with rate 1e-3
and momentum 0.9, the rate divided by ten every seven epochs. Needs ResNet-50's weights from the hub
or a file (`--model.weights resnet50.safetensors`). Expect a validation accuracy with its 95%
interval after each epoch. This repository has not run it.
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
        model=ModelConfig(name="resnet50"),
        data=DataConfig(source="folder:photos", eval_split="val", batch_size=32),
        augment=AugmentConfig(scale=(0.08, 1.0)),
        optim=OptimConfig(
            name="sgd",
            learning_rate=1e-3,
            head_learning_rate=None,
            momentum=0.9,
            schedule="step",
            step_epochs=(7.0, 14.0, 21.0),
            step_factor=0.1,
            warmup_epochs=0.0,
        ),
        transfer=TransferConfig(batch_norm="update"),
        train=TrainConfig(epochs=25),
    )
