"""The commands of `python -m tl_jax`; each calls one function of the library."""

import functools
import inspect
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from tl_jax import distributed, files, interrupt, messages
from tl_jax.cli import (
    analysis,
    data,
    demo,
    explain,
    machine,
    networks,
    options,
    prediction,
    reporting,
    runs,
    selection,
    streams,
    training,
)
from tl_jax.cli.configuration import read_config
from tl_jax.config import Config
from tl_jax.distributed import ProcessError
from tl_jax.run.stops import StoppedError
from tl_jax.training.checkpoint import CheckpointError
from tl_jax.version import __version__

__all__ = ["main", "read_config"]

_USAGE = """usage: python -m tl_jax COMMAND [ARGUMENTS]

  train CONFIG.py [--SECTION.FIELD VALUE ...] [--workdir DIR]   fine-tune as configured
  lr-find CONFIG.py [--SECTION.FIELD VALUE ...] [--png FILE]    find a learning rate for it
  augment-grid CONFIG.py [--SECTION.FIELD VALUE ...]            draw augmented training images
  profile CONFIG.py [--SECTION.FIELD VALUE ...] [--to FOLDER]   find what a step's time goes to
  rank CONFIG.py --models NAME[@SIZE][:stageK] ... [--to DIR]   compare backbones for its data
  prepare SOURCE OUT [--max-side PIXELS]                        check a set of images, and pack it
  evaluate RUN [--split SPLIT]                                  measure a run
  errors RUN --to FOLDER [--slices-by COLUMN ...]               find what a run gets wrong, and why
  report RUN... [--to FILE.html] [--gallery N]                  a page on a run, or on several
  robustness RUN --to FOLDER [--baseline RUN] [--foreign SET]   measure it on corrupted images
  probe RUN_OR_MODEL SOURCE [--method METHOD]                   classify frozen features
  predict RUN_OR_MODEL IMAGE_OR_FOLDER... [--to FILE]           tell what images show
  explain RUN_OR_MODEL IMAGE_OR_FOLDER... [--methods METHOD..]  draw what speaks for a class
  demo RUN_OR_MODEL [--port PORT] [--method METHOD]             drop pictures on a local page
  soup RUN RUN... --to FOLDER [--kind KIND]                     average the weights of runs
  wise-ft RUN [--alphas ALPHA ...] [--to FOLDER]                weights between initial and tuned
  models [PATTERN] [--pretrained] [--FILTER VALUE ...]          list the networks
  export RUN --to timm FILE.safetensors                         write a run for timm

Each command explains itself: python -m tl_jax COMMAND --help
Exit status: 0, 1 on failure, 2 on misuse, 75 if the same command has to be started again to go on
(training that SIGTERM, SIGUSR1 or the end of another process has stopped), 130 if interrupted."""

# Lists of objects, which tyro's help leaves out.
_LISTS = """

--transfer.phases PHASE... replaces the phases of training, each as epochs=2,trained=head (fields:
epochs, trained, optimizer, learning_rate, head_learning_rate, warmup_epochs); --transfer.groups
GROUP... the groups of parameters, each as name=stem,patterns=conv1|bn1,learning_rate=1e-5 (fields:
name, patterns, learning_rate, weight_decay, batch_norm)."""

# Their first argument is a configuration file, and every field of it is an option.
_CONFIG_COMMANDS: dict[str, Callable[..., None]] = {
    "train": training.train,
    "lr-find": training.lr_find,
    "augment-grid": training.augment_grid,
    "profile": training.profile,
    "rank": selection.rank,
}
_COMMANDS: dict[str, Callable[..., None]] = {
    "prepare": data.prepare,
    "evaluate": runs.evaluate,
    "errors": analysis.errors,
    "report": reporting.report,
    "robustness": analysis.robustness,
    "probe": runs.probe,
    "predict": prediction.predict,
    "explain": explain.explain,
    "demo": demo.demo,
    "soup": runs.soup,
    "wise-ft": runs.wise_ft,
    "models": networks.models,
    "export": runs.export,
}
# What other programs call the commands.
_OTHER_NAMES = {
    "average": "soup",
    "benchmark": "profile",
    "augment": "augment-grid",
    "check": "prepare",
    "classify": "predict",
    "convert": "prepare",
    "eval": "evaluate",
    "find-lr": "lr-find",
    "fine-tune": "train",
    "finetune": "train",
    "fit": "train",
    "infer": "predict",
    "inference": "predict",
    "linear-probe": "probe",
    "list": "models",
    "list-models": "models",
    "lr-finder": "lr-find",
    "lr-range-test": "lr-find",
    "profiler": "profile",
    "resume": "train",
    "run": "train",
    "score": "evaluate",
    "serve": "demo",
    "test": "evaluate",
    "trace": "profile",
    "tune": "train",
    "val": "evaluate",
    "validate": "evaluate",
}
# Errors whose message is for the user; any other is a defect and keeps its traceback.
_EXPECTED = (
    ValueError,
    OSError,
    FloatingPointError,
    ModuleNotFoundError,
    CheckpointError,
    ProcessError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 on failure, 2 on misuse, 75 to go on.

    Args:
      arguments: the command and its arguments; the default is those of the process.
    """
    streams.prepare()
    try:
        with distributed.telling(but=StoppedError):
            status = _main(sys.argv[1:] if arguments is None else arguments)
            sys.stdout.flush()
        distributed.leave()
        return status
    except StoppedError as stopped:
        distributed.leave()
        streams.complain(str(stopped))
        return interrupt.RESUME
    except _EXPECTED as error:
        if isinstance(error, BrokenPipeError) and streams.reader_has_gone():
            return 0  # as of `tl-jax models | head`
        return _failed(error)
    except (MemoryError, RuntimeError, AssertionError) as error:
        explanation = machine.explain(error)
        if explanation is None:
            raise
        streams.complain(f"error: {explanation}")
        return 1
    except KeyboardInterrupt:
        streams.complain("interrupted")
        return 130


def _main(arguments: Sequence[str]) -> int:
    name, *rest = arguments or [""]
    if name in ("", "-h", "--help", "help"):
        print(_USAGE)
        return 0 if name else 2
    if name in ("-V", "--version", "version"):
        python = sys.version.split()[0]
        print(f"tl-jax {__version__}, jax {metadata.version('jax')}, Python {python}")
        return 0
    command = _CONFIG_COMMANDS.get(name) or _COMMANDS.get(name)
    if command is None:
        return _misused(_unknown_command(name))
    try:
        Path.cwd()
    except FileNotFoundError:
        return _failed(ValueError("the current directory was deleted; change to another one"))
    if {"-h", "--help"} & set(rest):
        _print_help(name, command, rest)
        return 0
    if "--distributed" in {argument.partition("=")[0] for argument in rest}:
        able = [each for each, it in {**_CONFIG_COMMANDS, **_COMMANDS}.items() if _is_shared(it)]
        if name not in able:
            return _misused(f"{name} runs in one process; --distributed is for {', '.join(able)}")
    given: dict[str, Any] = {}
    if name in _CONFIG_COMMANDS:
        file = options.first_positional(command, rest)
        if file is None:
            return _misused(f"{name} needs a configuration, such as configs/demo.py")
        given["config"] = read_config(files.user_path(file))
    try:
        keywords = options.read(command, rest, given)
    except ValueError as error:
        return _misused(f"{error}\n`python -m tl_jax {name} --help` explains the options")
    command(**keywords)
    return 0


def _is_shared(command: Callable[..., None]) -> bool:
    """Returns whether several processes can run a command together."""
    return "processes" in inspect.signature(command).parameters


def _print_help(name: str, command: Callable[..., None], arguments: Sequence[str]) -> None:
    """Prints the help of a command; its defaults are those of the configuration that is given."""
    # Imported here: only the help needs it.
    import tyro

    prog = f"python -m tl_jax {name}"
    if name not in _CONFIG_COMMANDS:
        tyro.cli(command, prog=prog, args=["--help"])
    file = options.first_positional(command, arguments)
    config = Config() if file is None else read_config(files.user_path(file))
    bound = functools.partial(command, Path(file or "CONFIG.py"), config=config)
    summary = (inspect.getdoc(command) or "").partition("\n\nArgs:")[0]
    tyro.cli(bound, prog=f"{prog} CONFIG.py", description=summary + _LISTS, args=["--help"])


def _unknown_command(name: str) -> str:
    """Returns the message about a command that does not exist, with the one that was meant."""
    known = [*_CONFIG_COMMANDS, *_COMMANDS]
    plain = name.lstrip("-").lower().replace("_", "-")
    meant = _OTHER_NAMES.get(plain) or messages.nearest(plain, known)
    if name.endswith(".py"):
        meant = f"train {shlex.quote(name)}"
    elif name.startswith("-") and plain not in known:
        return f"the command comes first, before {name}\n\n{_USAGE}"
    if meant is None:
        return f"unknown command {name!r}\n\n{_USAGE}"
    return f"unknown command {name!r}; did you mean `python -m tl_jax {meant}`?"


def _misused(text: str) -> int:
    streams.complain(f"error: {text}")
    return 2


def _failed(error: BaseException) -> int:
    streams.complain(f"error: {error}")
    return 1
