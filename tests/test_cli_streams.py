"""The standard streams of a command: closed, broken, in another encoding."""

import io
import os
import sys

import pytest

from tl_jax.cli import main, networks, streams


class Broken(io.StringIO):
    """Standard output whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture
def restored(monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    return monkeypatch


@pytest.mark.parametrize("quiet", [False, True])
def test_a_reader_that_goes_ends_the_command_quietly(quiet, restored, capsys):
    restored.setattr(sys, "stdout", Broken())
    if quiet:  # 2>&1 | head
        restored.setattr(sys, "stderr", Broken())
    assert main(["models", "vgg1*"]) == 0
    print("what is printed later goes nowhere", flush=True)
    assert capsys.readouterr().err == ""


def test_another_broken_pipe_is_an_error(restored, capsys):
    def models(pattern: str = "") -> None:
        raise BrokenPipeError(32, "Broken pipe")

    restored.setitem(sys.modules["tl_jax.cli"]._COMMANDS, "models", models)
    assert main(["models"]) == 1
    assert "Broken pipe" in capsys.readouterr().err
    assert networks.models is not models


def test_names_that_the_encoding_lacks_are_printed_with_escapes(restored):
    raw = io.BytesIO()
    restored.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    streams.prepare()
    print("gr\xfcn")
    assert raw.getvalue() == b"gr\\xfcn\n"  # and it is not kept back


def test_without_streams_output_goes_nowhere(restored):
    restored.setattr(sys, "stdout", None)
    restored.setattr(sys, "stderr", None)
    streams.prepare()
    print("nowhere")
    print("nowhere", file=sys.stderr)


def test_closed_descriptors_are_occupied(restored):
    opened, fstat = [], os.fstat

    def closed(number: int) -> os.stat_result:
        if number > 2:
            return fstat(number)
        opened.append(number)
        raise OSError(9, "Bad file descriptor")

    restored.setattr(os, "fstat", closed)
    restored.setattr(os, "open", lambda path, flags: opened.append(path))
    streams.prepare()
    assert opened == [0, os.devnull, 1, os.devnull, 2, os.devnull]


def test_a_deleted_folder_is_named(restored, tmp_path, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    restored.chdir(folder)
    folder.rmdir()
    assert main(["models"]) == 1
    assert "the current directory was deleted" in capsys.readouterr().err
    restored.chdir(tmp_path)
