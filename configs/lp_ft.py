"""LP-FT (arXiv:2202.10054): a linear probe, then all layers at a low rate.

Command:
    python -m tl_jax train configs/lp_ft.py --workdir runs/lp_ft

Two epochs of the head and four of everything, so that a head that is already good bends the
features less. Expect the accuracy of full fine-tuning on like data, and more on data that have
shifted. docs/strategies.md has it beside the other strategies.
"""

from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TransferConfig,
)
from tl_jax.run.phases import lp_ft


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
            warmup_epochs=0.5,
        ),
        transfer=TransferConfig(phases=lp_ft(head_epochs=2, epochs=4, head_rate=5e-3, rate=3e-4)),
    )
