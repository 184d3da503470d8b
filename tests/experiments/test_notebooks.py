"""The notebooks hold the outputs of their scripts, and run."""

import json

import nbformat
import pytest

from experiments.notebooks import __main__ as notebooks
from experiments.notebooks.__main__ import FOLDER, NAMES

LARGEST = 500_000  # Bytes of a notebook, so that it opens at once.


def sources(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_its_script_with_outputs(name):
    path = FOLDER / f"{name}.ipynb"
    kept = nbformat.read(path, as_version=4)
    assert sources(kept) == sources(notebooks.read_script(name)), (
        f"run: python -m experiments.notebooks {name} --write"
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
    notebooks.tidy([output], tmp_path)
    assert output.text == "done in runs\n"


def test_an_unknown_notebook_is_named(capsys):
    with pytest.raises(SystemExit):
        notebooks.main(["quick_stat"])
    assert "there is no notebook 'quick_stat'" in capsys.readouterr().err


def test_a_bar_is_drawn_on_one_line_of_a_notebook():
    cell = nbformat.v4.new_code_cell("""
from tl_jax.run.progress import Progress
with Progress("epoch 1/1", steps=50, images_per_step=16, compiles=True) as bar:
    for step in range(50):
        bar.update()
        bar.finish(loss=0.5, steps=step + 1)
""")
    [executed] = notebooks.execute(nbformat.v4.new_notebook(cells=[cell])).cells
    text = "".join(output.text for output in executed.outputs)
    # The bar is gone when the epoch has ended; what stays is one line, and no warning.
    assert text.strip().startswith("epoch 1/1  compiled, and one step, in 0:0")
    assert len(text.strip().splitlines()) == 1


@pytest.mark.full
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name):
    notebooks.execute(notebooks.read_script(name))
