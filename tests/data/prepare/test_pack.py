"""Preparing: records hold what was read, corrupt images are named, all or nothing is kept."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tests.support.folders import digests
from tests.support.slim import ROOT
from tl_jax.data.images import decode
from tl_jax.data.prepare import contact_sheet, pack
from tl_jax.data.prepare.image_reader import ImageReader
from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.prepare.records import write_records
from tl_jax.data.source import Source, Task
from tl_jax.data.sources.open import open_source, split_names
from tl_jax.data.sources.tfds import TfdsSource


@pytest.fixture
def run(root, tmp_path):
    """Prepares the folder of good images."""

    def prepare_folder(name="out", **options):
        return prepare_source(f"folder:{root}", tmp_path / name, progress=False, **options)

    return prepare_folder


def records(folder, split="train"):
    """Returns the records of a split by path, images still encoded."""
    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return {record["path"].decode(): record for record in source}


def test_files_are_stored_byte_for_byte_with_their_labels(faulty_root, prepared):
    classes = ("dog", "крас ный", "写真 1")
    for split, count in (("train", 13), ("validation", 7)):
        stored = records(prepared.folder, split)
        assert len(stored) == count
        for name, record in stored.items():
            assert bytes(record["image"]) == (faulty_root / name).read_bytes()
            assert classes[record["label"]] == Path(name).parent.name


def test_the_prepared_source_equals_the_folder(faulty_root, prepared, tmp_path):
    spec = f"prepared:{prepared.folder}"
    assert set(split_names(spec)) == {"train", "validation"}
    packed = open_source(spec, "train")
    folder = open_source(f"folder:{faulty_root}", "train", data_dir=tmp_path, on_corrupt="skip")
    assert packed.class_names == folder.class_names
    assert len(packed) == len(folder)
    by_path = {example["path"]: example for example in map(packed.__getitem__, range(13))}
    for example in map(folder.__getitem__, range(13)):
        other = by_path[Path(example["path"]).relative_to(faulty_root).as_posix()]
        np.testing.assert_array_equal(other["image"], example["image"])
        assert other["label"] == example["label"]


def test_the_order_of_the_records_mixes_the_classes(prepared):
    labels = [int(record["label"]) for record in records(prepared.folder).values()]
    assert labels != sorted(labels)


def test_corrupt_files_are_named_with_reasons(prepared):
    lines = (prepared.folder / pack.QUARANTINE).read_text(encoding="utf-8").splitlines()
    named = {line.pop("file"): line for line in map(json.loads, lines)}
    assert set(named) == {"train/dog/empty.png", "train/dog/text.jpg"}
    assert named["train/dog/empty.png"] == {
        "split": "train",
        "class": "dog",
        "reason": "cannot identify image file: it is empty",
    }
    assert prepared.report["splits"]["train"]["corrupt"] == 2 == len(prepared.corrupt)


def test_duplicates_and_leakage_are_reported_by_name(prepared):
    (group,) = prepared.report["duplicates"]
    names = {file["file"] for file in group["files"]}
    assert names == {"train/dog/é 1.png", "train/dog/twin.png", "val/dog/copy.bmp"}
    assert group["across_splits"]
    assert not group["identical_bytes"]
    assert not group["labels_differ"]
    leakage = [line for line in prepared.report["warnings"] if "leakage" in line]
    assert "val/dog/copy.bmp" in leakage[0]


def test_the_report_and_the_sheet_are_beside_the_records(prepared):
    report = json.loads((prepared.folder / pack.REPORT).read_text(encoding="utf-8"))
    assert report == prepared.report
    page = (prepared.folder / pack.PAGE).read_text(encoding="utf-8")
    assert "| крас ный | 4 | 2 |" in page
    sheet = np.asarray(Image.open(prepared.folder / pack.SHEET))
    assert sheet.shape[0] > 3 * 112
    assert np.unique(sheet.reshape(-1, 3), axis=0).shape[0] > 100


def test_options_reach_the_records_and_threads_change_nothing(run):
    one = run("one", workers=1, encoding="png", max_side=25)
    four = run("four", workers=4, encoding="png", max_side=25)
    assert digests(one.folder) == digests(four.folder)
    for record in records(one.folder).values():
        assert max(decode.decode(bytes(record["image"])).shape) == 25


def test_the_seed_chooses_what_the_sheet_shows(root, run, save_image):
    for i in range(12):
        save_image(root / "train/dog" / f"more {i}.png", seed=50 + i)
    sheets = [
        (run(name, seed=seed, splits=("train",)).folder / pack.SHEET).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert sheets[0] == sheets[1] != sheets[2]


def test_some_splits_can_be_prepared_alone(run):
    prepared = run(splits=("validation",))
    assert list(tfds.builder_from_directory(prepared.folder).info.splits) == ["validation"]
    assert list(prepared.report["splits"]) == ["validation"]


def test_a_folder_without_splits_gets_those_of_its_source(tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(10):
            save_image(tmp_path / "flat" / name / f"{i}.png", seed=i + 20 * (name == "b"))
    spec, options = f"folder:{tmp_path}/flat", {"seed": 3, "validation_fraction": 0.3}
    prepared = prepare_source(spec, tmp_path / "out", progress=False, **options)
    source = open_source(spec, "validation", data_dir=tmp_path / "record", **options)
    assert set(records(prepared.folder, "validation")) == {
        path.relative_to(tmp_path / "flat").as_posix() for path in source.paths
    }
    assert len(records(prepared.folder)) == 20 - len(source)


def test_several_labels_lists_and_missing_ones_are_kept(tmp_path, save_image):
    rows = [
        {"image": "0.png", "split": "train", "kind": "b", "seen": ["sea", "sky"]},
        {"image": "1.png", "split": "train", "kind": "a", "seen": []},
        {"image": "2.png", "split": "train", "kind": None, "seen": ["sky"]},
        {"image": "3.png", "split": "test", "kind": "a", "seen": None},
    ]
    for i in range(4):
        save_image(tmp_path / f"{i}.png", seed=i)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec, labels = f"manifest:{tmp_path}/t.jsonl", ("kind", "seen")
    prepared = prepare_source(spec, tmp_path / "out", labels=labels, progress=False)
    for split in ("train", "test"):
        packed = open_source(f"prepared:{prepared.folder}", split, labels=labels)
        listed = open_source(spec, split, labels=labels, data_dir=tmp_path / "record")
        assert packed.tasks == listed.tasks
        by_image = {packed[i]["image"].tobytes(): packed[i] for i in range(len(packed))}
        for i in range(len(listed)):
            example = by_image[listed[i]["image"].tobytes()]
            assert example["label"] == listed[i]["label"]
            np.testing.assert_array_equal(example["seen"], listed[i]["seen"])
    train = prepared.report["splits"]["train"]["tasks"]
    assert train["kind"]["missing"] == 1
    assert train["seen"]["classes"] == {"sea": 1, "sky": 2}


def test_arrays_are_stored_without_loss(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    np.savez(tmp_path / "a.npz", images=images, labels=[0, 1, 0, 1, 1])
    prepared = prepare_source(f"npz:{tmp_path}/a.npz", tmp_path / "out", progress=False)
    stored = records(prepared.folder)
    assert sorted(stored) == [f"train[{i}]" for i in range(5)]
    for i in range(5):
        data = bytes(stored[f"train[{i}]"]["image"])
        np.testing.assert_array_equal(decode.decode(data), images[i])


def test_partly_known_labels_are_refused(tmp_path):
    labels = np.asarray([[1, 0, 1], [0, -1, 1]])
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels)
    with pytest.raises(ValueError, match=r"train\[1\] lacks some classes"):
        prepare_source(f"npz:{tmp_path}/a.npz", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_what_records_cannot_hold_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 3, 4, 4, 1), np.uint8), labels=[0, 1])
    with pytest.raises(ValueError, match="a prepared set holds single images with classes"):
        prepare_source(f"npz:{tmp_path}/a.npz", tmp_path / "out", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_an_existing_folder_is_refused(prepared, run, tmp_path, faulty_root):
    with pytest.raises(FileExistsError, match=f"open it as prepared:{prepared.folder}"):
        prepare_source(f"folder:{faulty_root}", prepared.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileExistsError, match="name another folder, or remove it"):
        run("empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "jpg"}, "got encoding='jpg'.*did you mean 'jpeg'"),
        ({"max_side": 0}, "got max_side=0"),
        ({"workers": 0}, "got workers=0"),
        ({"splits": ("tran",)}, "no split 'tran'"),
        ({"splits": ("train", "val[:50%]")}, "no split called 'val\\[:50%\\]'"),
        ({"splits": ("all",)}, "no split called 'all'"),
    ],
)
def test_wrong_options_are_refused(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_place_that_cannot_be_made_is_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/out: .* name another"):
        prepare_source(f"folder:{root}", tmp_path / "file" / "out", progress=False)


def test_a_split_without_a_good_image_is_an_error(root, run, tmp_path):
    for path in (root / "val").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(
        decode.CorruptImageError, match="none of the 6 images in split 'validation'"
    ):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_splits_may_have_names_of_other_letters(root, run):
    (root / "val").rename(root / "проба-1")
    assert len(records(run(splits=("проба-1",)).folder, "проба-1")) == 6
    (root / "проба-1").rename(root / "a test")
    with pytest.raises(ValueError, match="no split called 'a test'"):
        run("other")


def test_a_class_without_a_good_image_is_a_warning(root, run):
    for path in (root / "val/dog").iterdir():
        path.write_bytes(b"")
    warnings = run(splits=("validation",)).report["warnings"]
    assert "no image of 'dog' (label) in split 'validation'" in warnings


def test_splits_of_different_classes_are_refused(root, run, save_image):
    save_image(root / "val/emu/0.png")
    with pytest.raises(ValueError, match="training split does not have: 'emu'"):
        run()


def test_records_that_read_back_differently_are_noticed_and_nothing_is_kept(
    run, tmp_path, monkeypatch
):
    real = TfdsSource.encoded

    def changed(source, index):
        data, example = real(source, index)
        return data, {**example, "label": 0}

    monkeypatch.setattr(TfdsSource, "encoded", changed)
    with pytest.raises(OSError, match="12 images of split 'train' were read back.*крас ный"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
def test_descriptions_that_are_damaged_are_named(prepared, tmp_path, file):
    shutil.copytree(prepared.folder, tmp_path / "cut")
    (tmp_path / "cut" / file).write_text('{"a')
    with pytest.raises(ValueError, match=r"cannot read .*of .*cut: .*prepare it again"):
        open_source(f"prepared:{tmp_path / 'cut'}", "train")
    (tmp_path / "cut" / "features.json").unlink()
    with pytest.raises(ValueError, match=r"cut lacks features\.json; copy the whole set"):
        open_source(f"prepared:{tmp_path / 'cut'}", "train")


def test_records_that_were_cut_off_are_named(prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "cut")
    (file,) = (tmp_path / "cut").glob("*-train.array_record*")
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ValueError, match=f"cannot read the records of split 'train'.*{file.name}"):
        open_source(f"prepared:{tmp_path / 'cut'}", "train").labels()


ODD_NAMES = (
    "eel\nbig", " cat ", "cat", "1", "1.0", "007", 'a,b "c"', "tab\tx", "e\u0301", "\U0001f600",
    "x" * 300, "caf\udce9", "", "a\r", "a\u2028b", '" cat "',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Odd(Source):
    """Two images of each class of odd names; the second task's labels are missing for some."""

    name: str = "odd"
    split: str = "train"
    tasks: tuple[Task, ...] = (Task("kind", ODD_NAMES), Task("other", ODD_NAMES[::-1]))

    def __len__(self):
        return 2 * len(ODD_NAMES)

    def __getitem__(self, index):
        image = np.full((4, 4, 3), index, np.uint8)
        return {"image": image, "label": index // 2, "other": index // 2 if index % 2 else -1}


def test_class_names_of_any_kind_are_read_back_as_they_were(tmp_path):
    source, reader = Odd(), ImageReader(None, None, "as-is")
    written = write_records({"train": source}, reader, tmp_path, num_threads=1, progress=False)
    packed = open_source(f"prepared:{written.folder}", "train")
    assert packed.tasks == source.tasks
    for i in range(len(packed)):
        example = packed[i]
        expected = source[int(example["image"][0, 0, 0])]
        assert (example["label"], example["other"]) == (expected["label"], expected["other"])
    names = tfds.builder_from_directory(written.folder).info.features["kind"].names
    assert len(names) == len(ODD_NAMES)  # TFDS alone counts the same classes.


def test_sets_prepared_without_a_file_of_labels_open_as_before(prepared, tmp_path):
    shutil.copytree(prepared.folder, tmp_path / "old")
    (tmp_path / "old" / "labels.json").unlink()
    old, new = (
        open_source(f"prepared:{at}", "train") for at in (tmp_path / "old", prepared.folder)
    )
    assert old.tasks == new.tasks
    (tmp_path / "old" / "labels.json").write_text('{"tasks": [')
    with pytest.raises(ValueError, match=r"labels\.json is damaged .*prepare the set again"):
        open_source(f"prepared:{tmp_path / 'old'}", "train")


def test_the_range_of_values_is_reported_and_kept(tmp_path):
    for i in range(4):
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray([[0, 4095 - i]], np.uint16)).save(path)
    spec, options = f"folder:{tmp_path}/set", {"splits": ("train",), "progress": False}
    dark = prepare_source(spec, tmp_path / "dark", **options).report["warnings"]
    assert re.match(
        r"largest value 409\d of 65535 in 2 of 2 images: they are nearly black", dark[0]
    )
    assert dark[0].endswith("such as 0 4095")
    for name, more in (("as-is", {}), ("small", {"encoding": "png"})):
        out = tmp_path / name
        report = prepare_source(spec, out, value_range=(0, 4095), **options, **more).report
        assert not [line for line in report["warnings"] if "largest value" in line]
        packed = open_source(f"prepared:{out}", "train")
        assert packed.value_range == (0, 4095)
        assert packed[0]["image"].max() == 255


def test_a_failure_at_the_end_leaves_nothing(run, tmp_path, monkeypatch):
    def refuse(path, target):
        names = {file.name for file in path.iterdir()}
        assert {"dataset_info.json", pack.REPORT, pack.PAGE, pack.QUARANTINE, pack.SHEET} <= names
        assert not target.exists()
        raise PermissionError("no renaming")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="no renaming"):
        run(splits=("validation",))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_full_disk_is_explained(run, tmp_path, monkeypatch):
    def fail(rows, **lines):
        raise RuntimeError("Failed to finalize: write() failed: No space left on device; writing")

    monkeypatch.setattr(contact_sheet, "draw", fail)
    with pytest.raises(OSError, match="the disk is full, and nothing was kept"):
        run(splits=("validation",))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_full_is_explained(root, run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(root / "train/dog/large.png")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine does not allow mounting a disk")
    try:
        with pytest.raises(OSError, match="the disk is full, and nothing was kept"):
            run("disk/out")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


# Decodes slowly, so that there is time to be killed.
SLOW = """
import sys, time
from pathlib import Path
from tl_jax.data.images import decode
from tl_jax.data.prepare.pack import prepare_source
real = decode.open_image
decode.open_image = lambda *args, **options: time.sleep(0.1) or real(*args, **options)
prepare_source(sys.argv[1], Path(sys.argv[2]), progress=False)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_looks_complete(root, run, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, f"folder:{root}", tmp_path / "out"], cwd=ROOT
    )
    while process.poll() is None and not list(tmp_path.glob(".out.*.part/prepared/incomplete*")):
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (leftover,) = (path.name for path in tmp_path.iterdir() if path.name != "set")
    assert leftover.startswith(".out.")
    with pytest.raises(FileNotFoundError):
        open_source(f"prepared:{tmp_path}/out", "train")
    run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]
    assert len(records(tmp_path / "out")) == 12


def test_the_folder_of_a_running_process_is_left_alone(run, tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    other = tmp_path / f".out.{socket.gethostname()}.{process.pid}.part"
    other.mkdir()
    try:
        run(splits=("validation",))
        assert other.exists()
    finally:
        process.kill()
        process.wait()
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run(splits=("validation",))
    assert not other.exists()


@pytest.mark.parametrize(("progress", "is_terminal", "shows"), [
    (False, True, False), (True, True, True), (True, False, False),
])  # fmt: skip
def test_nothing_is_printed_but_a_bar_in_a_terminal(
    progress, is_terminal, shows, faulty_root, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    prepare_source(f"folder:{faulty_root}", tmp_path / "packed", progress=progress)
    out, bar = capsys.readouterr()
    assert out == ""
    assert ("22/22" in bar) == shows
    assert bool(bar) == shows


@pytest.fixture
def decoded(monkeypatch):
    """How often each image is decoded, by digest."""
    counts = Counter()
    real = decode.open_image

    def count(data, **options):
        content = data.read_bytes() if isinstance(data, Path) else data
        counts[hashlib.sha256(content).hexdigest()] += 1
        return real(data, **options)

    monkeypatch.setattr(decode, "open_image", count)
    return counts


def test_images_are_decoded_once_and_for_the_sheet(run, decoded):
    run()
    assert (len(decoded), set(decoded.values())) == (18, {2})


def test_images_in_a_table_are_decoded_once_and_for_the_sheet(root, tmp_path, decoded):
    images = [path.read_bytes() for path in sorted(root.rglob("*.*"))][:6]
    columns = {"label": [0, 1, 2, 3, 4, 5, 0], "split": ["train"] * 7}
    table = pyarrow.table({"image": [*images, b"no image"], **columns})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    prepared = prepare_source(f"manifest:{tmp_path}/t.parquet", tmp_path / "out", progress=False)
    assert sorted(decoded.values()) == [1, 2, 2, 2, 2, 2, 2]
    assert [bad.reason for bad in prepared.corrupt] == [
        "cannot identify image file: it is text that begins 'no image'"
    ]
    assert "row 1 of t.parquet" in records(prepared.folder)
