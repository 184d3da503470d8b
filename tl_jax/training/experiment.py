"""The data of a configuration, and the record of what a run was made of."""

import dataclasses
import json
from typing import Any

from tl_jax import trees
from tl_jax.config import Config
from tl_jax.data.open import open_source
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.sources import WeightsRecord


def open_split(config: Config, split: str) -> Source:
    """Opens one split of the configured data."""
    return open_source(
        config.data.source,
        split,
        data_dir=config.data.data_dir,
        seed=config.train.seed,
        validation_fraction=config.data.validation_fraction,
        on_corrupt=config.data.on_corrupt,
    )


def preprocess_of(config: Config) -> Preprocess:
    """Returns the evaluation transform: that of the weights, at the configured image size."""
    weights = pretrained_config(config.model.name)
    return Preprocess.of(weights, input_size=config.data.image_size)


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """What is known of a run beside its configuration, so that it can be used without its data.

    Attributes:
      class_names: in the order of the logits.
      preprocess: the evaluation transform.
      weights: where the backbone's weights came from, with their hash; None if random.
      parameters: number of parameters.
      examples: number of examples by split.
      skipped: corrupt images that were left out, by split.
      versions: of the libraries that decide the numbers.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    weights: WeightsRecord | None
    parameters: int
    examples: dict[str, int]
    skipped: dict[str, list[str]]
    versions: dict[str, str]

    def to_json(self) -> str:
        """Returns it as JSON: the inverse of `from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "RunInfo":
        """Reads what `to_json` wrote."""
        fields = json.loads(text)
        values = {
            k: tuple(v) if isinstance(v, list) else v for k, v in fields["preprocess"].items()
        }
        weights = fields["weights"]
        return cls(
            **fields
            | {
                "class_names": tuple(fields["class_names"]),
                "preprocess": Preprocess(**values),
                "weights": None if weights is None else WeightsRecord(**weights),
            }
        )


def count_parameters(params: Any) -> int:
    """Returns the number of values in a tree of arrays."""
    return sum(leaf.size for leaf in trees.flatten(params).values())
