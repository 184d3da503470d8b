"""The notebooks hold the outputs of their scripts, and run."""

import json

import nbformat
import pytest

from experiments import run_notebooks
from experiments.run_notebooks import FOLDER, NAMES

LARGEST = 500_000  # Bytes of a notebook, so that it opens at once.


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_script_with_outputs(name):
    path = FOLDER / f"{name}.ipynb"
    kept = nbformat.read(path, as_version=4)
    assert sources(kept) == sources(run_notebooks.read_script(name)), (
        f"run: python -m experiments.run_notebooks {name}"
    )
    outputs = [output for cell in kept.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]
    assert any({"image/png", "image/jpeg"} & set(output.get("data", {})) for output in outputs)
    assert path.stat().st_size < LARGEST
    text = json.dumps(kept)
    assert not [word for word in ("/home/", "/root/", "/tmp/", "/work/") if word in text]


def test_paths_of_this_machine_are_cut_out(tmp_path):
    output = nbformat.v4.new_output("stream", name="stderr", text=f"done in {tmp_path}/runs\n")
    run_notebooks.tidy([output], tmp_path)
    assert output.text == "done in runs\n"


def test_an_unknown_notebook_is_named(capsys):
    with pytest.raises(SystemExit):
        run_notebooks.main(["quick_stat"])
    assert "there is no notebook 'quick_stat'" in capsys.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    run_notebooks.execute(name)
