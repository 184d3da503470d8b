"""The mutation check: it separates faults that tests notice from those that they miss."""

import json

import pytest

from experiments import mutations


@pytest.fixture
def tree(tmp_path):
    """A project of one function, whose test calls it with one pair of numbers."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "code.py").write_text("def power(x, y):\n    return x**y\n")
    (root / "test_power.py").write_text(
        "import importlib.util\nspec = importlib.util.spec_from_file_location('c', 'code.py')\n"
        "code = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(code)\n"
        "def test_power():\n    assert code.power(2, 2) == 4\n"
    )
    rows = [
        {"id": "sum", "old": "x**y", "new": "x + y"},
        {"id": "swapped", "old": "x**y", "new": "y**x + 1"},
    ]
    facts = {"description": "a fault", "file": "code.py", "tests": ["test_power.py"]}
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(facts | row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.slow
def test_faults_are_counted_and_the_tree_is_left_as_it_was(tree, capsys):
    before = (tree / "project" / "code.py").read_text()
    arguments = ["--list", str(tree / "list.jsonl"), "--root", str(tree / "project")]
    assert mutations.main(arguments) == 1
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("sum") and "NOT NOTICED" in first
    assert second.startswith("swapped") and "test_power.py::test_power" in second
    assert total == "1 of 2 noticed"
    assert (tree / "project" / "code.py").read_text() == before


def test_a_mutation_that_does_not_apply_is_an_error(tree):
    (tree / "project" / "code.py").write_text("def power(x, y):\n    return pow(x, y)\n")
    listed = mutations.read_mutations(tree / "list.jsonl")
    with pytest.raises(ValueError, match=r"(?s)sum: code\.py holds the old text 0 times.*swapped"):
        mutations.check(listed, tree / "project")
    with pytest.raises(ValueError, match="bring the mutation up to date"):
        listed[0].apply(tree / "project")


@pytest.mark.full
def test_the_list_is_up_to_date():
    listed = mutations.read_mutations(mutations.LIST)
    assert len(listed) == 104
    mutations.check(listed, mutations.ROOT)
