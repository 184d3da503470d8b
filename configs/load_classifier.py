"""Classes that ImageNet also has: their rows of the pretrained classifier are carried over.

Command:
    python -m tl_jax train configs/load_classifier.py --data.source folder:PATH --workdir runs/load

`PATH` holds `class/*.jpg` whose classes have names of ImageNet's ("tabby_cats"), or are mapped to
them with `--transfer.class-mapping "pets=tabby|golden retriever"`. The run lists the matches; the
other classes start fresh. It reports the accuracy before training first. Expect a faster start than
with a new head.
"""

import dataclasses

from configs.base import PHOTOS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        PHOTOS,
        transfer=TransferConfig(classifier="load"),
    )
