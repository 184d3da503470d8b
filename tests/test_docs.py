"""The documents name files, functions, links and commands that exist."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from tl_jax import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    files = [link for link in links if "://" not in link and not link.startswith("mailto:")]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    named = re.findall(
        r"`((?:tests|experiments|configs|tl_jax|docs)/[\w/.-]*)`", page.read_text(encoding="utf-8")
    )
    templates = ("NAME", "ROOM")
    assert [
        path
        for path in named
        if not (ROOT / path).exists() and not any(word in path for word in templates)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_and_names_that_are_named_exist(page):
    """Dotted names such as `tl_jax.transfer.soups` lead to a module, or to a name in one."""
    for name in re.findall(r"`(tl_jax(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        path = name.replace(".", "/")
        if (ROOT / f"{path}.py").exists() or (ROOT / path).is_dir():
            continue
        module, _, last = name.rpartition(".")
        assert last in dir(importlib.import_module(module)), f"{name} in {page.name}"


def test_the_journeys_name_functions_that_exist():
    """Each `file.py: function` or `file.py: Class.method` of docs/architecture.md is defined."""
    named = re.findall(r"`([\w/]+\.py):\s+([\w.]+)`", ARCHITECTURE)
    assert len(named) > 25
    missing = [
        f"{file}: {name}"
        for file, name in named
        if name not in definitions((ROOT / "tl_jax" / file).read_text(encoding="utf-8"))
    ]
    assert missing == []


def definitions(source: str) -> set[str]:
    """Returns the functions, classes and methods of a module."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


def test_every_room_has_a_line():
    rooms = {
        f"`{path.name}/`" for path in (ROOT / "tl_jax").iterdir() if (path / "__init__.py").exists()
    }
    assert sorted(room for room in rooms if f"| {room} |" not in ARCHITECTURE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_those_of_the_program(page, capsys):
    cli.main(["--help"])
    usage = capsys.readouterr().out
    for command in re.findall(r"python -m tl_jax ([a-z][\w-]*)", page.read_text(encoding="utf-8")):
        assert f"\n  {command} " in usage
