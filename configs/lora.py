"""LoRA (arXiv:2106.09685): low-rank kernels beside frozen ones, and the head.

Command:
    python -m tl_jax train configs/lora.py --workdir runs/lora

With the head 259,290 parameters are trained: kernels of rank 8 are added to convolutions and merged
into the plain ones on export. A step costs the backward pass of all layers; what is saved is the
optimizer's state and the size of what is stored. docs/strategies.md has it beside the other
strategies.
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
        data=DataConfig(source="elpv", test_split="test", batch_size=32, image_size=96),
        augment=AugmentConfig(scale=(0.6, 1.0), vertical_flip=True),
        optim=OptimConfig(
            name="adamw",
            learning_rate=3e-3,
            head_learning_rate=5e-3,
            weight_decay=0.05,
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(trained="head+added", adaptation="lora", lora_rank=8),
        train=TrainConfig(epochs=6),
    )
