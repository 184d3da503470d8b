"""An image and a text: a thumbnail of a stamp, and the sentence that Tux Paint shows with it.

Commands:
    python -m experiments.composed multi_modal_text --stamps PATH
    python -m tl_jax train configs/multi_modal_text.py --workdir runs/multi_modal_text

The subject of a stamp (animals, food, symbols ...) by 8 x 8 pixels and a sentence such as "A
walnut." Expect a test accuracy near 0.69 (213 stamps) after half a minute on a CPU core; the
thumbnail alone ends near 0.64 (docs/tasks.md).
"""

import dataclasses

from configs.base import HIGH_RATE, composed
from tl_jax.config import Config, InputsConfig, TaskConfig


def get_config() -> Config:
    """Returns the configuration."""
    config = composed("multi_modal_text", image_size=64)
    return dataclasses.replace(
        config,
        optim=HIGH_RATE,  # The encoder of the text starts from nothing.
        tasks=(TaskConfig("folder"),),
        inputs=InputsConfig(text=("text",), max_words=12),
        train=dataclasses.replace(config.train, epochs=20),
    )
