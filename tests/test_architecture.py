"""Tests that hold the layout: which file may import which, what is never imported, how files look.

The checks are functions of sources (path -> text), so that each is also shown to find a breach.
"""

import ast
import functools
import graphlib
import json
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pytest

from tests.support.slim import (
    NEVER_IN_THE_LIBRARY,
    NOT_ON_A_SLIM_MACHINE,
    blocking,
    run_python,
)

Sources = Mapping[str, str]

ROOT = Path(__file__).parents[1]

# From the lowest floor up. A folder ends in "/"; the longest entry that fits a file decides.
FLOORS = (
    (
        "tl_jax/allocator.py",
        "tl_jax/xla_flags.py",
        "tl_jax/messages.py",
        "tl_jax/interrupt.py",
        "tl_jax/files.py",
        "tl_jax/arguments.py",
        "tl_jax/processor.py",
        "tl_jax/version.py",
    ),
    (
        "tl_jax/compilation_cache.py",
        "tl_jax/agreement.py",
        "tl_jax/determinism.py",
        "tl_jax/peers.py",
        "tl_jax/process.py",
        "tl_jax/trees.py",
        "tl_jax/onednn/",
        "tl_jax/objectives/metric_names.py",
    ),
    ("tl_jax/config/", "tl_jax/distributed.py", "tl_jax/weights/", "tl_jax/models/layers/"),
    ("tl_jax/objectives/", "tl_jax/models/checks.py", "tl_jax/models/network.py"),
    ("tl_jax/models/architecture.py",),
    ("tl_jax/models/families/",),
    ("tl_jax/models/",),
    ("tl_jax/heads/", "tl_jax/data/", "tl_jax/transfer/peft/"),
    ("tl_jax/data/images/", "tl_jax/transfer/"),
    ("tl_jax/data/preprocess.py", "tl_jax/data/views.py"),
    ("tl_jax/data/augment/", "tl_jax/data/sources/", "tl_jax/data/loading/"),
    ("tl_jax/data/prepare/", "tl_jax/training/"),
    ("tl_jax/probes/",),
    ("tl_jax/run/",),
    ("tl_jax/evaluation/",),
    ("tl_jax/analysis/",),
    ("tl_jax/explanations/",),
    ("tl_jax/reporting/",),
    ("tl_jax/selection/",),
    ("tl_jax/serving/",),
    ("tl_jax/cli/",),
    ("tl_jax/__main__.py", "tl_jax/__init__.py"),
    ("configs/",),
    ("experiments/",),  # An experiment runs configurations; none runs an experiment.
)
FLOOR_OF = {entry: floor for floor, entries in enumerate(FLOORS) for entry in entries}
LONGEST_FUNCTION = 60

# A machine that only runs models and steps may have nothing but jax, flax, optax and orbax: all
# modules of these folders must import there.
SLIM_FOLDERS = (
    "tl_jax/config",
    "tl_jax/data/augment",
    "tl_jax/data/loading",
    "tl_jax/heads",
    "tl_jax/models",
    "tl_jax/objectives",
    "tl_jax/onednn",
    "tl_jax/probes",
    "tl_jax/training",
    "tl_jax/transfer",
    "tl_jax/weights",
)

# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "array_record": "array-record",
    "huggingface_hub": "huggingface-hub",
    "ml_dtypes": "ml-dtypes",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}
# Needed, and imported only by a library in between: tfds stores its sets with it.
READ_BY_OTHERS = {"array-record"}
# Imported where it is installed, by the extra "analysis": t-SNE.
OPTIONAL = {"scikit-learn"}


def floor_of(path: str) -> int | None:
    """Returns the floor of a file, or None if the table has no place for it."""
    entries = [e for e in FLOOR_OF if path == e or (e.endswith("/") and path.startswith(e))]
    return FLOOR_OF[max(entries, key=len)] if entries else None


@functools.cache
def imported_names(path: str, source: str) -> tuple[str, ...]:
    """Returns the absolute dotted names of all that a file imports, at any depth of its code.

    `from a import b` gives "a.b", of which b may be a module or not; imports by a literal name
    through `importlib.import_module` and `__import__` count too.
    """
    return tuple(_imported_names(path, source))


def _imported_names(path: str, source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = PurePosixPath(path).parts[: -node.level] if node.level else ()
            parent = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{parent}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__") and isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value)


def file_of(name: str, files: Sources) -> str | None:
    """Returns the file that an imported name is found in, or None if it is another library's."""
    for module in (name, name.rpartition(".")[0]):
        stem = module.replace(".", "/")
        for candidate in (f"{stem}.py", f"{stem}/__init__.py"):
            if stem and candidate in files:
                return candidate
    return None


def imported_files(sources: Sources) -> dict[str, set[str]]:
    """Returns, for each file, the files of this project that it imports."""
    return {
        path: {
            target
            for name in imported_names(path, source)
            if (target := file_of(name, sources)) is not None and target != path
        }
        for path, source in sources.items()
    }


def misplaced_imports(sources: Sources) -> list[str]:
    """Returns the breaches of the floors: a file reads lower floors and its own folder alone."""
    breaches = [
        f"{path} has no floor: add it to FLOORS" for path in sources if floor_of(path) is None
    ]
    for path, targets in imported_files(sources).items():
        for target in sorted(targets):
            own, other = floor_of(path), floor_of(target)
            if own is None or other is None or other < own:
                continue
            own_folder = PurePosixPath(target).parent in PurePosixPath(path).parents
            if other > own or not own_folder:
                breaches.append(f"{path} (floor {own}) imports {target} (floor {other})")
    return breaches


def import_cycle(sources: Sources) -> list[str]:
    """Returns the files of one circle of imports, or an empty list."""
    try:
        graphlib.TopologicalSorter(imported_files(sources)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def forbidden_imports(sources: Sources) -> list[str]:
    """Returns the imports in tl_jax/ of what a machine that runs it need not have."""
    return [
        f"{path} imports {name}"
        for path, source in sources.items()
        if path.startswith("tl_jax/")
        for name in imported_names(path, source)
        if name.partition(".")[0] in NEVER_IN_THE_LIBRARY
    ]


def other_libraries(sources: Sources) -> set[str]:
    """Returns the top-level modules of other libraries that tl_jax/ imports."""
    tops = {
        name.partition(".")[0]
        for path, source in sources.items()
        if path.startswith("tl_jax/")
        for name in imported_names(path, source)
    }
    return tops - sys.stdlib_module_names - {"tl_jax"}


def ill_kept_files(sources: Sources) -> list[str]:
    """Returns what is amiss in how files are written: no opening sentence, endless functions."""
    breaches = []
    for path, source in sources.items():
        tree = ast.parse(source)
        opening = (ast.get_docstring(tree) or "").partition("\n")[0]
        is_notebook = source.startswith("# ---\n# jupyter:")  # It opens with a title.
        if not opening.endswith(".") and not is_notebook:
            breaches.append(f"{path} does not open with one sentence that says what it owns")
        if PurePosixPath(path).name in ("utils.py", "helpers.py", "misc.py", "common.py"):
            breaches.append(f"{path}: name the file after what it owns")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and code_lines(node) > LONGEST_FUNCTION:
                breaches.append(f"{path}: {node.name} has {code_lines(node)} lines; split it")
    return breaches


def imports_of_test_files(sources: Sources) -> list[str]:
    """Returns the imports of a test file; what tests share has its place in tests/support/."""
    return [
        f"{path} imports {name}"
        for path, source in sources.items()
        for name in imported_names(path, source)
        if name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))
    ]


def code_lines(function: ast.FunctionDef) -> int:
    """Returns the number of lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = first.end_lineno - first.lineno + 1 if documented else 0
    return function.end_lineno - function.lineno + 1 - docstring


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """All Python files of the library, the configurations and the experiments."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for folder in ("tl_jax", "configs", "experiments")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def test_files_import_only_from_below(sources):
    assert len(sources) > 10
    assert misplaced_imports(sources) == []


def test_no_circle_of_imports(sources):
    assert import_cycle(sources) == []


def test_library_names_neither_torch_nor_timm_nor_tensorflow(sources):
    assert forbidden_imports(sources) == []


def test_files_are_well_kept(sources):
    assert ill_kept_files(sources) == []


def test_no_test_imports_another():
    paths = sorted((ROOT / "tests").rglob("*.py"))
    tests = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    assert len(tests) > 50
    assert imports_of_test_files(tests) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tests.data.test_views import corners", True),
        ("def f():\n    import tests.test_cli", True),
        ("from tests.support.tiny import TinyNet", False),
    ],
)
def test_imports_of_test_files_are_found(source, found):
    assert bool(imports_of_test_files({"tests/test_a.py": source})) == found


def test_every_folder_of_the_library_is_a_package(sources):
    folders = {PurePosixPath(path).parent for path in sources if path.startswith("tl_jax/")}
    assert [str(folder) for folder in folders if f"{folder}/__init__.py" not in sources] == []


def test_floors_name_files_that_exist(sources):
    assert [e for e in FLOOR_OF if not any(path.startswith(e) for path in sources)] == []


def test_dependencies_are_those_that_are_imported(sources):
    imported = {DISTRIBUTIONS.get(module, module) for module in other_libraries(sources)}
    assert imported - OPTIONAL | READ_BY_OTHERS == declared_dependencies()


def test_running_pins_are_exact_and_hold_every_dependency():
    running, testing = pins("requirements.txt"), pins("requirements-dev.txt")
    assert [line for line in running + testing if line.count("==") != 1] == []
    names = {line.partition("==")[0].lower() for line in running}
    assert {name.lower() for name in declared_dependencies()} - names == set()
    assert names & NEVER_IN_THE_LIBRARY == set()


def declared_dependencies() -> set[str]:
    """Returns the distributions that pyproject.toml says the library needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {line.partition(">")[0] for line in project["dependencies"]}


def pins(name: str) -> list[str]:
    """Returns the requirements of a file, without comments and inclusions."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


def test_importing_the_public_face_loads_no_other_framework():
    code = """
    import json, sys
    import tl_jax
    for name in tl_jax.__all__:
        getattr(tl_jax, name)
    print(json.dumps(sorted(sys.modules)))
    """
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "tl_jax.models.registry" in loaded
    assert loaded & NEVER_IN_THE_LIBRARY == set()


def test_models_and_steps_import_on_a_slim_machine(sources):
    modules = [module_name(path) for path in sources if path.startswith(SLIM_FOLDERS)]
    assert len(modules) > 50
    code = """
import importlib

for name in modules:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        print(name, "needs", error.name)
"""
    done = run_python(f"modules = {modules}\n{blocking(NOT_ON_A_SLIM_MACHINE)}{code}")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def module_name(path: str) -> str:
    """Returns the dotted name of the module in a file."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_blocking_makes_an_import_fail():
    done = run_python(blocking(NOT_ON_A_SLIM_MACHINE) + "import PIL")
    assert done.returncode != 0
    assert "not on this machine: PIL" in done.stderr


FACE = {"tl_jax/__init__.py": '"""Face."""', "tl_jax/trees.py": '"""Trees."""'}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("tl_jax/models/families/resnet.py", "from tl_jax.training.step import f"),
        ("tl_jax/models/families/resnet.py", "import tl_jax"),
        ("tl_jax/models/families/resnet.py", "from tl_jax.models import registry"),
        ("tl_jax/models/families/resnet.py", "from .. import registry"),
        ("tl_jax/models/families/resnet.py", "from ...transfer import freeze"),
        ("tl_jax/models/families/resnet.py", "def f():\n    from tl_jax.transfer.freeze import g"),
        ("tl_jax/weights/index.py", "from tl_jax.models.registry import create_model"),
        ("tl_jax/data/sources/folder.py", "from tl_jax.run.fit import fit"),
        ("tl_jax/training/state.py", "import tl_jax.run.fit"),
        ("tl_jax/trees.py", "import importlib\nimportlib.import_module('tl_jax.models.registry')"),
        ("tl_jax/stray.py", "import os"),
        ("configs/demo.py", "from experiments.torch_peer import import_timm"),
    ],
)
def test_misplaced_imports_are_found(path, source):
    others = (
        "tl_jax/models/__init__.py",
        "tl_jax/models/registry.py",
        "tl_jax/weights/__init__.py",
        "tl_jax/weights/index.py",
        "tl_jax/transfer/freeze.py",
        "tl_jax/training/step.py",
        "tl_jax/run/fit.py",
        "experiments/torch_peer.py",
    )
    breaches = misplaced_imports({**FACE, **dict.fromkeys(others, ""), path: source})
    assert len(breaches) == 1
    assert breaches[0].startswith(path)


def test_well_placed_imports_are_let_through():
    files = {
        **FACE,
        "tl_jax/models/__init__.py": "",
        "tl_jax/models/layers/conv.py": "import jax\nfrom tl_jax import trees",
        "tl_jax/models/families/resnet.py": "from ..layers import conv\nfrom tl_jax import trees",
        "tl_jax/models/registry.py": "from tl_jax.models.families import resnet",
        "experiments/torch_peer.py": "import torch",
        "experiments/benchmarks/train_step.py": "import tl_jax\nfrom experiments import torch_peer",
    }
    assert misplaced_imports(files) == []
    assert imported_files(files)["tl_jax/models/registry.py"] == {
        "tl_jax/models/families/resnet.py"
    }
    assert import_cycle(files) == []


def test_a_circle_is_found():
    files = {
        "tl_jax/models/a.py": "from tl_jax.models import b",
        "tl_jax/models/b.py": "def f():\n    from tl_jax.models.a import g",
    }
    assert set(import_cycle(files)) == set(files)


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("tl_jax/weights/a.py", "import torch.nn", True),
        ("tl_jax/weights/a.py", "def f():\n    from timm.models import resnet", True),
        ("tl_jax/weights/a.py", "import importlib\nimportlib.import_module('tensorflow')", True),
        ("tl_jax/data/a.py", "import tensorflow_datasets as tfds", False),
        ("experiments/a.py", "import torch", False),
    ],
)
def test_forbidden_imports_are_found(path, source, found):
    assert bool(forbidden_imports({path: source})) == found


@pytest.mark.parametrize(
    ("path", "source", "complaints"),
    [
        ("tl_jax/a.py", "import os", 1),
        ("tl_jax/a.py", '"""No full stop"""', 1),
        ("tl_jax/utils.py", '"""All sorts of things."""', 1),
        ("tl_jax/a.py", '"""One."""\ndef f():\n' + "    x = 1\n" * LONGEST_FUNCTION, 1),
        ("tl_jax/a.py", '"""One."""\ndef f():\n' + "    x = 1\n" * (LONGEST_FUNCTION - 1), 0),
    ],
)
def test_ill_kept_files_are_found(path, source, complaints):
    assert len(ill_kept_files({path: source})) == complaints
