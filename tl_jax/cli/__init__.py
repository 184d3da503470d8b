"""The commands of `python -m tl_jax`; each calls one function of the library."""

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from tl_jax import messages
from tl_jax.cli import data, networks, runs, training
from tl_jax.cli.configuration import read_config
from tl_jax.config import Config
from tl_jax.training.checkpoint import CheckpointError

__all__ = ["main", "read_config"]

_USAGE = """usage: python -m tl_jax COMMAND [ARGUMENTS]

  train CONFIG.py [--SECTION.FIELD VALUE ...] [--workdir DIR]   fine-tune as configured
  lr-find CONFIG.py [--SECTION.FIELD VALUE ...] [--png FILE]    find a learning rate for it
  augment-grid CONFIG.py [--SECTION.FIELD VALUE ...]            draw augmented training images
  prepare SOURCE OUT [--max-side PIXELS]                        check a set of images, and pack it
  evaluate RUN [--split SPLIT]                                  measure a run
  probe RUN_OR_MODEL SOURCE [--method METHOD]                   classify frozen features
  predict RUN_OR_MODEL IMAGE...                                 classify images
  soup RUN RUN... --to FOLDER [--kind KIND]                     average the weights of runs
  wise-ft RUN [--alphas ALPHA ...] [--to FOLDER]                weights between initial and tuned
  models [PATTERN] [--pretrained] [--FILTER VALUE ...]          list the networks
  export RUN --to timm FILE.safetensors                         write a run for timm

Each command explains itself: python -m tl_jax COMMAND --help"""

# Their first argument is a configuration file, and every field of it is an option.
_CONFIG_COMMANDS: dict[str, Callable[..., None]] = {
    "train": training.train,
    "lr-find": training.lr_find,
    "augment-grid": training.augment_grid,
}
_COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": data.prepare,
    "evaluate": runs.evaluate,
    "probe": runs.probe,
    "predict": runs.predict,
    "soup": runs.soup,
    "wise-ft": runs.wise_ft,
    "models": networks.models,
    "export": runs.export,
}
# Errors whose message is for the user; any other is a defect and keeps its traceback.
_EXPECTED = (ValueError, OSError, FloatingPointError, ModuleNotFoundError, CheckpointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 on failure, 2 on misuse.

    Args:
      arguments: the command and its arguments; the default is those of the process.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    name, *rest = arguments
    prog = f"python -m tl_jax {name}"
    try:
        if name in _CONFIG_COMMANDS:
            return _run_configured(name, prog, rest)
        if name in _COMMANDS:
            tyro.cli(_COMMANDS[name], prog=prog, args=rest)
            return 0
    except _EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 130
    hint = messages.hint(name, [*_CONFIG_COMMANDS, *_COMMANDS])
    print(f"unknown command {name!r}{hint}\n\n{_USAGE}", file=sys.stderr)
    return 2


def _run_configured(name: str, prog: str, arguments: list[str]) -> int:
    """Runs a command on a configuration file, whose fields the options may change."""
    if arguments and not arguments[0].startswith("-"):
        file, options = Path(arguments[0]), arguments[1:]
        config = read_config(file)
    elif {"-h", "--help"} & set(arguments):
        file, options, config = Path("CONFIG.py"), arguments, Config()
    else:
        print(f"error: {name} needs a configuration, such as configs/demo.py", file=sys.stderr)
        return 2
    command = functools.partial(_CONFIG_COMMANDS[name], file, config=config)
    tyro.cli(command, prog=f"{prog} CONFIG.py", args=options)
    return 0
