"""Classes that ImageNet has too: the pretrained classifier's rows are carried over.

Command:
    python -m tl_jax train configs/load_classifier.py --data.source folder:PATH --workdir runs/load

`PATH` holds `class/*.jpg` whose classes are named as ImageNet's ("tabby_cats"), or are mapped to
them with `--transfer.class-mapping "pets=tabby|golden retriever"`. The run lists what was found;
the other classes start fresh. Expect the accuracy before training to be told first, and a faster
start than with a new head.
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
        transfer=TransferConfig(classifier="load"),
        train=TrainConfig(epochs=6),
    )
