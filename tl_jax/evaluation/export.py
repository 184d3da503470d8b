"""Exports a trained run to a file, or to a folder like a repository of the hub, that timm loads."""

import dataclasses
from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from tl_jax import files
from tl_jax.evaluation import export_tasks
from tl_jax.heads.classifier import Classifier
from tl_jax.heads.task_network import TaskNetwork
from tl_jax.models.model import Model
from tl_jax.models.network import Network
from tl_jax.models.registry import architecture, architecture_name, create_model
from tl_jax.models.variables import slots_of
from tl_jax.run.folder import Run, load_run
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights import repository
from tl_jax.weights.index import PretrainedConfig
from tl_jax.weights.state_dict import to_state_dict

# Networks that timm does not have: of torchvision, and of this library.
_NOT_IN_TIMM = ("torchvision/", "simple_cnn")
_OTHER_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".npz", ".h5", ".onnx", ".tar", ".msgpack")
# Outside the backbone, and of use to training alone.
_LOSS_WEIGHTS = "loss_weights"


@dataclasses.dataclass(frozen=True)
class Places:
    """The files of an export.

    Attributes:
      weights: the whole network, or the backbone alone.
      config: config.json, in timm's form; None for a single file, which holds its text.
      heads: the parameters outside the backbone, if there are any.
      tasks: what goes in, and what the outputs mean; not of one class of one image.
    """

    weights: Path
    config: Path | None
    heads: Path
    tasks: Path

    @classmethod
    def of(cls, to: str | Path) -> "Places":
        """Returns the files of an export to a file, or to a folder."""
        path = files.user_path(to)
        if path.suffix == ".safetensors":
            return cls(
                path, None, path.with_suffix(".heads.safetensors"), path.with_suffix(".tasks.json")
            )
        return cls(
            path / "model.safetensors",
            path / repository.FILE,
            path / "heads.safetensors",
            path / "tasks.json",
        )


def export_timm(workdir: str | Path, to: str | Path) -> str:
    """Writes the best checkpoint of a run under timm's keys, with its classes and preprocessing.

    `load_pretrained`, `predict` and `model.weights` take the result back, with the class names. A
    network that timm has whole (one head, linear, on one image) is written whole. Of others the
    backbone is written, as timm's network without a classifier (`num_classes=0`), and its heads and
    all else outside the backbone beside it, under their dotted names: dense layers as in torch,
    `heads.TASK.fc.weight` [outputs, features] and `.bias`. A JSON says what goes in and what the
    outputs mean, with temperatures and thresholds; see `Places` for the files.

    Args:
      workdir: the run's folder.
      to: a file, whose name ends in `.safetensors`; or a new or empty folder, which gets
        `config.json` and `model.safetensors`, as timm's `push_to_hf_hub` writes them.

    Returns:
      The line of Python that loads the network or its backbone: into timm, or into this library if
      timm does not have the network.

    Raises:
      ValueError: if the file has another suffix, the folder is not empty, the run keeps the
        pretrained classifier beside its own, or the modules that were added to the network cannot
        be merged.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> export_timm("runs/digits", "digits.safetensors")
      "tl_jax.load_pretrained('simple_cnn', weights='digits.safetensors')"
    """
    path, places = files.user_path(to), Places.of(to)
    if path.suffix in _OTHER_SUFFIXES:
        raise ValueError(f"got {path}, expected a file name that ends in .safetensors, or a folder")
    if places.config and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not an empty folder; give another, or a .safetensors file")
    run = load_run(workdir)
    model, variables = _merged(run)
    network, own, others = _parts(run, model, variables)
    absent = _absent(run, network)
    config = _config_text(run, network)
    _save(own, places.weights, metadata={"format": "pt", "config": config})
    if places.config:
        files.write_text(places.config, config)
    for each in (places.heads, places.tasks):  # Those of another run that was exported before.
        each.unlink(missing_ok=True)
    if others:
        _save({"params": others}, places.heads, metadata={"format": "pt"})
    if _needs_tasks(run, model):
        heads_file = places.heads.name if others else None
        text = export_tasks.as_text(run, model, heads_file=heads_file, absent=absent)
        files.write_text(places.tasks, text)
    return _line(run, network, path, places, absent)


def _save(variables: dict[str, Any], path: Path, metadata: dict[str, str]) -> None:
    with files.replacing(path) as part:
        save_file(to_state_dict(variables), part, metadata=metadata)


def _merged(run: Run) -> tuple[Model, dict[str, Any]]:
    """Returns a run's network and variables, with added modules merged."""
    model, variables = run.model, run.variables
    if isinstance(model, Adapted):
        return model.model, model.merged(variables)
    return model, variables


def _parts(
    run: Run, model: Model, variables: dict[str, Any]
) -> tuple[Network, dict[str, Any], dict[str, Any]]:
    """Returns timm's network, its variables, and the parameters outside it."""
    if run.info.weights and run.info.weights.network_fields:
        fields = ", ".join(f"{k}={v!r}" for k, v in run.info.weights.network_fields.items())
        raise ValueError(
            f"the run started from torchvision's weights, in a network with {fields}; timm's "
            f"{run.config.model.name} computes otherwise and would give other logits. Train from "
            "timm's weights (model.weights='auto') to export"
        )
    if isinstance(model, Network):
        return model, variables, {}
    if not isinstance(model, TaskNetwork | Classifier) or not isinstance(model.backbone, Network):
        raise ValueError(
            f"the run has a head that timm's {run.config.model.name} does not have "
            f"(model.head={run.config.model.head!r}, transfer.classifier="
            f"{run.config.transfer.classifier!r}), and the pretrained classifier below it; only "
            "runs with transfer.classifier 'replace' or 'load' can be exported"
        )
    own = {name: tree["backbone"] for name, tree in variables.items() if "backbone" in tree}
    left_out = ("backbone", _LOSS_WEIGHTS)
    others = {k: tree for k, tree in variables["params"].items() if k not in left_out}
    return model.backbone, own, others


def _needs_tasks(run: Run, model: Model) -> bool:
    """Returns whether timm's config.json does not say all that the outputs mean."""
    kinds = [task.kind for task in run.info.example_facts.tasks]
    return not isinstance(model, Network) or kinds != ["multi_class"]


def _absent(run: Run, network: Network) -> list[str]:
    """Returns the keys of timm's network without a classifier that this one lacks.

    They are of what a family has between its last map and its classifier, in whose place the run
    has a pooling or a head of its own.
    """
    if network.num_classes or network.global_pool:
        return []
    whole = create_model(run.config.model.name, num_classes=0)
    own = {slot.key for slot in slots_of(network)}
    return [slot.key for slot in slots_of(whole) if slot.key not in own]


def _config_text(run: Run, network: Network) -> str:
    preprocess, name, names = run.info.preprocess, run.config.model.name, run.info.class_names
    config = PretrainedConfig(
        name=architecture_name(name),
        num_classes=network.num_classes,
        input_size=(network.in_channels, *preprocess.size),
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
        interpolation=preprocess.interpolation,
        # Levels have a logit less, and numbers no names.
        class_names=names if len(names) == network.num_classes else None,
    )
    known = architecture(name)
    return repository.as_text(config, stem=known.stem, classifier=known.classifier)


def _line(run: Run, network: Network, path: Path, places: Places, absent: list[str]) -> str:
    """Returns the line of Python that loads what was written."""
    arch, num_classes = architecture_name(run.config.model.name), network.num_classes
    if arch.startswith(_NOT_IN_TIMM):
        without = "" if num_classes else ", num_classes=0"
        return f"tl_jax.load_pretrained({arch!r}, weights={str(path)!r}{without})"
    if absent:
        return (
            f"model = timm.create_model({arch!r}, num_classes=0); model.load_state_dict("
            f"safetensors.torch.load_file({str(places.weights)!r}), strict=False)"
        )
    if places.config is None:
        return (
            f"timm.create_model({arch!r}, num_classes={num_classes}, checkpoint_path={str(path)!r})"
        )
    return f"timm.create_model({f'local-dir:{path}'!r}, pretrained=True)"
