"""Tests of a run's record: what is kept on resuming, and what TensorBoard can read."""

import json
import resource
import struct
import time
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from tl_jax.run import journal
from tl_jax.run.journal import Journal


def write(workdir: Path, steps, *, after_step: int = 0, **options) -> None:
    with Journal(workdir, after_step=after_step, **options) as record:
        for step in steps:
            record.write("train", step, step / 10, {"loss": 1 / step, "recall": [0.5, 1.0]})


def steps_of(workdir: Path) -> list[int]:
    return [record["step"] for record in journal.read(workdir)]


def events(workdir: Path) -> list[Event]:
    """Reads TensorBoard's event files: records of length, checksum, data and checksum."""
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(Event.FromString(data[at + 12 : at + 12 + length]))
            at += 12 + length + 4
    return found


def scalars(workdir: Path) -> list[tuple[str, int, float]]:
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(workdir)
        for value in event.summary.value
    ]


def test_records_are_read_as_they_were_written(tmp_path):
    with Journal(tmp_path, after_step=0) as record:
        record.write("train", 3, 0.5, {"loss": 0.1, "accuracy": 1.0})
        record.write("validation", 6, 1, {"count": 7, "recall": [0.5, 1.0]})
    assert journal.read(tmp_path) == [
        {"split": "train", "step": 3, "epoch": 0.5, "loss": 0.1, "accuracy": 1.0},
        {"split": "validation", "step": 6, "epoch": 1, "count": 7, "recall": [0.5, 1.0]},
    ]


def test_a_run_without_records_has_none(tmp_path):
    assert journal.read(tmp_path) == []


def test_each_record_is_on_the_disk_at_once(tmp_path):
    with Journal(tmp_path, after_step=0) as record:
        record.write("train", 1, 0.1, {"loss": 1.0})
        assert steps_of(tmp_path) == [1]


@pytest.mark.parametrize(("after_step", "kept"), [(0, []), (2, [1, 2]), (9, [1, 2, 3, 4])])
def test_resuming_drops_what_came_after_the_checkpoint(tmp_path, after_step, kept):
    write(tmp_path, [1, 2, 3, 4])
    write(tmp_path, [20], after_step=after_step)
    assert steps_of(tmp_path) == [*kept, 20]


def test_of_a_step_that_was_not_evaluated_only_records_of_training_stay(tmp_path):
    write(tmp_path, [1, 2])
    with Journal(tmp_path, after_step=2) as record:
        record.write("val", 2, 1.0, {"loss": 1.0})
    write(tmp_path, [3], after_step=2, is_evaluated=False)
    assert [(r["split"], r["step"]) for r in journal.read(tmp_path)] == [
        ("train", 1), ("train", 2), ("train", 3),
    ]  # fmt: skip


def test_a_line_cut_off_by_a_stop_is_left_out(tmp_path):
    write(tmp_path, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"split": "train", "ste')
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, [3], after_step=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


@pytest.mark.parametrize("rest", ["{", "\0\0\0\n", "null\n", '{"split": "train"}\n', "\n\n"])
def test_a_damaged_last_line_is_left_out(tmp_path, rest):
    write(tmp_path, [1, 2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(rest)
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, [3], after_step=2)
    assert steps_of(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("damage", [b'{"split": "tra', b"\xff\xfe", b"7", b'{"split": "train"}'])
def test_a_damaged_line_is_named_and_kept(tmp_path, damage):
    write(tmp_path, [1, 2, 3])
    path = tmp_path / "metrics.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([lines[0], damage, *lines[1:]]) + b"\n")
    before = path.read_bytes()
    for attempt in (lambda: journal.read(tmp_path), lambda: write(tmp_path, [4], after_step=3)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: got .* delete this line"):
            attempt()
    assert path.read_bytes() == before


def test_values_that_are_not_finite_are_no_json_and_become_null(tmp_path):
    with Journal(tmp_path, after_step=0) as record:
        record.write("train", 1, 0.1, {"loss": 1.0, "grad_norm": float("inf")})
    (found,) = journal.read(tmp_path)
    assert (found["loss"], found["grad_norm"]) == (1.0, None)
    assert scalars(tmp_path) == [("train/loss", 1, 1.0)]  # tensorboardX would print a warning.


@pytest.mark.parametrize("name", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(tmp_path, after_step=0) as record:
        record.write("train", 1, 0.1, {"loss": 1.0})
        sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
        bulk = {"recall": [0.5] * 999} if name == "metrics.jsonl" else {}
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) + 400, limits[1]))
            with pytest.raises(OSError, match=f"{tmp_path / name}"):
                for step in range(2, 99):
                    values = {f"m{i}": 0.5 for i in range(20)}
                    record.write("train", step, 0.1, bulk or values)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_stop_while_the_record_is_reopened_loses_nothing(tmp_path, monkeypatch):
    write(tmp_path, [1, 2])

    def stopped(path: Path, *args, **options) -> None:
        path.open("w").write("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", stopped)
    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path, after_step=2)
    assert steps_of(tmp_path) == [1, 2]


def test_tensorboard_gets_the_numbers(tmp_path):
    write(tmp_path, [1, 2])
    assert scalars(tmp_path) == [("train/loss", 1, 1.0), ("train/loss", 2, 0.5)]


def test_tensorboard_is_told_what_a_resumed_run_replaces(tmp_path):
    write(tmp_path, [1, 2, 3])
    write(tmp_path, [3], after_step=2)
    starts = [event.step for event in events(tmp_path) if event.HasField("session_log")]
    assert starts[-1] == 3


def test_a_record_that_is_not_enabled_writes_nothing(tmp_path):
    write(tmp_path, [1], enabled=False)
    assert list(tmp_path.iterdir()) == []


def test_the_times_are_those_of_each_start(tmp_path):
    before = time.time()
    write(tmp_path, [1, 2])
    between = time.time()
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.rename(f"{path}.first")  # In the same second the next file has the same name.
    write(tmp_path, [3], after_step=2)
    (first, last), (again, end) = journal.times(tmp_path)
    assert before <= first <= last <= between < again <= end <= time.time()
    # Those that say where the run went on have no time.
    clock = [event.wall_time for event in events(tmp_path) if event.wall_time]
    assert (min(clock), max(clock)) == (first, end)


@pytest.mark.parametrize("kept", [0, 5, 40])
def test_times_of_a_file_that_is_cut_off_are_read_as_far_as_it_goes(tmp_path, kept):
    write(tmp_path, [1, 2])
    ((first, _),) = journal.times(tmp_path)
    (path,) = (tmp_path / "tensorboard").iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert journal.times(tmp_path) == ([(first, first)] if kept == 40 else [])


def test_a_run_without_events_has_no_times(tmp_path):
    assert journal.times(tmp_path) == []
