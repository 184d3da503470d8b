"""Classes that ImageNet has too: the pretrained classifier's rows are carried over.

Command:
    python -m tl_jax train configs/load_classifier.py --data.source folder:PATH --workdir runs/load

`PATH` holds `class/*.jpg` whose classes are named as ImageNet's ("tabby_cats"), or are mapped to
them with `--transfer.class-mapping "pets=tabby|golden retriever"`. The run lists what was found;
the other classes start fresh. Expect the accuracy before training to be told first, and a faster
start than with a new head.
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
