"""Runs the notebooks and keeps their outputs.

    python -m experiments.run_notebooks [NAME...]

Each of `experiments/notebooks/` is a pair: a script in jupytext's percent format, which is edited,
and a notebook with the outputs of its last run, which this writes. Each runs in a folder of its own
that is removed; paths of this machine are cut out of what it prints. Together they take some
minutes.
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

FOLDER = Path(__file__).parent / "notebooks"
ROOT = Path(__file__).parents[1]
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.py")))
_SECONDS = 900  # Of a cell, at most.


def read_script(name: str) -> Any:
    """Returns a notebook as its script has it, without outputs."""
    return jupytext.read(FOLDER / f"{name}.py")


def execute(name: str) -> Any:
    """Runs a notebook and returns it with its outputs.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = read_script(name)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([before] if before else [])])
    try:
        with tempfile.TemporaryDirectory() as folder:
            client = nbclient.NotebookClient(
                notebook,
                timeout=_SECONDS,
                coalesce_streams=True,  # Of a progress bar the last state is kept.
                resources={"metadata": {"path": folder}},
            )
            client.execute()
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)  # Times of day.
                tidy(cell.get("outputs", []), Path(folder).resolve())
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
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
    for path, short in (
        (folder, ""),
        (Path(sys.prefix), ".venv/"),
        (ROOT, ""),
        (Path.home(), "~/"),
    ):
        text = text.replace(f"{path}/", short)
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the notebooks that are named, or all, and writes them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    names = parser.parse_args(arguments).names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"there is no notebook {unknown[0]!r}; there are {', '.join(NAMES)}")
    for name in names:
        start = time.monotonic()
        notebook = execute(name)
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
