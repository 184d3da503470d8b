"""Exports a trained run to a file that timm loads."""

from pathlib import Path

from safetensors.numpy import save_file

from tl_jax import files
from tl_jax.heads.classifier import BackboneWithHead
from tl_jax.run.folder import load_run
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights.state_dict import to_state_dict


def export_timm(workdir: str | Path, file: str | Path) -> str:
    """Writes the best checkpoint of a run as a safetensors file with timm's keys.

    Args:
      workdir: the run's folder.
      file: to be written; its name ends in `.safetensors`.

    Returns:
      The line of Python that loads the file into timm.

    Raises:
      ValueError: if the file has another suffix, timm does not have the network's head, or the
        modules that were added to the network cannot be merged.

    Examples:
      >>> import tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> export_timm("runs/digits", "digits.safetensors")
      "timm.create_model('simple_cnn', num_classes=10, checkpoint_path='digits.safetensors')"
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"got {file}, expected a file name that ends in .safetensors")
    run = load_run(workdir)
    name = run.config.model.name
    model, variables = run.model, run.variables
    if isinstance(model, Adapted):
        variables = model.merged(variables)
        model = model.model
    if isinstance(model, BackboneWithHead):
        raise ValueError(
            f"the run has a head that timm's {name} does not have "
            f"(model.head={run.config.model.head!r}, transfer.classifier="
            f"{run.config.transfer.classifier!r}); only timm's own heads can be exported"
        )
    with files.replacing(file) as part:
        save_file(to_state_dict(variables), part, metadata={"format": "pt"})
    arch, num_classes = name.partition(".")[0], len(run.info.class_names)
    return f"timm.create_model({arch!r}, num_classes={num_classes}, checkpoint_path={str(file)!r})"
