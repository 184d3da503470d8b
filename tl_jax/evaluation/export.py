"""Exports a trained run to a file, or to a folder like a repository of the hub, that timm loads."""

from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from tl_jax import files
from tl_jax.heads.classifier import BackboneWithHead
from tl_jax.models.network import Network
from tl_jax.models.registry import architecture, architecture_name
from tl_jax.run.folder import Run, load_run
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights import repository
from tl_jax.weights.index import PretrainedConfig
from tl_jax.weights.state_dict import to_state_dict

# Networks that timm does not have: of torchvision, and of this library.
_NOT_IN_TIMM = ("torchvision/", "simple_cnn")
_OTHER_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".npz", ".h5", ".onnx", ".tar", ".msgpack")


def export_timm(workdir: str | Path, to: str | Path) -> str:
    """Writes the best checkpoint of a run under timm's keys, with its classes and preprocessing.

    `load_pretrained`, `predict` and `model.weights` take the result back, with the class names.

    Args:
      workdir: the run's folder.
      to: a file, whose name ends in `.safetensors`; or a new or empty folder, which gets
        `config.json` and `model.safetensors`, as timm's `push_to_hf_hub` writes them.

    Returns:
      The line of Python that loads it: into timm, or into this library if timm does not have the
      network.

    Raises:
      ValueError: if the file has another suffix, the folder is not empty, timm does not have the
        network's head, or the modules that were added to the network cannot be merged.

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
    path = files.user_path(to)
    is_file = path.suffix == ".safetensors"
    if path.suffix in _OTHER_SUFFIXES:
        raise ValueError(f"got {path}, expected a file name that ends in .safetensors, or a folder")
    if not is_file and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not an empty folder; give another, or a .safetensors file")
    run = load_run(workdir)
    model, variables = _timms(run)
    config = _config_text(run, model, variables)
    metadata = {"format": "pt", "config": config}
    with files.replacing(path if is_file else path / "model.safetensors") as part:
        save_file(to_state_dict(variables), part, metadata=metadata)
    if not is_file:
        files.write_text(path / repository.FILE, config)
    return _line(run, path, is_file=is_file)


def _timms(run: Run) -> tuple[Network, dict[str, Any]]:
    """Returns a run's network and variables as timm has them, with added modules merged."""
    model, variables = run.model, run.variables
    if isinstance(model, Adapted):
        variables = model.merged(variables)
        model = model.model
    if isinstance(model, BackboneWithHead) or not isinstance(model, Network):
        raise ValueError(
            f"the run has a head that timm's {run.config.model.name} does not have "
            f"(model.head={run.config.model.head!r}, transfer.classifier="
            f"{run.config.transfer.classifier!r}); only timm's own heads can be exported"
        )
    if run.info.weights and run.info.weights.network_fields:
        fields = ", ".join(f"{k}={v!r}" for k, v in run.info.weights.network_fields.items())
        raise ValueError(
            f"the run started from torchvision's weights, in a network with {fields}; timm's "
            f"{run.config.model.name} computes otherwise and would give other logits. Train from "
            "timm's weights (model.weights='auto') to export"
        )
    return model, variables


def _config_text(run: Run, model: Network, variables: dict[str, Any]) -> str:
    preprocess, name = run.info.preprocess, run.config.model.name
    config = PretrainedConfig(
        name=architecture_name(name),
        num_classes=len(run.info.class_names),
        input_size=(model.in_channels, *preprocess.size),
        mean=preprocess.mean,
        std=preprocess.std,
        crop_pct=preprocess.crop_pct,
        crop_mode=preprocess.crop_mode,
        interpolation=preprocess.interpolation,
        class_names=run.info.class_names,
    )
    known = architecture(name)
    return repository.as_text(config, stem=known.stem, classifier=known.classifier)


def _line(run: Run, path: Path, *, is_file: bool) -> str:
    """Returns the line of Python that loads what was written."""
    arch, num_classes = architecture_name(run.config.model.name), len(run.info.class_names)
    if arch.startswith(_NOT_IN_TIMM):
        return f"tl_jax.load_pretrained({arch!r}, weights={str(path)!r})"
    if is_file:
        return (
            f"timm.create_model({arch!r}, num_classes={num_classes}, checkpoint_path={str(path)!r})"
        )
    return f"timm.create_model({f'local-dir:{path}'!r}, pretrained=True)"
