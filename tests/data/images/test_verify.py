"""Finding corrupt files: named with reasons, remembered, whatever lies under the name."""

import os

import pytest

from tl_jax.data.images import verify


@pytest.fixture
def paths(tmp_path, save_image):
    return [save_image(tmp_path / f"{i}.png", seed=i) for i in range(3)]


def test_corrupt_files_are_returned_in_order_with_reasons(paths, tmp_path):
    paths[2].write_bytes(b"")
    paths[0].write_bytes(paths[0].read_bytes()[:-30])
    found = verify.find_corrupt(paths, tmp_path / "record.json")
    assert found == {
        paths[0]: "image file is truncated",
        paths[2]: "cannot identify image file: it is empty",
    }


def test_directories_pipes_and_dead_links_are_named(tmp_path, save_image):
    good = save_image(tmp_path / "a.png")
    odd = [tmp_path / name for name in ("folder.png", "pipe.png", "link.png")]
    odd[0].mkdir()
    os.mkfifo(odd[1])
    odd[2].symlink_to("nowhere.png")
    reasons = list(verify.find_corrupt([good, *odd], tmp_path / "record.json").values())
    assert reasons == [
        "it is a directory, not a file",
        "it is a device or a pipe, not a file",
        "there is no such file, or it is a link that leads nowhere",
    ]


@pytest.mark.parametrize("content", ["", '{"a": ', "null", "[1]"])
def test_a_damaged_record_is_written_anew(paths, tmp_path, content):
    record = tmp_path / "record.json"
    record.write_text(content)
    assert verify.find_corrupt(paths, record) == {}
    assert set(verify._read(record)) == set(map(str, paths))


def test_a_postponed_check_decodes_nothing_and_remembers_nothing(paths, tmp_path, monkeypatch):
    paths[1].write_bytes(b"")
    with verify.postponed(), monkeypatch.context() as patched:
        patched.setattr(verify.decode, "decode", lambda path: pytest.fail("it was decoded"))
        assert verify.find_corrupt(paths, tmp_path / "record.json") == {}
    assert not (tmp_path / "record.json").exists()
    assert list(verify.find_corrupt(paths, tmp_path / "record.json")) == [paths[1]]
