"""CIFAR-10 with a pretrained ResNet-18: a new 10-way head, Adam, cross-entropy; all layers.

Command:
    python -m tl_jax train configs/cifar10_resnet18.py --workdir runs/cifar10

Needs CIFAR-10 as TFDS prepares it in array_record, and ResNet-18's weights from the hub or a
file (`--model.weights resnet18.safetensors`). The 32x32 images are enlarged to 224x224, the size
that the weights were trained at. Expect an accuracy after each epoch on the test split, which this
recipe uses for validation, as many articles do. This repository has not run it on all of CIFAR-10.
"""

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        model=ModelConfig(name="resnet18"),
        data=DataConfig(source="tfds:cifar10", eval_split="test", batch_size=128, cache="none"),
        augment=AugmentConfig(scale=(0.6, 1.0)),
        optim=OptimConfig(name="adam", learning_rate=1e-4, head_learning_rate=1e-3),
        train=TrainConfig(epochs=5),
    )
