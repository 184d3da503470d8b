"""The data of a configuration, and the record of what a run was made of."""

import dataclasses
import json
from typing import Any

from tl_jax import trees
from tl_jax.config import Config
from tl_jax.data import subset
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, tasks_of
from tl_jax.data.sources.open import open_source
from tl_jax.weights.index import pretrained_config
from tl_jax.weights.sources import WeightsRecord

# The split that is carved out of the training split, where that is configured.
CARVED = "validation"


def open_split(config: Config, split: str) -> Source:
    """Opens one split of the configured data, or the part of one that is configured.

    Raises:
      ValueError: if it is not labelled with one class an image, besides what `open_source` raises.
    """
    data, seed = config.data, config.train.seed
    carved = data.carve is not None and split in (data.train_split, CARVED)
    source = open_source(
        data.source,
        data.train_split if carved else split,
        data_dir=data.data_dir,
        seed=seed,
        validation_fraction=data.validation_fraction,
        on_corrupt=data.on_corrupt,
        labels=data.labels,
        image_column=data.image_column,
    )
    check_labels(source)
    if carved:
        kept, held_out = subset.carve(source, data.carve, seed=seed, held_out=CARVED)
        source = held_out if split == CARVED else kept
    if data.shots is not None and split == data.train_split:
        source = subset.few_shot(source, data.shots, seed=seed)
    return source


def check_labels(source: Source) -> None:
    """Raises ValueError unless each example of a source is labelled with one class."""
    task = tasks_of(source)[0]
    if task.multi_label:
        raise ValueError(
            f"an image of {source.name} may have several of the labels {task.name!r}; a run is "
            "trained on one label an image: name another column with data.labels"
        )
    labels = source.labels()
    missing = int((labels < 0).sum())
    if missing:
        raise ValueError(
            f"{missing} of {len(labels)} examples of split {source.split!r} of {source.name} have "
            f"no {task.name!r}; leave them out, or name another column with data.labels"
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
      subsets: which examples of a split were chosen (`Subset.record`), by split.
      versions: of the libraries that decide the numbers.
    """

    class_names: tuple[str, ...]
    preprocess: Preprocess
    weights: WeightsRecord | None
    parameters: int
    examples: dict[str, int]
    skipped: dict[str, list[str]]
    subsets: dict[str, dict[str, Any]]
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
