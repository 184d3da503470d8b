"""L2-SP (arXiv:1802.01483): all layers, pulled toward the pretrained weights.

Command:
    python -m tl_jax train configs/l2_sp.py --workdir runs/l2_sp

The pull replaces the weight decay of all but the head. Expect the accuracy of full fine-tuning, and
less of a loss on very little data. docs/strategies.md has it beside the other strategies.
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
            l2_sp=0.01,
            warmup_epochs=0.5,
        ),
        train=TrainConfig(epochs=6),
    )
