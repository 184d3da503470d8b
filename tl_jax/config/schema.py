"""The whole configuration of a run, as frozen dataclasses that the command line reads too."""

import dataclasses
import functools
import json
import math
import operator
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tl_jax import messages, trees

RANDOM_WEIGHTS = "random"
BatchNormMode = Literal["update", "affine_only", "frozen", "recalibrate"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network, the weights it starts from, and its new head."""

    name: str = "tf_efficientnet_lite0"
    """timm's name, `arch` or `arch.tag`; `python -m tl_jax models` lists them."""
    weights: str = "auto"
    """Where the pretrained weights come from: "auto" (an installed package, then the hub's
    cache, then the hub), "package", "hub", "hub@REVISION", "hub:OWNER/REPO@REVISION", a
    .safetensors or .pth file, or "random" to train from scratch."""
    head: Literal["linear", "mlp", "cosine"] = "linear"
    """"linear": the network's own classifier, made new for the classes at hand. "mlp": the
    network without its top, global average pooling, dense layers and a new classifier. "cosine":
    the angle between the features and a vector for each class, times a learned scale."""
    hidden: tuple[int, ...] = (1024,)
    """Widths of the dense layers (each followed by a ReLU) of the "mlp" head."""
    head_dropout: float = 0.0
    """Dropout rate before the classifier."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone, where the family has it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, statistics, logits and losses stay float32."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images, and how they are read."""

    source: str = "elpv"
    """"elpv", "folder:PATH", "manifest:FILE" (.csv, .jsonl or .parquet), "npz:FILE",
    "fashion_mnist[:FOLDER_OR_DEB]", "digits", "tfds:NAME[/CONFIG][:VERSION]" or "prepared:FOLDER"
    (what `python -m tl_jax prepare` wrote)."""
    data_dir: str | None = None
    """Where prepared sets lie; the default is tfds's own for "tfds:", a cache for "elpv"."""
    labels: tuple[str, ...] = ()
    """Columns of a manifest, or features of a TFDS set, that hold the labels, the main one first;
    empty: "label", or all classes."""
    image_column: str | None = None
    """Column of a manifest that holds the images; None: found by its name."""
    train_split: str = "train"
    """Split to train on; TFDS's slices ("train[:90%]") work for every source."""
    eval_split: str = "validation"
    """Split to evaluate on after each epoch; the best checkpoint is chosen on it."""
    test_split: str | None = None
    """Split to report on once, at the end, with the best checkpoint."""
    validation_fraction: float = 0.2
    """Part of a "folder:" without split folders that is held out, class by class."""
    carve: float | None = None
    """Part of the training split that is held out, class by class, as the split "validation", for
    a set that has none; None: nothing."""
    shots: int | None = None
    """Training examples of each class, drawn by the run's seed; None: all."""
    sampling: Literal["uniform", "balanced", "square_root"] = "uniform"
    """How often an example is drawn: "uniform": once an epoch; "balanced": every class equally
    often; "square_root": every class in proportion to the square root of its size."""
    batch_size: int = 32
    """Global batch size: images of one step over all devices and processes."""
    image_size: int | None = None
    """Side of the square image that the network sees; the default is the weights' own."""
    cache: Literal["device", "memory", "none"] = "memory"
    """"memory" keeps decoded images (side x side x 3 bytes each), "device" keeps them on the
    accelerator; "none" decodes every time."""
    workers: int = 2
    """Threads or processes that decode images; 0: the main thread does."""
    worker_type: Literal["thread", "process"] = "thread"
    """"process" where Python itself holds up the reading."""
    fast_jpeg: bool = True
    """Decode large JPEG files of the training split at a half, a quarter or an eighth of their
    size, where that is at least the size of the canvas."""
    stretch_on: Literal["auto", "device", "host"] = "auto"
    """Where training images are stretched to the canvas: "device" leaves the host decoding alone,
    and is for `cache` "none"; "auto": there, with such a cache, on an accelerator."""
    on_corrupt: Literal["raise", "skip"] = "raise"
    """What to do with images that cannot be decoded: stop and name them, or go on without."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training images, on the device."""

    scale: tuple[float, float] = (0.35, 1.0)
    """Range of the random crop's share of the image's area."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Range of the random crop's aspect ratio, width over height."""
    horizontal_flip: bool = True
    """Flip left and right with probability 1/2."""
    vertical_flip: bool = False
    """Flip top and bottom with probability 1/2."""
    rotation: float = 0.0
    """Largest angle of a random rotation to either side, in degrees."""
    shear: float = 0.0
    """Largest angle of a random shear to either side, in degrees."""
    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the extent that is seen, for height and width on their own, as in Keras: 0.8
    enlarges, 1.2 shows the whole with a border."""
    shift: float = 0.0
    """Largest random shift in each direction, as a share of height or width."""
    fill: Literal["constant", "nearest", "reflect", "wrap"] = "constant"
    """What is outside the image after a move: the mean colour, the edge, or the image again."""
    policy: Literal["none", "randaugment", "trivialaugment", "augmix"] = "none"
    """RandAugment (arXiv:1909.13719), TrivialAugment (2103.10158) or AugMix (1912.02781)."""
    policy_operations: int = 2
    """Operations of RandAugment on each image."""
    policy_magnitude: int = 9
    """RandAugment's magnitude, 0 to 30 as in torchvision (timm's 9 is about 27)."""
    policy_severity: int = 3
    """AugMix's severity, 1 to 10."""
    brightness: float = 0.0
    """Colour jitter by a factor between 1 - this and 1 + this; so `contrast`, `saturation`."""
    contrast: float = 0.0
    """See `brightness`."""
    saturation: float = 0.0
    """See `brightness`."""
    hue: float = 0.0
    """Colour jitter that turns the hue by up to this share of the circle, at most 1/2."""
    grayscale: float = 0.0
    """Probability that the colours are taken away."""
    blur: float = 0.0
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's deviation, in pixels that the network sees."""
    erase: float = 0.0
    """Probability that a rectangle is erased (arXiv:1708.04896)."""
    erase_area: tuple[float, float] = (0.02, 1 / 3)
    """Range of the rectangle's share of the image's area."""
    erase_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Range of the rectangle's height over its width."""
    erase_fill: Literal["const", "rand", "pixel"] = "const"
    """What takes its place: the mean colour, a random colour, or noise."""
    mixup: float = 0.0
    """Parameter of mixup's Beta distribution: each batch is mixed with itself in another order,
    images and labels (arXiv:1710.09412); 0: not at all."""
    cutmix: float = 0.0
    """The same for CutMix (arXiv:1905.04899), which pastes a box in place of adding."""
    mix_switch: float = 0.5
    """How often a batch is given to CutMix where both are on."""
    mix_probability: float = 1.0
    """How often a batch is mixed at all."""

    def __post_init__(self) -> None:
        rules = {f"augment.{rule}": holds for rule, holds in _augment_rules(self).items()}
        _refuse(_word_rules("augment", self) | rules)


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its rates and their schedule."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """SGD with momentum, Adam, or AdamW."""
    learning_rate: float = 1e-3
    """Peak learning rate of the backbone."""
    head_learning_rate: float | None = None
    """Peak learning rate of the head; the default is `learning_rate`."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of kernels (biases and normalisation are not decayed): decoupled for AdamW,
    added to the gradient for SGD and Adam."""
    layer_decay: float = 1.0
    """Factor on the rate from each stage to the one before it: the last stage has
    `learning_rate`, the one before it `learning_rate * layer_decay`, and so on to the stem."""
    l2_sp: float = 0.0
    """Pull of all but the head toward the weights that training starts from (L2-SP,
    arXiv:1802.01483), added to the gradient, in place of `weight_decay` there."""
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    """How the rate falls within each phase after the warm-up."""
    warmup_epochs: float = 0.0
    """Epochs over which the rate rises linearly from zero, in each phase."""
    step_epochs: tuple[float, ...] = (30.0, 60.0, 80.0)
    """Epochs of a phase at which the "step" schedule multiplies the rate by `step_factor`."""
    step_factor: float = 0.1
    """Factor of the "step" schedule."""
    clip_norm: float | None = None
    """Largest global norm of the gradients of the trained parameters; None: no clipping."""


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """Consecutive epochs in which the same parameters are trained in the same way."""

    epochs: int = 5
    """Its length."""
    trained: str = "all"
    """What is trained; see `transfer.trained`."""
    optimizer: Literal["sgd", "adam", "adamw"] | None = None
    """None: `optim.name`."""
    learning_rate: float | None = None
    """None: `optim.learning_rate`."""
    head_learning_rate: float | None = None
    """None: `optim.head_learning_rate`, or the phase's own `learning_rate` if it has one."""
    warmup_epochs: float | None = None
    """None: `optim.warmup_epochs`."""


@dataclasses.dataclass(frozen=True)
class GroupConfig:
    """Parameters with rates of their own."""

    name: str = ""
    """"stage0" (the stem with the first stage's output), "stage1" and so on, "head"; or a new
    name for the parameters that `patterns` match."""
    patterns: tuple[str, ...] = ()
    """Shell wildcards on dotted names ("layer4.*.bn*"), for a new group."""
    learning_rate: float | None = None
    """Peak rate; None: that of its stage, or `optim.learning_rate` for a new group."""
    weight_decay: float | None = None
    """None: `optim.weight_decay`."""
    batch_norm: BatchNormMode | None = None
    """None: `transfer.batch_norm`."""


@dataclasses.dataclass(frozen=True)
class TransferConfig:
    """What is trained, how it starts, and what is added to it."""

    classifier: Literal["replace", "load", "fuse"] = "replace"
    """"replace": a new head. "load": the rows of the pretrained classifier whose classes are
    named as the new ones, or mapped to them, are carried over. "fuse": the pretrained classifier
    stays, and a new head sees its logits beside the features."""
    class_mapping: tuple[str, ...] = ()
    """For "load" and "fuse": "new class=source class", by name or index, several sources with
    "|" between them; empty: by name."""
    head_init: Literal["zero", "small", "class_means"] = "zero"
    """Start of a new linear or cosine head, or of the "mlp" head's last layer ("zero" and "small"
    only): zero, normal with deviation 0.01, or the means of each class's features."""
    trained: str = "all"
    """What `train.epochs` train: "all", "head", "last:N" (the last N stages), "batch_norm",
    "norms", "biases", "added" (what `adaptation` adds), a group's name or a pattern on dotted
    names; several with "+" between them ("head+biases")."""
    phases: tuple[PhaseConfig, ...] = ()
    """The phases of training, in place of `train.head_epochs` and `train.epochs`."""
    groups: tuple[GroupConfig, ...] = ()
    """Groups with rates, decay or BatchNorm of their own."""
    batch_norm: BatchNormMode = "update"
    """BatchNorm of trained layers; that of frozen ones stands still. "update": statistics of the
    batch, running ones updated. "affine_only": running statistics, scale and bias trained.
    "frozen": nothing of it moves. "recalibrate": as "affine_only", with the statistics of all
    layers estimated anew from the training images."""
    recalibrate: Literal["before", "after"] = "after"
    """When "recalibrate" does so: once before training, or for each evaluation after an epoch."""
    adaptation: Literal["none", "lora", "ssf", "adapters"] = "none"
    """Parameters that are added to the network: low-rank kernels (LoRA, arXiv:2106.09685), scales
    and shifts (SSF, arXiv:2210.08823), or small residual branches behind each stage. Train them
    with `trained="head+added"`."""
    lora_rank: int = 8
    """Rank of LoRA."""
    lora_alpha: float = 8.0
    """LoRA's products are scaled by `lora_alpha / lora_rank`."""
    targets: tuple[str, ...] = ()
    """Patterns on the dotted names of the modules that are adapted; empty: all but the head (LoRA,
    SSF), the stages (adapters)."""
    adapter_reduction: int = 4
    """An adapter's inner width is its outer width over this."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How long is trained, and what is kept."""

    head_epochs: int = 0
    """Epochs in which the head alone is trained, the rest standing still, before `epochs`."""
    epochs: int = 5
    """Epochs in which `transfer.trained` is trained."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes."""
    seed: int = 0
    """Seed of initialisation, order of the data, augmentation and dropout."""
    keep: int = 1
    """Newest checkpoints kept, beside the best."""
    best_metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "loss"] = "accuracy"
    """Metric of `data.eval_split` that chooses the best checkpoint, and that stops training."""
    patience: int | None = None
    """Stop when so many epochs of the last phase have brought nothing better; None: never."""
    target: float | None = None
    """Stop when `best_metric` is as good as this; None: never."""
    ema: float = 0.0
    """Decay of the moving average of the trained parameters, which is then what is evaluated and
    used; 0: no average."""
    log_every: int = 10
    """Steps between two records of the training loss."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One experiment: everything that decides its result."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    transfer: TransferConfig = dataclasses.field(default_factory=TransferConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _check(self)


_SECTIONS = {
    "model": ModelConfig,
    "data": DataConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "transfer": TransferConfig,
    "train": TrainConfig,
}
_ITEMS = {"phases": PhaseConfig, "groups": GroupConfig}


def to_json(config: Config) -> str:
    """Returns a configuration as indented JSON: the inverse of `from_json`."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      ValueError: if the text is no JSON object, or a section or field has an unknown name.
    """
    try:
        sections = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"the configuration is not JSON: {error}") from error
    return Config(**{name: _section(name, fields) for name, fields in sections.items()})


def _section(name: str, fields: Mapping[str, Any]) -> Any:
    if name not in _SECTIONS:
        raise ValueError(f"unknown section {name!r}{messages.hint(name, _SECTIONS)}")
    return _read(name, _SECTIONS[name], fields)


def _read(name: str, section: type, fields: Mapping[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(section)}
    for field in fields:
        if field not in known:
            raise ValueError(f"unknown field {name}.{field}{messages.hint(field, known)}")
    return section(**{field: _value(name, field, value) for field, value in fields.items()})


def _value(name: str, field: str, value: Any) -> Any:
    if field in _ITEMS:
        return tuple(_read(f"{name}.{field}", _ITEMS[field], item) for item in value)
    return tuple(value) if isinstance(value, list) else value


def differences(one: Config, other: Config) -> list[str]:
    """Lists the fields in which two configurations differ, as `"optim.name: 'sgd' != 'adam'"`."""
    flat_one, flat_other = (trees.flatten(dataclasses.asdict(c)) for c in (one, other))
    return [
        f"{trees.dotted(path)}: {flat_one[path]!r} != {flat_other[path]!r}"
        for path in flat_one
        if flat_one[path] != flat_other[path]
    ]


def _check(config: Config) -> None:
    rules = {
        "data.batch_size must be at least 1": config.data.batch_size >= 1,
        "data.workers must not be negative": config.data.workers >= 0,
        "data.shots must be at least 1": config.data.shots is None or config.data.shots >= 1,
        "data.stretch_on 'device' is for data.cache 'none'": (
            config.data.stretch_on != "device" or config.data.cache == "none"
        ),
        "data.carve must lie between 0 and 1": (
            config.data.carve is None or 0 < config.data.carve < 1
        ),
        "data.validation_fraction must lie between 0 and 1": (
            0 < config.data.validation_fraction < 1
        ),
        "data.image_size must be at least 8": (
            config.data.image_size is None or config.data.image_size >= 8
        ),
        "model.head_dropout must be in [0, 1)": 0 <= config.model.head_dropout < 1,
        "model.drop_path must be in [0, 1)": 0 <= config.model.drop_path < 1,
        "train.label_smoothing must be in [0, 1)": 0 <= config.train.label_smoothing < 1,
        "train.head_epochs and train.epochs must not be negative, nor both 0": (
            min(config.train.head_epochs, config.train.epochs) >= 0
            and config.train.head_epochs + config.train.epochs > 0
        ),
        "train.patience must be at least 1": (
            config.train.patience is None or config.train.patience >= 1
        ),
        "train.target must be a number": config.train.target is None
        or not math.isnan(config.train.target),
        "train.ema must be in [0, 1)": 0 <= config.train.ema < 1,
        "train.keep and train.log_every must be at least 1": (
            min(config.train.keep, config.train.log_every) >= 1
        ),
    }
    sections = [(name, section) for name, section in vars(config).items() if name != "augment"]
    sections += [("transfer.phases", phase) for phase in config.transfer.phases]
    sections += [("transfer.groups", group) for group in config.transfer.groups]
    words = [_word_rules(name, section) for name, section in sections]
    _refuse(
        functools.reduce(operator.or_, words)
        | rules
        | _optim_rules(config)
        | _transfer_rules(config)
    )


def _word_rules(name: str, section: Any) -> dict[str, bool]:
    """Returns the fields of a section that hold none of the words that they take.

    The command line sees to this by itself; a configuration written in Python or JSON does not.
    """
    broken = {}
    for field, words in _words(type(section)).items():
        value = vars(section)[field]
        if value not in words:
            expected = ", ".join(str(word) for word in words)
            hint = messages.hint(str(value), [word for word in words if word])
            broken[f"{name}.{field} is {value!r}; expected {expected}{hint}"] = False
    return broken


@functools.cache
def _words(section: type) -> dict[str, tuple[str | None, ...]]:
    """Returns the fields of a section that take one of some words, with these."""
    found = {}
    for field, kind in typing.get_type_hints(section).items():
        kinds = (kind, *typing.get_args(kind))
        words = [
            word
            for each in kinds
            if typing.get_origin(each) is Literal
            for word in typing.get_args(each)
        ]
        if words:
            found[field] = (*words, None) if type(None) in kinds else tuple(words)
    return found


def _optim_rules(config: Config) -> dict[str, bool]:
    optim, transfer = config.optim, config.transfer
    rates = [optim.learning_rate, optim.head_learning_rate]
    own = [phase.learning_rate for phase in transfer.phases]
    own += [phase.head_learning_rate for phase in transfer.phases]
    own += [group.learning_rate for group in transfer.groups]
    decays = [group.weight_decay for group in transfer.groups]
    warm_ups = [optim.warmup_epochs, *(phase.warmup_epochs for phase in transfer.phases)]
    return {
        "optim.learning_rate and optim.head_learning_rate must be at least 0": _not_negative(rates),
        "rates of transfer.phases and transfer.groups must be at least 0": _not_negative(own),
        "optim.weight_decay and that of transfer.groups must be at least 0": (
            _not_negative([optim.weight_decay, *decays])
        ),
        "optim.warmup_epochs and that of transfer.phases must be at least 0": (
            _not_negative(warm_ups)
        ),
        "optim.momentum must be in [0, 1)": 0 <= optim.momentum < 1,
        "optim.step_factor must be above 0": optim.step_factor > 0,
        "optim.layer_decay must be in (0, 1]": 0 < optim.layer_decay <= 1,
        "optim.l2_sp must be at least 0": optim.l2_sp >= 0,
        "optim.clip_norm must be above 0": optim.clip_norm is None or optim.clip_norm > 0,
    }


def _not_negative(values: Iterable[float | None]) -> bool:
    return all(value is None or value >= 0 for value in values)


def _refuse(rules: Mapping[str, bool]) -> None:
    """Raises a ValueError that lists the rules that do not hold."""
    broken = [rule for rule, holds in rules.items() if not holds]
    if broken:
        raise ValueError("; ".join(broken))


def _augment_rules(options: AugmentConfig) -> dict[str, bool]:
    """Returns what must hold of the fields, and whether it does."""
    jitters = (options.brightness, options.contrast, options.saturation)
    probabilities = (options.grayscale, options.blur, options.erase)
    return {
        "scale must be 0 < low <= high <= 1": 0 < options.scale[0] <= options.scale[1] <= 1,
        "ratio must be 0 < low <= high": 0 < options.ratio[0] <= options.ratio[1],
        "rotation must be in [0, 180], in degrees": 0 <= options.rotation <= 180,
        "shear must be in [0, 90), in degrees": 0 <= options.shear < 90,
        "zoom must be 0 < low <= high": 0 < options.zoom[0] <= options.zoom[1],
        "shift must be in [0, 1]": 0 <= options.shift <= 1,
        "policy_operations must be at least 1": options.policy_operations >= 1,
        "policy_magnitude must be in [0, 30]": 0 <= options.policy_magnitude < 31,
        "policy_severity must be in [1, 10]": 1 <= options.policy_severity <= 10,
        "brightness, contrast and saturation must be at least 0": min(jitters) >= 0,
        "hue must be in [0, 0.5]": 0 <= options.hue <= 0.5,
        "grayscale, blur and erase are probabilities": (
            0 <= min(probabilities) <= max(probabilities) <= 1
        ),
        "blur_sigma must be 0 < low <= high": 0 < options.blur_sigma[0] <= options.blur_sigma[1],
        "erase_area must be 0 < low <= high <= 1": (
            0 < options.erase_area[0] <= options.erase_area[1] <= 1
        ),
        "erase_ratio must be 0 < low <= high": 0 < options.erase_ratio[0] <= options.erase_ratio[1],
        "mixup and cutmix must be at least 0": min(options.mixup, options.cutmix) >= 0,
        "mix_switch and mix_probability are probabilities": (
            min(options.mix_switch, options.mix_probability) >= 0
            and max(options.mix_switch, options.mix_probability) <= 1
        ),
    }


def _transfer_rules(config: Config) -> dict[str, bool]:
    transfer, head = config.transfer, config.model.head
    groups = [group.name for group in transfer.groups]
    return {
        "transfer.phases must be of at least 1 epoch each": (
            all(phase.epochs >= 1 for phase in transfer.phases)
        ),
        "transfer.groups must have names, each another": all(groups)
        and len(set(groups)) == len(groups),
        "transfer.class_mapping is for transfer.classifier 'load' and 'fuse'": (
            not transfer.class_mapping or transfer.classifier != "replace"
        ),
        "transfer.classifier 'load' and 'fuse' need model.head 'linear' and pretrained weights": (
            transfer.classifier == "replace"
            or (head == "linear" and config.model.weights != RANDOM_WEIGHTS)
        ),
        "transfer.head_init 'class_means' needs model.head 'linear' or 'cosine' and "
        "transfer.classifier 'replace'": (
            transfer.head_init != "class_means"
            or (head != "mlp" and transfer.classifier == "replace")
        ),
        "transfer.head_init 'small' needs model.head 'linear' or 'mlp' and transfer.classifier "
        "'replace'": (
            transfer.head_init != "small" or (head != "cosine" and transfer.classifier == "replace")
        ),
        "transfer.lora_alpha must be above 0": transfer.lora_alpha > 0,
        "transfer.lora_rank and transfer.adapter_reduction must be at least 1": (
            min(transfer.lora_rank, transfer.adapter_reduction) >= 1
        ),
    }
