"""VGG16 without its top, global average pooling, a dense layer of 1024 with ReLU, softmax.

Command:
    python -m tl_jax train configs/vgg16_gap.py --data.source folder:PATH --workdir runs/vgg16

The head that the Keras articles put on VGG16, with Adam at 1e-4 for all layers. Needs VGG16's
weights from the hub or a file (`--model.weights vgg16.safetensors`; the 124 million parameters of
the old top are not loaded). timm has no such head, so `export` refuses it.
"""

from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig


def get_config() -> Config:
    """Returns the configuration."""
    return Config(
        model=ModelConfig(name="vgg16", head="mlp", hidden=(1024,)),
        data=DataConfig(source="folder:photos", batch_size=32),
        augment=AugmentConfig(scale=(0.6, 1.0)),
        optim=OptimConfig(
            name="adam",
            learning_rate=1e-4,
            head_learning_rate=None,
            schedule="constant",
            warmup_epochs=0.0,
        ),
        train=TrainConfig(epochs=10),
    )
