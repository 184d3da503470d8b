"""The section `data`: which images are read, and how."""

import dataclasses
from typing import Literal

from tl_jax.config import checks


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images, and how they are read."""

    source: str = "elpv"
    """`elpv`, `folder:PATH`, `manifest:FILE` (.csv, .jsonl or .parquet), `npz:FILE`,
    `fashion_mnist[:FOLDER_OR_DEB]`, `digits`, `tfds:NAME[/CONFIG][:VERSION]` or `prepared:FOLDER`
    (written by `python -m tl_jax prepare`)."""
    data_dir: str | None = None
    """Folder of prepared sets; the default is TFDS's own for "tfds:", a cache for "elpv"."""
    labels: tuple[str, ...] = ()
    """Columns of a manifest, or features of a TFDS set, that hold the labels, the main one first;
    empty: "label" or the only other usual name ("target", "class_id" ...), or all classes."""
    image_column: str | None = None
    """Column of a manifest that holds the images; None: found by its name."""
    example_weights: str | None = None
    """Weight of each training example in the loss, a number of 0 or more: a column of a manifest, a
    feature of a TFDS set ("certainty" of "elpv"), an array of a `.npz` file. Metrics are without
    weights."""
    train_split: str = "train"
    """Split to train on; TFDS's slices ("train[:90%]") work for every source."""
    eval_split: str | None = "validation"
    """Split to evaluate on after each epoch; the best checkpoint is chosen on it. None: nothing is
    evaluated before the end, and the last checkpoint is kept, so that all that is no test may be
    trained on (`train_split` "train+validation")."""
    test_split: str | None = None
    """Split to report on once, at the end, with the best checkpoint (or the last, see
    `eval_split`)."""
    validation_fraction: float = 0.2
    """Share of each class that is held out of a "folder:" or "manifest:" without splits: each image
    whose name has a hash below it, so the share is approximate."""
    carve: float | None = None
    """Share of each class of the training split that is held out as the split "validation", for
    a set that has none, by a hash of names, so that it is approximate; None: nothing."""
    shots: int | None = None
    """Training examples of each class, drawn by the run's seed; None: all."""
    sampling: Literal["uniform", "balanced", "square_root"] = "uniform"
    """How often an example is drawn: "uniform": once an epoch; "balanced": every class equally
    often; "square_root": every class in proportion to the square root of its size."""
    batch_size: int = 32
    """Global batch size: images of one step over all devices and processes."""
    image_size: int | None = None
    """Side of the square image that the network sees; the default is that of the weights."""
    cache: Literal["device", "memory", "none"] = "memory"
    """"memory" keeps decoded images (side x side x 3 bytes each), "device" keeps them on the
    accelerator; "none" decodes every time."""
    workers: int = 2
    """Threads or processes that decode images; 0: the main thread does."""
    worker_type: Literal["thread", "process"] = "thread"
    """"process" is for sources whose reading is slow Python code."""
    fast_jpeg: bool = True
    """Decode large JPEG files of the training split at a half, a quarter or an eighth of their
    size, if that is at least the size of the canvas."""
    stretch_on: Literal["auto", "device", "host"] = "auto"
    """Where training images are resized to the canvas. "device": on the accelerator, so that the
    host only decodes; needs `cache` "none". "auto": "device" if `cache` is "none" and there is an
    accelerator, else "host"."""
    on_corrupt: Literal["raise", "skip"] = "raise"
    """What to do with images that cannot be decoded: stop and name them, or leave them out."""
    value_range: tuple[float, float] | None = None
    """Values of black and white in images of more than 8 bits or of floats, such as 0 4095 for 12
    bits in files of 16; None: what the files say. Prediction uses the same range."""

    def __post_init__(self) -> None:
        rules = {
            "validation_fraction": checks.FRACTION,
            "carve": checks.FRACTION,
            "shots": checks.at_least(1),
            "batch_size": checks.at_least(1),
            "image_size": checks.at_least(8),
            "workers": checks.at_least(0),
            "value_range": checks.ASCENDING,
        }
        checks.check("data", self, rules)
        if self.stretch_on == "device" and self.cache != "none":
            raise ValueError(
                f"data.stretch_on 'device' needs data.cache 'none'; got data.cache {self.cache!r}"
            )
        if self.eval_split is None and self.test_split is None:
            raise ValueError(
                "data.eval_split and data.test_split are both None; one of them must name the "
                "split that the report is about"
            )
