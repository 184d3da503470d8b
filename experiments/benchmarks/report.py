"""The facts that every benchmark writes beside its figures: date, machine and libraries."""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tl_jax import processor

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


def facts(libraries: Sequence[str]) -> dict[str, Any]:
    """Returns date, machine and versions; call it before anything is timed."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_name(),
            "cores": processor.num_cores(),
            "load_before": os.getloadavg()[0],
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
        },
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }


def cpu_name() -> str:
    """Returns the processor's name, or its architecture where the system does not say."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text("utf-8").splitlines() if table.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def write(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes a result as JSON and returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return path
