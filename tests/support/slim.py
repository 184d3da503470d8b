"""Code run in a fresh interpreter, as on a machine where some libraries are not installed."""

import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEVER_IN_THE_LIBRARY = {"torch", "torchvision", "timm", "tensorflow"}
NOT_ON_A_SLIM_MACHINE = {
    "PIL",
    "array_record",
    "huggingface_hub",
    "matplotlib",
    "pyarrow",
    "safetensors",
    "simplejpeg",
    "tensorboardX",
    "tensorflow_datasets",
    "tqdm",
    "tyro",
} | NEVER_IN_THE_LIBRARY


def run_python(code: str) -> subprocess.CompletedProcess:
    """Runs code in a fresh interpreter at the root."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def blocking(blocked: set[str]) -> str:
    """Returns code after which importing any of `blocked` fails, as where it is not installed."""
    return f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(blocked)!r}:
            raise ModuleNotFoundError("not on this machine: " + name, name=name)

sys.meta_path.insert(0, Absent())
"""
