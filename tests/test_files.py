"""Tests of atomic writes, by one writer, by several, and by one that fails; and of hashes."""

import hashlib
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from tl_jax import files

ROOT = Path(__file__).parents[1]


def test_text_is_written_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b.json"
    files.write_text(path, "grüne\n")
    assert path.read_bytes() == "grüne\n".encode()
    files.write_text(path, "")
    assert path.read_text() == ""
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="in the middle"), files.replacing(path) as part:
        part.write_text("half of the new")
        raise RuntimeError("in the middle")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with files.replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == path.parent  # On the same file system, or it could not be renamed.
    assert path.read_text() == "new"


def test_the_last_of_several_threads_wins(tmp_path):
    path = tmp_path / "file"
    first_has_written, second_is_done = threading.Event(), threading.Event()

    def first() -> None:
        with files.replacing(path) as part:
            part.write_text("first")
            first_has_written.set()
            assert second_is_done.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert first_has_written.wait(10)
    files.write_text(path, "second")
    assert path.read_text() == "second"
    second_is_done.set()
    thread.join()
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


WRITE_MANY = """
import pathlib, sys
from tl_jax import files

for _ in range(50):
    files.write_text(pathlib.Path(sys.argv[1]), sys.argv[2] * 10_000)
"""


def test_concurrent_processes_never_mix_their_texts(tmp_path):
    path = tmp_path / "file"
    files.write_text(path, "a" * 10_000)
    command = [sys.executable, "-c", WRITE_MANY, str(path)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT) for letter in "bc"]
    texts = set()
    while any(writer.poll() is None for writer in writers):
        texts.add(path.read_text())
    assert [writer.returncode for writer in writers] == [0, 0]
    assert {(text[0] * 10_000) for text in texts} == texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 10_000])
def test_hashes_are_those_of_the_content(content, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()


@pytest.fixture
def no_xdg(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def test_caches_are_under_home_or_where_the_variable_says(tmp_path, monkeypatch, no_xdg):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_dir() == tmp_path / ".cache" / "tl_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/elsewhere")
    assert files.cache_dir() == tmp_path / "elsewhere" / "tl_jax"


@pytest.mark.parametrize("home", ["/proc/nonexistent", "a file"])
def test_without_a_usable_home_caches_are_temporary(home, tmp_path, monkeypatch, no_xdg, capsys):
    (tmp_path / "a file").write_text("")
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(Path(home).absolute()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    folder = files.cache_dir()
    assert folder.parent == tmp_path / "tmp"
    files.write_text(folder / "x", "kept")
    assert files.cache_dir() == folder
    assert capsys.readouterr().err.count("XDG_CACHE_HOME") == 1


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        files.write_cache(tmp_path / "file" / "cache.json", "{}")
    assert capsys.readouterr().err.count("nothing is cached") == 1


def test_files_of_one_size_have_different_marks(tmp_path):
    paths = [tmp_path / name for name in ("a", "b", "empty")]
    for path, middle in zip(paths, (b"1", b"2", None), strict=True):
        path.write_bytes(b"" if middle is None else b"x" * 9000 + middle + b"x" * 9000)
    marks = files.marks(paths)
    assert [mark.partition("-")[0] for mark in marks] == ["18001", "18001", "0"]
    assert len(set(marks)) == 3
    assert files.marks([*paths] * 20_000)[:3] == ["18001", "18001", "0"]  # Too many to be read.


def test_a_path_of_a_user_may_begin_with_its_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.user_path("~/a") == tmp_path / "a"
    assert files.user_address("~/a") == str(tmp_path / "a")
    assert files.user_address("gs://~/a") == "gs://~/a"
    with pytest.raises(ValueError, match="~nobody-here/a .*write the whole path"):
        files.user_path("~nobody-here/a")


def test_json_that_is_nested_too_deeply_is_an_error_like_others():
    assert files.parse_json(b'{"a": [1]}') == {"a": [1]}
    for text in ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000, "{"):
        with pytest.raises(json.JSONDecodeError):
            files.parse_json(text)
