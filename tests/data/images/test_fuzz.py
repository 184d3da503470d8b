"""Fuzzing: no damaged file crashes or hangs anything; bad files are named, good files kept."""

import json
import os
import time

import pytest

from experiments import fuzz_images
from tl_jax.data.images import decode


def check(result):
    assert result["faults"] == []
    assert result["crashes"] == result["hangs"] == 0
    assert result["kept"] + result["named"] == result["count"]
    assert result["loaded"]["trained"] + result["loaded"]["evaluated"] == result["kept"]
    table = result["by_damage"]
    for kind in ("whole", "wrong suffix"):
        assert table[kind]["named"] == 0 < table[kind]["kept"]
    for kind in ("empty", "text", "cut short"):
        assert table[kind]["kept"] == 0 < table[kind]["named"]


@pytest.mark.slow
def test_the_command_finds_no_fault_and_writes_its_table(tmp_path, capsys):
    file = tmp_path / "fuzz.json"
    assert fuzz_images.main(["--count", "70", "--seed", "2", "--result", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "0 faults" in printed
    assert "bits flipped" in printed
    check(json.loads(file.read_text()))


@pytest.mark.full
def test_many_damaged_files_harm_nothing(tmp_path):
    check(fuzz_images.fuzz(2000, tmp_path, seed=3))


def test_the_same_seed_makes_the_same_files(tmp_path):
    one, other = (fuzz_images.make(tmp_path / name, 30, 4) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    assert list(one.values()) == list(other.values())


@pytest.mark.slow
def test_crashes_and_hangs_are_noticed():
    # In the place of files, what the decoder's stand-in is called with.
    slept = fuzz_images.decode_alone([0.0, 60.0, 0.01], limit=1.0, decoder=time.sleep)
    assert [verdict.reason for verdict in slept.values()] == ["kept", "hang", "kept"]
    died = fuzz_images.decode_alone([1, 2], decoder=os._exit)
    assert [verdict.reason for verdict in died.values()] == ["crash", "crash"]


WAYS = {
    "prepare": {"kept": {"a.png"}, "named": {"b.png"}},
    "folder": {"kept": {"a.png", "b.png"}, "named": {"b.png"}},
}


@pytest.mark.parametrize(
    ("name", "kind", "reason", "faults"),
    [
        ("a.png", "whole", "kept", 0),
        ("a.png", "empty", "kept", 1),
        ("a.png", "whole", "truncated", 3),
        ("a.png", "bits flipped", "truncated", 2),
        ("b.png", "empty", "it is empty", 1),
        ("c.png", "whole", "kept", 2),
        ("b.png", "bits flipped", "crash", 2),
    ],
)
def test_faults_are_found(name, kind, reason, faults):
    actual = fuzz_images.faults_of(name, kind, fuzz_images.Verdict(reason, 0.1), WAYS)
    assert len(actual) == faults
    assert all(name in fault for fault in actual)


def test_every_drawn_picture_can_be_decoded():
    rng = fuzz_images.np.random.default_rng(0)
    for suffix in fuzz_images.FORMATS:
        for _ in range(8):
            assert decode.decode(fuzz_images.picture(rng, suffix)).ndim == 3
