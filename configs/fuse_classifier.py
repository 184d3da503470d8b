"""The pretrained classifier kept, its logits combined with those of a new head.

Command:
    python -m tl_jax train configs/fuse_classifier.py --data.source folder:PATH --workdir runs/fuse

Both are trained together with all layers. `PATH` holds `class/*.jpg`; classes with the name of an
ImageNet class, or mapped to some (`--transfer.class-mapping`), start from their logits. timm does
not have this network, so `export` refuses it. Expect a gain if the new classes combine ImageNet's.
"""

import dataclasses

from configs.base import PHOTOS
from tl_jax.config import Config, TransferConfig


def get_config() -> Config:
    """Returns the configuration."""
    return dataclasses.replace(
        PHOTOS,
        transfer=TransferConfig(classifier="fuse"),
    )
