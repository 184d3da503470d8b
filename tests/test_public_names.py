"""The public names: what runs, what type checkers see and what the reference documents agree."""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import tl_jax

ROOT = Path(__file__).parents[1]


def names_for_type_checkers() -> dict[str, str]:
    """Returns the module of each name that `tl_jax/__init__.py` imports for type checkers."""
    tree = ast.parse((ROOT / "tl_jax" / "__init__.py").read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    return {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_public_names():
    assert sorted(names_for_type_checkers()) == sorted(tl_jax.__all__)
    assert (ROOT / "tl_jax" / "py.typed").exists()


@pytest.mark.parametrize(("name", "module"), names_for_type_checkers().items())
def test_a_public_name_is_what_type_checkers_see(name, module):
    assert getattr(tl_jax, name) is vars(importlib.import_module(module))[name]
    assert name in dir(tl_jax)


def test_the_reference_documents_the_public_names():
    text = (ROOT / "docs" / "reference" / "index.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: tl_jax\.(\w+)$", text, re.MULTILINE)) == sorted(tl_jax.__all__)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(AttributeError, match=r"no attribute 'fitt'; did you mean 'fit'\?"):
        tl_jax.fitt  # noqa: B018


def test_the_package_declares_its_version_and_its_command():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == tl_jax.__version__
    module, _, function = project["scripts"]["tl-jax"].partition(":")
    assert vars(importlib.import_module(module))[function].__name__ == "main"
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {tl_jax.__version__}\n" in citation
