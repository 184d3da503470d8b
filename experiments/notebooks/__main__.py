"""Runs the notebooks, and with --write keeps their outputs.

    python -m experiments.notebooks [NAME...] [--write]

Each notebook is a pair: a script in jupytext's percent format, which is edited, and beside it a
notebook with the outputs of its last run. Each runs in a folder of its own that is removed; paths
of this machine are cut out of what it prints. Together they take some minutes.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).parent
ROOT = Path(__file__).parents[2]
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("[!_]*.py")))
_SECONDS = 900  # Of a cell, at most.


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the notebooks that are named, or all; an error of a cell ends the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--write", action="store_true", help="write the notebooks and outputs")
    options = parser.parse_args(arguments)
    names = options.names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no notebook {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in names:
        start = time.monotonic()
        notebook = execute(read_script(name))
        if options.write:
            nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def read_script(name: str) -> Any:
    """Returns a notebook as its script has it, without outputs."""
    return jupytext.read(FOLDER / f"{name}.py")


def execute(notebook: Any) -> Any:
    """Runs a notebook in an empty folder, and returns it with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=_SECONDS,
            coalesce_streams=True,  # Of a progress bar the last state is kept.
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=environment)
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)  # Times of day.
            tidy(cell.get("outputs", []), Path(folder).resolve())
    notebook.metadata.pop("language_info", None)
    return notebook


def tidy(outputs: list[Any], folder: Path) -> None:
    """Cuts the paths of this machine out of printed text."""
    for output in outputs:
        if output.output_type == "stream":
            output.text = _without_paths(output.text, folder)
        for kind, value in output.get("data", {}).items():
            if kind.startswith("text/"):
                output.data[kind] = _without_paths(value, folder)


def _without_paths(text: str, folder: Path) -> str:
    packages = {Path(path) for path in sys.path if path.endswith("-packages")}
    for path in (folder, *packages, Path(sys.prefix), ROOT, Path.home()):
        text = text.replace(f"{path}/", "")
    return text


if __name__ == "__main__":
    main()
