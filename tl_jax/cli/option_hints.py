"""Hints at the option that a misspelt or foreign one stands for."""

import difflib
import re
from collections.abc import Iterable, Sequence

from tl_jax import messages

# What other programs call these options.
_OTHER_NAMES = {
    "arch": "--model.name",
    "architecture": "--model.name",
    "augment": "--augment.policy",
    "augmentation": "--augment.policy",
    "bs": "--data.batch-size",
    "batch": "--data.batch-size",
    "data": "--data.source",
    "data-path": "--data.source",
    "dataset": "--data.source",
    "dropout": "--model.head-dropout",
    "freeze": "--transfer.trained",
    "img-size": "--data.image-size",
    "imgsz": "--data.image-size",
    "input-size": "--data.image-size",
    "log-dir": "--workdir",
    "logdir": "--workdir",
    "lr": "--optim.learning-rate",
    "model": "--model.name",
    "num-epochs": "--train.epochs",
    "num-workers": "--data.workers",
    "opt": "--optim.name",
    "optim": "--optim.name",
    "optimizer": "--optim.name",
    "out": "--workdir",
    "output": "--workdir",
    "output-dir": "--workdir",
    "precision": "--model.dtype",
    "pretrained": "--model.weights",
    "resolution": "--data.image-size",
    "save-dir": "--workdir",
    "sched": "--optim.schedule",
    "scheduler": "--optim.schedule",
    "smoothing": "--train.label-smoothing",
    "topk": "--top",
    "warmup": "--optim.warmup-epochs",
    "wd": "--optim.weight-decay",
}
# The same in commands that write no run of their own.
_OTHER_NAMES_OF_TARGETS = dict.fromkeys(
    ("format", "out", "output", "output-dir", "save-dir", "workdir"), "--to"
)
# And in those that draw a picture.
_OTHER_NAMES_OF_PICTURES = dict.fromkeys(
    ("out", "output", "output-dir", "plot", "save-dir", "to", "workdir"), "--png"
)
_DEVICES = (
    "a run takes all devices that JAX finds; the variable JAX_PLATFORMS=cpu keeps it on the CPU, "
    "and CUDA_VISIBLE_DEVICES chooses among GPUs"
)
# Options of other programs that are none here, and what takes their place.
_NO_OPTIONS = {
    **dict.fromkeys(("device", "devices", "gpu", "gpus", "num-gpus", "cpu"), _DEVICES),
    **dict.fromkeys(
        ("resume", "continue", "restart"), "the same command on the same --workdir continues a run"
    ),
    "amp": "--model.dtype bfloat16 computes in half the bits",
    **dict.fromkeys(
        ("wandb", "tensorboard", "mlflow", "logger"),
        "a run writes tensorboard/ and metrics.jsonl into its --workdir",
    ),
    **dict.fromkeys(
        ("num-classes", "nb-classes", "classes"), "the data decide the classes and their number"
    ),
    **dict.fromkeys(
        ("verbose", "quiet", "debug"),
        "what a run says goes to standard error; 2>FILE writes it to a file",
    ),
    "config": "the configuration file is the first argument, without an option's name",
}


def unknown_option(name: str, options: Sequence[str]) -> str:
    """Returns the message about an option that does not exist.

    Args:
      name: as it was typed, without a value.
      options: those that exist.

    Examples:
      >>> unknown_option("--optim.lr", ["--workdir", "--optim.learning-rate"])
      'unknown option --optim.lr; did you mean --optim.learning-rate?'
    """
    stem = _stem(name)
    inside = [option for option in options if option.startswith(f"--{stem}.")]
    if stem in _NO_OPTIONS and not any(_squeeze(stem) == _squeeze(o) for o in options):
        return f"unknown option {name}; {_NO_OPTIONS[stem]}"
    if inside and _OTHER_NAMES.get(stem) not in options:
        names = messages.some(inside, quoted=False)
        return f"{name} is a section of the configuration; its options are {names}"
    nearest = nearest_options(name, options)
    return f"unknown option {name}" + (f"; did you mean {' or '.join(nearest)}?" if nearest else "")


def nearest_options(name: str, options: Sequence[str]) -> list[str]:
    """Returns the options that a misspelt one may stand for, at most three."""
    stem = _stem(name)
    exact = [option for option in options if _squeeze(option) == _squeeze(stem)]
    if exact:
        return exact[:1]
    section, _, last = stem.rpartition(".")
    for names in (_OTHER_NAMES, _OTHER_NAMES_OF_TARGETS, _OTHER_NAMES_OF_PICTURES):
        if names.get(last) in options:
            return [names[last]]
    ends = {option: option.rpartition(".")[2].lstrip("-") for option in options}
    same = [option for option, end in ends.items() if _squeeze(end) == _squeeze(last)]
    begun = [option for option, end in ends.items() if end.startswith(last)]
    own_section = [o for o in options if o.rpartition(".")[0].lstrip("-") == section]
    for found in (same, begun):
        if found:
            return ([option for option in found if option in own_section] or found)[:3]
    for candidates in (own_section, options):
        close = _closest(last, [ends[option] for option in candidates])
        if close is not None:
            return [next(option for option in candidates if ends[option] == close)]
    return []


def _closest(word: str, choices: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.65)
    return close[0] if close else None


def _stem(name: str) -> str:
    """Returns an option's name in the form of ours, without its dashes.

    Of --dataBatchSize, -data.batch_size, --data/batch-size and --config.data.batch-size.
    """
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.lstrip("-"))
    return re.sub(r"[_ /:]", "-", stem).lower().removeprefix("config.").rstrip(".")


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
