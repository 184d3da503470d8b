"""Reading configuration files: Python modules with `get_config()`, or a run's config.json."""

import contextlib
import dataclasses
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tl_jax import config as configuration
from tl_jax import files, messages
from tl_jax.config import Config

_UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def read_config(path: Path) -> Config:
    """Reads a configuration file: a Python module with `get_config() -> Config`.

    The `config.json` of a run is one too: the run that it makes has the same configuration.

    The file may import its neighbours, from any current folder: `import base`, or by the name of
    their folder, as in `from configs.base import ...` in `configs/lora.py`.

    Raises:
      ValueError: if the file is missing, fails, or has no such function; the message names the file
        and the line of the fault.
    """
    path = files.user_path(path)
    if not path.is_file():
        _refuse_missing(path)
    if path.suffix == ".json":
        return _read_json(path)
    with _explained(path), _importable_neighbours(path.resolve()):
        variables: dict[str, Any] = {
            "__name__": path.stem,
            "__package__": path.resolve().parent.name,  # For `from .base import ...`.
            "__file__": str(path),
        }
        exec(compile(path.read_bytes(), str(path), "exec"), variables)
        get_config = variables.get("get_config")
        config = get_config() if callable(get_config) else None
    if not isinstance(config, Config):
        if callable(get_config):
            got = f"it returned {'None' if config is None else f'a {type(config).__name__}'}"
        elif get_config is not None:
            got = f"its get_config is no function but a {type(get_config).__name__}"
        else:
            got = f"it defines no such function{messages.hint('get_config', variables)}"
        raise ValueError(f"{path} must define get_config() that returns a tl_jax.Config; {got}")
    return config


def _read_json(path: Path) -> Config:
    try:
        return configuration.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no configuration of a run ({error}); expected the config.json of a run's "
            "folder, or a Python file that defines get_config()"
        ) from error


def _refuse_missing(path: Path) -> None:
    expected = "expected a Python file that defines get_config(), such as configs/demo.py"
    if path.is_dir():
        names = [str(file) for file in sorted(path.glob("*.py"))]
        within = f", which holds {messages.some(names, quoted=False)}" if names else ""
        raise ValueError(f"the configuration {path} is a folder{within}; {expected}")
    candidates = [str(file) for file in path.parent.glob("*.py")]
    raise ValueError(
        f"there is no configuration {path}{messages.hint(str(path), candidates)}; {expected}"
    )


@contextlib.contextmanager
def _importable_neighbours(path: Path) -> Iterator[None]:
    """Lets a file import the files of its folder, by their names or by the folder's."""
    folders = [str(path.parent), str(path.parent.parent)]
    known = set(sys.modules)
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        # Another folder's `base` is another module: the next configuration must not find this one.
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None)
            is_neighbour = file and Path(file).resolve().parent == path.parent
            if is_neighbour or name.partition(".")[0] == path.parent.name:
                del sys.modules[name]


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns any failure of a configuration file into one sentence with file and line."""
    try:
        yield
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        line = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{error.filename or path}{line}: {error.msg}{text}") from error
    except (Exception, SystemExit) as error:
        what = f"{error}{_hint(error)}"
        if not isinstance(error, ValueError):  # Of which the message alone says enough.
            what = f"{type(error).__name__}: {what}"
        raise ValueError(f"{_place(error, path)}: {what}") from error


def _place(error: BaseException, path: Path) -> str:
    """Returns file and line of the innermost call in the configuration file or a neighbour."""
    folder = path.resolve().parent
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.suffix == ".py" and file.resolve().parent == folder:
            return f"{file}, line {frame.lineno}"
    return str(path)


def _hint(error: BaseException) -> str:
    """Returns what may have been meant by a field that a section of the configuration lacks."""
    if isinstance(error, dataclasses.FrozenInstanceError):
        return "; a configuration does not change: make another with dataclasses.replace"
    match = _UNEXPECTED.search(str(error))
    section = vars(configuration).get(match[1]) if match else None
    if match is None or not isinstance(section, type) or not dataclasses.is_dataclass(section):
        return ""
    names = [field.name for field in dataclasses.fields(section)]
    return messages.hint(match[2], names) or f"; it has {', '.join(names)}"
