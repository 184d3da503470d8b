"""Exports a trained run to a file that timm loads."""

from pathlib import Path

from safetensors.numpy import save_file

from tl_jax.heads.classifier import OnBackbone
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
      ValueError: if the file has another suffix, the network's head is none of timm's, or what was
        added to it cannot be merged.

    Example:
      >>> print(export_timm("runs/demo", "defects.safetensors"))             # doctest: +SKIP
      timm.create_model('tf_efficientnet_lite0', num_classes=2, checkpoint_path=...)
    """
    file = Path(file)
    if file.suffix != ".safetensors":
        raise ValueError(f"got {file}, expected a file name that ends in .safetensors")
    run = load_run(workdir)
    model, variables = run.model, run.variables
    if isinstance(model, Adapted):
        model, variables = model.model, model.merged(variables)
    if isinstance(model, OnBackbone):
        raise ValueError(
            f"the run has a head that timm's {run.config.model.name} does not have "
            f"(model.head={run.config.model.head!r}, transfer.classifier="
            f"{run.config.transfer.classifier!r}); only the network's own classifier exports"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    save_file(to_state_dict(variables), part, metadata={"format": "pt"})
    part.replace(file)
    architecture = run.config.model.name.partition(".")[0]
    classes = len(run.info.class_names)
    return (
        f"timm.create_model({architecture!r}, num_classes={classes}, checkpoint_path={str(file)!r})"
    )
