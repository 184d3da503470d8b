"""How oneDNN's convolutions are found, built, kept and loaded; a fake compiler does the work."""

import os
import stat
import threading
from importlib import metadata
from pathlib import Path

import pytest

from tl_jax import onednn
from tl_jax.onednn import __main__ as command
from tl_jax.onednn import build, library

COUNTING = """
echo built >> "{folder}/calls"
while [ "$1" != "-o" ]; do shift; done
sleep 0.1
echo "not a library" > "$2"
"""


@pytest.fixture
def ingredients(tmp_path) -> build.Ingredients:
    return build.Ingredients("1.2.3", tmp_path / "libdnnl.so.3", (tmp_path, tmp_path))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """Returns a function that makes a shell script the compiler."""

    def use(script: str) -> Path:
        path = tmp_path / "compiler"
        path.write_text("#!/bin/sh\n" + script)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CXX", str(path))
        return path

    return use


def built_files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "tl_jax").rglob("*.*"))


def test_a_library_is_built_once(tmp_path, compiler, ingredients, capsys):
    compiler(COUNTING.format(folder=tmp_path))
    path = build.build(ingredients)
    assert path == build.build(ingredients)
    assert path.read_text() == "not a library\n"
    assert (tmp_path / "calls").read_text() == "built\n"
    assert capsys.readouterr().err.count("this is done once") == 1


def test_two_that_build_at_once_leave_one_whole_library(tmp_path, compiler, ingredients):
    compiler(COUNTING.format(folder=tmp_path))
    threads = [threading.Thread(target=build.build, args=(ingredients,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built_files(tmp_path) == [f"{ingredients.key}.so"]


def test_another_version_or_source_is_another_library(ingredients, tmp_path, monkeypatch):
    newer = build.Ingredients("1.2.4", ingredients.library, ingredients.headers)
    key = ingredients.key
    source = tmp_path / "other.cc"
    source.write_text("// another")
    monkeypatch.setattr(build, "_SOURCE", source)
    assert len({key, newer.key, ingredients.key}) == 3


def test_a_missing_compiler_is_named(ingredients, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.UnavailableError, match="there is no no-such-compiler; install a C"):
        build.build(ingredients)


def test_what_the_compiler_says_is_shown_and_nothing_is_kept(tmp_path, compiler, ingredients):
    compiler('echo "note: x" >&2; echo "a.cc:1: error: no such header" >&2; exit 1')
    with pytest.raises(build.UnavailableError, match="it says:\na.cc:1: error: no such header\n"):
        build.build(ingredients)
    assert built_files(tmp_path) == []


def test_what_is_not_installed_is_named(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(build.metadata, "distribution", absent)
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.platform, "system", lambda: "Linux")
    with pytest.raises(build.UnavailableError, match=r"not installed \(pip install 'tl-jax\[onedn"):
        build.find()


def test_an_incomplete_package_is_named(monkeypatch, tmp_path):
    class Distribution:
        files = (metadata.PackagePath("lib/libdnnl.so.3"),)

        def locate_file(self, file):
            return tmp_path / file

    monkeypatch.setattr(build.metadata, "distribution", lambda name: Distribution())
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(build.platform, "system", lambda: "Linux")
    with pytest.raises(build.UnavailableError, match="without libdnnl.so.3; install it anew"):
        build.find()


def test_another_processor_is_named(monkeypatch):
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(build.UnavailableError, match="on x86_64, and this is .* aarch64"):
        build.find()


def test_a_library_that_cannot_be_loaded_is_an_error_only_where_it_is_asked_for(
    tmp_path, compiler, ingredients, monkeypatch, capsys
):
    compiler(COUNTING.format(folder=tmp_path))
    monkeypatch.setattr(build, "find", lambda: ingredients)
    with onednn.switched("auto"):
        assert library.library() is None
        said = onednn.describe(1)
    assert said.startswith("XLA (oneDNN's convolutions cannot be loaded: ")
    assert f"remove {tmp_path}" in said
    with onednn.switched("on"):
        for ask in (library.library, lambda: onednn.describe(1)):
            with pytest.raises(build.UnavailableError, match=r"\(the switch TL_JAX_ONEDNN is on\)"):
                ask()
    assert command.main() == 1
    assert "not built: oneDNN's convolutions cannot be loaded" in capsys.readouterr().err
    assert (tmp_path / "calls").read_text() == "built\n"


def test_off_builds_nothing(monkeypatch):
    monkeypatch.setattr(build, "find", lambda: pytest.fail("looked for oneDNN"))
    monkeypatch.setenv("TL_JAX_ONEDNN", "off")
    assert library.library() is None
    assert onednn.describe(1) == "XLA (TL_JAX_ONEDNN is off)"
    assert onednn.used_version(1) is None
    with onednn.switched("auto"):
        assert onednn.describe(4) == "XLA (a program for 4 devices does not use oneDNN)"
        assert onednn.used_version(4) is None


def test_a_misspelt_switch_is_an_error(monkeypatch):
    monkeypatch.setitem(os.environ, "TL_JAX_ONEDNN", "onn")
    with pytest.raises(ValueError, match="is 'onn'; it may be 'auto', 'on', 'off'; did you mean"):
        library.library()
