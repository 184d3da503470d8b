"""Compiled programs on disk: where they are kept, whose choice counts, and what is thrown away."""

import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import jax
import pytest

from tl_jax import compilation_cache, files

ROOT = Path(__file__).parents[1]
OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_enable_compilation_cache",
)


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A user who has chosen nothing; the folder of compiled programs that this one gets."""
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    for name in OPTIONS:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.delenv("TL_JAX_COMPILATION_CACHE_GB", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield tmp_path / "tl_jax" / "compiled"
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_by_kind_of_processor(home):
    folder = compilation_cache.enable()
    assert folder is not None and folder.parent == home and folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert jax.config.jax_persistent_cache_min_compile_time_secs < 0.1
    assert compilation_cache.enable() is None  # It is decided.
    assert jax.config.jax_compilation_cache_dir == str(folder)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are not chosen here")
def test_programs_for_other_cores_are_others(home, monkeypatch):
    first = compilation_cache.enable()
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(99)))
    assert compilation_cache.enable() not in (None, first)


def test_a_folder_that_the_user_chose_stays(home, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    assert compilation_cache.enable() is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", "mine")
    assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir == "mine"


def test_the_users_shortest_time_stays(home):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 5.0)
    assert compilation_cache.enable() is not None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 5.0


def test_it_can_be_turned_off(home, monkeypatch):
    monkeypatch.setenv("TL_JAX_COMPILATION_CACHE_GB", "0")
    assert compilation_cache.enable() is None
    monkeypatch.delenv("TL_JAX_COMPILATION_CACHE_GB")
    jax.config.update("jax_enable_compilation_cache", False)
    assert compilation_cache.enable() is None
    assert not home.exists()


@pytest.mark.parametrize("value", ["-1", "much", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(value, home, monkeypatch):
    monkeypatch.setenv("TL_JAX_COMPILATION_CACHE_GB", value)
    with pytest.raises(ValueError, match=f"TL_JAX_COMPILATION_CACHE_GB={value}; expected .* 0 to"):
        compilation_cache.enable()


def test_what_cannot_be_unpacked_is_removed(home):
    whole = zlib.compress(bytes(range(256)) * 100)
    entries = {
        "whole": whole, "other-compression": b"\x28\xb5\x2f\xfd" + b"anything",
        "cut": whole[:-20], "empty": b"", "garbage": os.urandom(500).replace(b"\x28", b"0"),
    }  # fmt: skip
    (home / "cpu").mkdir(parents=True)
    for name, content in entries.items():
        (home / "cpu" / f"{name}-cache").write_bytes(content)
    compilation_cache.enable()
    left = sorted(path.name for path in (home / "cpu").iterdir())
    assert left == ["other-compression-cache", "whole-cache"]


def test_what_was_not_used_for_longest_is_removed_above_the_limit(home, monkeypatch):
    (home / "cpu").mkdir(parents=True)
    now = time.time()
    for age in (3, 1, 2):
        path = home / "cpu" / f"{age}-cache"
        path.write_bytes(zlib.compress(os.urandom(400)))
        os.utime(path, (now - 1000 * age, now - 5000))
    monkeypatch.setenv("TL_JAX_COMPILATION_CACHE_GB", "1e-6")  # 1,000 bytes: two entries.
    compilation_cache.enable()
    assert sorted(path.name for path in (home / "cpu").iterdir()) == ["1-cache", "2-cache"]


def test_without_a_folder_nothing_is_kept_and_a_line_says_so(home, capsys):
    files.say_once.cache_clear()
    home.parent.mkdir()
    home.write_text("a file")
    assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir is None
    assert "compiled programs are not kept" in capsys.readouterr().err


PROGRAM = """
import jax

hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
from tl_jax import process

process.prepare()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
results = [jax.jit(lambda x: jax.numpy.sin(x) * n)(jax.numpy.ones(3)).tolist() for n in (2, 3)]
print(results, hits.count("/jax/compilation_cache/cache_hits"))
"""


@pytest.mark.slow
def test_the_next_process_takes_what_is_whole_and_mends_the_rest(tmp_path):
    """A cut entry, as a full disk leaves, is compiled and written again."""

    def run() -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Error" not in done.stderr
        results, _, hits = done.stdout.strip().rpartition(" ")
        return results, int(hits)

    first = run()
    entries = sorted((tmp_path / ".cache/tl_jax/compiled").glob("*/*-cache"))
    damaged = entries[-1]
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-100])
    second = run()
    assert second[0] == first[0]
    assert (first[1], second[1]) == (0, len(entries) - 1)
    assert len(damaged.read_bytes()) > len(content) - 100
