"""Corrupt images: named with reasons, decoded once, whatever is under the name."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.images import decode, verify


@pytest.fixture
def paths(tmp_path, save_image):
    return [save_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]


@pytest.fixture
def decoded(monkeypatch):
    """What is decoded."""
    calls = []
    real = decode.decode

    def count(data, **options):
        calls.append(data)
        return real(data, **options)

    monkeypatch.setattr(decode, "decode", count)
    return calls


def test_corrupt_files_are_returned_in_order_with_reasons(paths, tmp_path):
    paths[2].write_bytes(b"")
    paths[0].write_bytes(paths[0].read_bytes()[:-30])
    assert verify.corrupt_files(paths, tmp_path / "record.json") == {
        paths[0]: "image file is truncated",
        paths[2]: "cannot identify image file: it is empty",
    }


def test_directories_pipes_and_dead_links_are_named(tmp_path, save_image):
    good = save_image(tmp_path / "a.png")
    odd = [tmp_path / name for name in ("folder.png", "pipe.png", "link.png")]
    odd[0].mkdir()
    os.mkfifo(odd[1])
    odd[2].symlink_to("nowhere.png")
    assert list(verify.corrupt_files([good, *odd], tmp_path / "record.json").values()) == [
        "it is a directory, not a file",
        "it is a device or a pipe, not a file",
        "there is no such file, or it is a link that leads nowhere",
    ]


def test_good_files_are_decoded_once_and_changed_ones_again(paths, tmp_path, decoded):
    record = tmp_path / "record.json"
    assert verify.corrupt_files(paths, record) == verify.corrupt_files(paths, record) == {}
    assert sorted(decoded) == paths
    paths[1].write_bytes(b"")
    for _ in range(2):
        assert list(verify.corrupt_files(paths, record)) == [paths[1]]
    assert decoded[3:] == [paths[1]] * 2


@pytest.mark.parametrize("content", ["", '{"a": ', "null", "[1]"])
def test_a_damaged_record_is_written_again(paths, tmp_path, content):
    record = tmp_path / "record.json"
    record.write_text(content)
    assert verify.corrupt_files(paths, record) == {}
    assert set(json.loads(record.read_text())) == set(map(str, paths))


def test_rows_of_a_table_are_decoded_once_for_each_selection(paths, tmp_path, decoded):
    table, record = tmp_path / "table", tmp_path / "record.json"
    table.write_text("as it is")
    contents = [path.read_bytes() for path in paths] + [b"no image"]

    def corrupt(*rows):
        return verify.corrupt_rows(table, rows, contents.__getitem__, record)

    for _ in range(2):
        assert list(corrupt(0, 3)) == [3]
        assert corrupt(1, 2) == {}
    assert len(decoded) == 4
    table.write_text("changed")
    assert list(corrupt(0, 3)) == [3]
    assert len(decoded) == 6
    assert corrupt() == {}


def test_records_of_two_folders_are_two_files(tmp_path):
    first, second = (verify.record_path(tmp_path / name, tmp_path) for name in "ab")
    assert first != second
    assert first == verify.record_path(tmp_path / "b" / ".." / "a", tmp_path)
    assert tmp_path in first.parents


def test_floats_that_are_good_with_a_range_are_not_good_without_one(tmp_path):
    path, record = tmp_path / "a.tiff", tmp_path / "record.json"
    Image.fromarray(np.ones((2, 2), np.float32)).save(path)
    for _ in range(2):
        assert verify.corrupt_files([path], record, value_range=(0, 1)) == {}
        assert "give these two as value_range" in verify.corrupt_files([path], record)[path]
