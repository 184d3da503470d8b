"""The section `inputs`: what the network sees beside one image, and how it joins it."""

import dataclasses
from typing import Literal

from tl_jax.config import checks

SpatialName = Literal["average", "max", "average_max", "gem", "attention", "gru"]
FusionName = Literal["average", "max", "average_max", "gem", "attention", "gru", "concatenate"]


@dataclasses.dataclass(frozen=True)
class InputsConfig:
    """Views, scales, stages and columns beside the image; the defaults are one image alone."""

    views: tuple[str, ...] = ()
    """Columns of a manifest that each hold an image of the same object; some may be empty."""
    group: str | None = None
    """Column of a manifest whose equal cells say which rows are views of one object."""
    max_views: int | None = None
    """Most views of an object of `group`; None: as many as there are. Of more they are taken evenly
    spaced."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers; cells may be empty."""
    categorical: tuple[str, ...] = ()
    """Columns of names; cells may be empty."""
    text: tuple[str, ...] = ()
    """Columns of texts; several are joined."""
    vector: tuple[str, ...] = ()
    """Columns of lists of numbers, or of numbers, which are one vector that was computed before."""
    max_words: int = 32
    """Words of a text that are read, from its beginning."""
    vocabulary: int = 5000
    """Words that are known: the most frequent ones of the training split."""
    min_count: int = 1
    """How often a word must occur in the training split to be known."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of an image pyramid, relative to the image, through one backbone."""
    stages: tuple[str, ...] = ()
    """Modules of the backbone whose outputs are pooled and joined ("layer2", "layer4"); empty: its
    last output."""
    pooling: SpatialName = "average"
    """Pooling over space: average, maximum, half the sum of both, generalised mean (GeM), attention
    with learned queries, or a GRU row by row."""
    scale_fusion: FusionName = "average"
    """What makes one vector of those of the scales."""
    view_fusion: FusionName = "average"
    """What makes one vector of those of the views; "gru" and "concatenate" see their order."""
    attention_heads: int = 4
    """Queries of each "attention"."""
    recurrent_width: int = 0
    """Width of the state of each "gru"; 0: that of the features."""
    join: Literal["concatenate", "gated_sum"] = "concatenate"
    """How the image's features and the encoded columns become one vector: side by side, or a sum by
    learned gates (arXiv:1702.01992)."""
    width: int = 64
    """Width of the encodings of numbers, texts and vectors."""
    category_width: int = 16
    """Width of the vector of a category."""
    modality_dropout: float = 0.0
    """Probability with which training hides each modality but the image (arXiv:1501.00102)."""

    def __post_init__(self) -> None:
        rules = {
            "max_views": checks.at_least(1),
            "max_words": checks.at_least(1),
            "vocabulary": checks.at_least(1),
            "min_count": checks.at_least(1),
            "scales": checks.Rule(
                "be one or more different numbers above 0",
                lambda value: value and min(value) > 0 and len(set(value)) == len(value),
            ),
            "attention_heads": checks.at_least(1),
            "recurrent_width": checks.at_least(0),
            "width": checks.at_least(1),
            "category_width": checks.at_least(1),
            "modality_dropout": checks.RATE,
        }
        checks.check("inputs", self, rules)
        if self.views and self.group is not None:
            raise ValueError(
                "inputs.views and inputs.group are two ways of writing views; leave one out"
            )
        if self.max_views is not None and self.group is None:
            raise ValueError("inputs.max_views needs inputs.group, the column that joins the views")
        columns = [*self.numeric, *self.categorical, *self.text, *self.vector]
        if len(set(columns)) < len(columns):
            raise ValueError(f"a column of inputs must be of one kind, once; got {columns}")

    @property
    def has_views(self) -> bool:
        """Whether an example is several images."""
        return bool(self.views) or self.group is not None

    @property
    def has_columns(self) -> bool:
        """Whether an example has more than images."""
        return bool(self.numeric or self.categorical or self.text or self.vector)
