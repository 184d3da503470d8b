"""No source of the library evaluates what data, weights or caches hold, or unpacks them to disk."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Calls that run what they read, by the last two names of what is called.
RUN_CODE = frozenset(
    {"eval", "exec", "compile", "__import__", "import_module", "run_path", "run_module"}
    | {"pickle.load", "pickle.loads", "pickle.Unpickler", "pandas.read_pickle", "pd.read_pickle"}
    | {"torch.load", "joblib.load", "dill.load", "dill.loads", "cloudpickle.load", "marshal.loads"}
    | {"cloudpickle.loads", "marshal.load", "shelve.open", "os.system", "os.popen"}
    | {"yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader"}
    | {"subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_call"}
    | {"subprocess.check_output", "extractall", "unpack_archive", "tfds.builder", "tfds.load"}
)
# Those that are right where they are: what they read is the user's own code, or the process's own.
ALLOWED = {
    ("tl_jax/__init__.py", "import_module"): "names of a table in the same file",
    ("tl_jax/cli/configuration.py", "compile"): "a configuration file is a program of the user's",
    ("tl_jax/cli/configuration.py", "exec"): "a configuration file is a program of the user's",
    ("tl_jax/data/loading/process_pool.py", "pickle.loads"): "what was pickled on the same line",
    ("tl_jax/onednn/build.py", "subprocess.run"): "the compiler of the user's machine",
    ("tl_jax/weights/torch_file.py", "pickle.Unpickler"): "names are replaced by stand-ins",
}
# Functions of NumPy that run pickles unless they are told not to.
READ_ARRAYS = ("np.load", "numpy.load", "format.read_array", "NpzFile", "np.fromregex")
ALL_INTERFACES = ("0.0.0.0", "::")


def sources() -> dict[str, str]:
    return {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "tl_jax").rglob("*.py"))
    }


def name_of(node: ast.expr) -> str:
    """Returns the last two names of an expression: `a.b.c` gives "b.c", `a().b` gives ".b"."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value).rpartition('.')[2]}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def used_names(tree: ast.AST) -> Iterator[str]:
    """Yields what a source calls, derives a class from, or imports from a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield name_of(node.func)
        elif isinstance(node, ast.ClassDef):
            yield from map(name_of, node.bases)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module.rpartition('.')[2]}.{each.name}" for each in node.names)


def breaches(files: Mapping[str, str]) -> list[tuple[str, str]]:
    """Returns the calls that run code in each file, but for those that are allowed."""
    found = []
    for path, text in files.items():
        for name in used_names(ast.parse(text)):
            # `re.compile` and a method `eval` of a network are others.
            is_other = "." in name and name.rpartition(".")[2] in ("eval", "exec", "compile")
            forms = {name, *(() if is_other else (name.rpartition(".")[2],))}
            found += [(path, each) for each in forms & RUN_CODE if (path, each) not in ALLOWED]
    return found


def reads_of_arrays(files: Mapping[str, str]) -> list[str]:
    """Returns calls that read NumPy's files and do not forbid pickles, and all that allow them."""
    found = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            given = [each.value for each in node.keywords if each.arg == "allow_pickle"]
            forbids = [isinstance(v, ast.Constant) and v.value is False for v in given]
            reads = name_of(node.func) in READ_ARRAYS
            if (reads and forbids != [True]) or (given and not all(forbids)):
                found.append(f"{path}:{node.lineno}")
    return found


def open_addresses(files: Mapping[str, str]) -> list[str]:
    """Returns where an address stands on which a server listens to all of the network."""
    return [
        f"{path}:{node.lineno}"
        for path, text in files.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and node.value in ALL_INTERFACES
    ]


def test_nothing_that_is_read_is_run():
    assert breaches(sources()) == []


def test_every_exception_is_still_one():
    files = sources()
    for path, name in ALLOWED:
        used = {each for full in used_names(ast.parse(files[path])) for each in (
            full, full.rpartition(".")[2])}  # fmt: skip
        assert name in used, (path, name)


def test_numpy_never_reads_pickles():
    assert reads_of_arrays(sources()) == []


def test_no_server_listens_to_the_network():
    assert open_addresses(sources()) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval(text)",
        "exec(text)",
        "import pickle\npickle.loads(data)",
        "from pickle import loads",
        "class Reader(pickle.Unpickler): pass",
        "import torch\ntorch.load(path)",
        "yaml.load(text)",
        "from yaml import load",
        "importlib.import_module(name)",
        "from importlib import import_module",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
        "os.system(command)",
        "subprocess.run(command)",
        "tfds.builder(name)",
    ],
)
def test_a_breach_is_found(text):
    assert [path for path, _ in breaches({"a.py": text})][:1] == ["a.py"]


@pytest.mark.parametrize(
    "text", ["re.compile(x)", "f(x).compile()", "model.eval()", "pickle.dumps(x)", "f.load()"]
)
def test_what_runs_nothing_is_no_breach(text):
    assert breaches({"a.py": text}) == []


def test_reads_of_arrays_are_found():
    files = {"a.py": "np.load(p)\nnp.load(p, allow_pickle=True)\nnp.load(p, allow_pickle=False)"}
    assert reads_of_arrays(files) == ["a.py:1", "a.py:2"]
    assert reads_of_arrays({"a.py": "np.savez(p, allow_pickle=yes)"}) == ["a.py:1"]
    assert open_addresses({"a.py": "serve('127.0.0.1')\nserve('0.0.0.0')"}) == ["a.py:2"]
