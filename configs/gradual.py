"""Gradual unfreezing (ULMFiT, arXiv:1801.06146): the head, then one stage more every epoch.

Command:
    python -m tl_jax train configs/gradual.py --workdir runs/gradual

Six phases, from the head alone to all layers; each rebuilds the optimizer and keeps the state of
what stays trained. Expect a slow start and a mild change of the early stages; each phase compiles a
step of its own. docs/strategies.md has it beside the other strategies.
"""

from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    TransferConfig,
)
from tl_jax.run.phases import gradual


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
        transfer=TransferConfig(phases=gradual(stages=5, every=1, epochs=8)),
    )
