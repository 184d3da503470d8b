"""Reading configuration files: Python modules with `get_config()`."""

import importlib.util
import sys
from pathlib import Path

from tl_jax import messages
from tl_jax.config import Config


def read_config(path: Path) -> Config:
    """Reads a configuration file: a Python module with `get_config() -> Config`.

    The file may import its neighbours by the name of their folder: `from configs.base import ...`
    in `configs/lora.py`, from any current folder.

    Raises:
      ValueError: if the file is missing or has no such function.
    """
    if not path.is_file():
        candidates = [str(file) for file in path.parent.glob("*.py")]
        raise ValueError(f"there is no configuration {path}{messages.hint(str(path), candidates)}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file; expected one that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    root = str(path.resolve().parent.parent)
    sys.path.insert(0, root)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    get_config = vars(module).get("get_config")
    config = get_config() if callable(get_config) else None
    if not isinstance(config, Config):
        raise ValueError(f"{path} must define get_config() that returns a tl_jax.Config")
    return config
