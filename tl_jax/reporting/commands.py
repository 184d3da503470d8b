"""The commands that repeat a run, or use it, as they are typed."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from tl_jax.config import Config, changes
from tl_jax.reporting.read import RunFiles

_PROGRAM = "python -m tl_jax"
_NEXT = " \\\n  "  # A command goes on in the next line.


def commands(run: RunFiles, first: RunFiles | None = None) -> list[tuple[str, str]]:
    """Returns what one may want to do with a run, and the command for it.

    Args:
      run: the run.
      first: another run, from whose configuration this one can be made; None for none.
    """
    folder = shlex.quote(str(run.path))
    to = f"--workdir {shlex.quote(f'{run.path}-again')}"
    found = [("Train it again", f"{_PROGRAM} train {_config(run)} {to}")]
    if first is not None:
        what = f"Train it from the configuration of {first.name}"
        changed = options(first.config, run.config)
        found.append((what, f"{_PROGRAM} train {_config(first)}{changed}{_NEXT}{to}"))
    changed = options(Config(), run.config)
    # An empty object is the configuration of all defaults.
    lines = f"echo '{{}}' > defaults.json\n{_PROGRAM} train defaults.json{changed}{_NEXT}{to}"
    images = "--source manifest:NEW.csv" if run.info.inputs.keys else "IMAGE_OR_FOLDER"
    errors = shlex.quote(f"{run.path}-errors")
    return [
        *found,
        ("Train it without its folder", lines),
        ("Measure it", f"{_PROGRAM} evaluate {folder} --split {shlex.quote(run.shown)}"),
        ("Tell what images show", f"{_PROGRAM} predict {folder} {images}"),
        ("See why", f"{_PROGRAM} explain {folder} {images} --to explanation.png"),
        ("Look at its errors", f"{_PROGRAM} errors {folder} --to {errors}"),
    ]


def page_command(runs: Sequence[RunFiles], to: Path, gallery: int, *, predict: bool) -> str:
    """Returns the command that writes a page again."""
    folders = " ".join(shlex.quote(str(run.path)) for run in runs)
    command = f"{_PROGRAM} report {folders} --to {shlex.quote(str(to))} --gallery {gallery}"
    return command if predict else f"{command} --no-predict"


def _config(run: RunFiles) -> str:
    return shlex.quote(str(run.path / "config.json"))


def options(one: Config, other: Config) -> str:
    r"""Returns the options that make one configuration the other, each on a line of its own.

    >>> from tl_jax.config import TrainConfig
    >>> options(Config(), Config(train=TrainConfig(epochs=7)))
    ' \\\n  --train.epochs 7'
    """
    names = sorted(changes.changed(one, other))
    return "".join(f"{_NEXT}{changes.as_options(other, [name])}" for name in names)
