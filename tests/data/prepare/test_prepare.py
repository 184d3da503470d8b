"""Preparing: what is written is what was read, what is corrupt is named; all of it or nothing."""

import errno
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tl_jax.data.images import decode, verify
from tl_jax.data.prepare import image_reader, prepare, record_writer
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.split_names import split_names

ROOT = Path(__file__).parents[2]
# pytest sets the library's own filter aside.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

CLASSES = ("dog", "крас ный", "写真 1")


@pytest.fixture
def root(tmp_path, save_image):
    """Three classes in train and val, 4 and 2 images each, of all formats and different sizes."""
    suffixes = ("jpg", "png", "webp", "bmp")
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(CLASSES):
            for i in range(count):
                seed = 100 * number + 10 * (split == "val") + i
                path = tmp_path / "set" / split / name / f"é {i}.{suffixes[i]}"
                save_image(path, seed=seed, size=(20 + i, 30 + number))
    return tmp_path / "set"


@pytest.fixture
def run(root, tmp_path):
    """Prepares the folder."""

    def prepare_folder(name="out", **options):
        return prepare.prepare(f"folder:{root}", tmp_path / name, progress=False, **options)

    return prepare_folder


def content(folder):
    """Returns the digest of every file, and what is no file, below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else path.lstat().st_mode
        for path in folder.rglob("*")
    }


def records(folder, split="train"):
    """Returns the records of a split by path, images still encoded."""
    builder = tfds.builder_from_directory(folder)
    source = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return {record["path"].decode(): record for record in source}


def image_of(data):
    return Image.open(io.BytesIO(bytes(data)))


def test_files_are_stored_byte_for_byte_with_their_labels(root, run):
    found = run()
    for split, count in (("train", 12), ("val", 6)):
        stored = records(found.folder, split)
        assert len(stored) == count
        for name, record in stored.items():
            assert bytes(record["image"]) == (root / name).read_bytes()
            assert CLASSES[record["label"]] == Path(name).parent.name


def test_the_prepared_source_gives_what_the_folder_gives(root, run, tmp_path):
    found = run()
    ours = open_source(f"prepared:{found.folder}", "train")
    theirs = open_source(f"folder:{root}", "train", data_dir=tmp_path / "record")
    assert ours.class_names == theirs.class_names
    assert len(ours) == len(theirs)
    by_path = {example["path"]: example for example in map(ours.__getitem__, range(12))}
    for i in range(12):
        theirs_i = theirs[i]
        ours_i = by_path[Path(theirs_i["path"]).relative_to(root).as_posix()]
        np.testing.assert_array_equal(ours_i["image"], theirs_i["image"])
        assert ours_i["label"] == theirs_i["label"]


def test_the_order_of_the_records_mixes_the_classes(run):
    labels = [int(record["label"]) for record in records(run().folder).values()]
    assert labels != sorted(labels)


def test_the_source_is_left_as_it_is(root, run):
    (root / "train/dog/bad.png").write_bytes(b"no image")
    before = content(root)
    run()
    assert content(root) == before


def test_larger_images_are_made_smaller_and_others_kept(root, run):
    found = run(max_side=31)
    for name, record in records(found.folder).items():
        original = (root / name).read_bytes()
        before, after = image_of(original), image_of(record["image"])
        if max(before.size) <= 31:
            assert bytes(record["image"]) == original
            continue
        assert before.size[1] == 32
        assert after.size == (round(before.size[0] * 31 / 32), 31)
        assert after.format == ("JPEG" if before.format in ("JPEG", "WEBP") else "PNG")
        small = before.convert("RGB").resize(after.size, Image.Resampling.BICUBIC)
        if after.format == "PNG":
            np.testing.assert_array_equal(np.asarray(after), np.asarray(small))
    assert found.report["height"]["max"] == 32  # The report is of the source.


@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_all_images_can_be_stored_in_one_format(root, run, encoding):
    for name, record in records(run(encoding=encoding).folder).items():
        stored = image_of(record["image"])
        assert stored.format == encoding.upper()
        if encoding == "png":
            np.testing.assert_array_equal(np.asarray(stored), decode.decode(root / name))


def test_jpeg_is_of_quality_95(root, run):
    data = bytes(records(run(encoding="jpeg").folder)["train/dog/é 1.png"]["image"])
    expected = io.BytesIO()
    Image.open(root / "train/dog/é 1.png").save(expected, "JPEG", quality=95)
    assert data == expected.getvalue()


@pytest.fixture
def bad(root):
    """Adds one of everything that is no image to the folder, and says why it is none."""
    folder = root / "train/dog"
    (folder / "folder.jpg").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("nowhere")
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes((folder / "é 0.jpg").read_bytes()[:-40])
    bomb = bytearray((folder / "é 3.bmp").read_bytes())
    bomb[18:26] = struct.pack("<ii", 10_000, 10_000)
    (folder / "bomb.bmp").write_bytes(bomb)
    return {
        "folder.jpg": "it is a directory, not a file",
        "pipe.png": "it is a device or a pipe, not a file",
        "link.png": "there is no such file, or it is a link that leads nowhere",
        "empty.png": "it is empty",
        "text.jpg": "it is text that begins 'no image'",
        "cut.jpg": "image file is truncated",
        "bomb.bmp": "decompression bomb",
    }


def test_corrupt_files_are_named_with_reasons_and_the_others_kept(run, bad):
    found = run()
    lines = (found.folder / prepare.QUARANTINE).read_text(encoding="utf-8").splitlines()
    named = {line["file"]: line for line in map(json.loads, lines)}
    assert set(named) == {f"train/dog/{name}" for name in bad}
    for name, reason in bad.items():
        line = named[f"train/dog/{name}"]
        assert reason in line["reason"]
        assert (line["split"], line["class"]) == ("train", "dog")
    assert len(records(found.folder)) == 12
    assert found.report["splits"]["train"]["corrupt"] == len(bad) == len(found.corrupt)


@pytest.mark.parametrize(("number", "raised"), [(errno.EIO, False), (errno.EMFILE, True)])
def test_what_the_machine_lacks_is_no_fault_of_a_file(run, monkeypatch, number, raised):
    def read(path, real=Path.read_bytes):
        if path.name == "é 1.png" and path.parent.name == "dog":
            raise OSError(number, os.strerror(number))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read)
    if raised:
        with pytest.raises(OSError, match="Too many open files"):
            run()
    else:
        assert {one.reason for one in run().corrupt} == {"Input/output error"}


def test_names_that_are_no_text_are_written_legibly(root, run):
    data = (root / "train/dog/é 1.png").read_bytes()
    for name, content in ((b"\xff", data), (b"\xfe", b"")):
        Path(os.fsdecode(os.fsencode(root / "train/dog") + b"/" + name + b".png")).write_bytes(
            content
        )
    found = run()
    assert r"train/dog/\xff.png" in records(found.folder)
    assert [one.name for one in found.corrupt] == [r"train/dog/\xfe.png"]


def test_duplicates_and_leakage_are_reported_by_name(root, run):
    picture = Image.open(root / "train/dog/é 1.png")
    picture.save(root / "val/dog/copy.bmp")
    (root / "train/dog/twin.png").write_bytes((root / "train/dog/é 1.png").read_bytes())
    found = run()
    (group,) = found.report["duplicates"]
    names = {one["file"] for one in group["files"]}
    assert names == {"train/dog/é 1.png", "train/dog/twin.png", "val/dog/copy.bmp"}
    assert group["across_splits"]
    assert not group["identical_bytes"]
    assert not group["labels_differ"]
    assert any(
        "leakage" in line and "val/dog/copy.bmp" in line for line in found.report["warnings"]
    )


def test_the_report_and_the_sheet_lie_beside_the_records(run):
    found = run()
    assert json.loads((found.folder / prepare.REPORT).read_text(encoding="utf-8")) == found.report
    page = (found.folder / prepare.PAGE).read_text(encoding="utf-8")
    assert "| крас ный | 4 | 2 |" in page
    sheet = np.asarray(Image.open(found.folder / prepare.SHEET))
    assert sheet.shape[0] > 3 * 112
    assert np.unique(sheet.reshape(-1, 3), axis=0).shape[0] > 100


def test_the_seed_chooses_what_the_sheet_shows(root, run, save_image):
    for i in range(12):
        save_image(root / "train/dog" / f"more {i}.png", seed=50 + i)
    sheets = [
        (run(name, seed=seed).folder / prepare.SHEET).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert sheets[0] == sheets[1] != sheets[2]


def test_threads_change_nothing(run, bad):
    del bad  # They are in the folder.
    one, four = run("one", workers=1), run("four", workers=4)
    assert content(one.folder) == content(four.folder)


def test_some_splits_can_be_prepared_alone(run):
    found = run(splits=("val",))
    assert list(tfds.builder_from_directory(found.folder).info.splits) == ["val"]
    assert list(found.report["splits"]) == ["val"]


def test_a_folder_without_splits_gets_those_of_its_source(tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(10):
            save_image(tmp_path / "flat" / name / f"{i}.png", seed=i + 20 * (name == "b"))
    spec = f"folder:{tmp_path}/flat"
    found = prepare.prepare(spec, tmp_path / "out", seed=3, validation_fraction=0.3, progress=False)
    source = open_source(
        spec, "validation", seed=3, validation_fraction=0.3, data_dir=tmp_path / "record"
    )
    assert set(records(found.folder, "validation")) == {
        path.relative_to(tmp_path / "flat").as_posix() for path in source.paths
    }
    assert len(records(found.folder)) == 14


def rows(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"manifest:{path}"


def test_several_labels_lists_and_missing_ones_are_kept(tmp_path, save_image):
    for i in range(4):
        save_image(tmp_path / f"{i}.png", seed=i)
    spec = rows(
        tmp_path / "table.jsonl",
        {"image": "0.png", "split": "train", "kind": "b", "seen": ["sea", "sky"]},
        {"image": "1.png", "split": "train", "kind": "a", "seen": []},
        {"image": "2.png", "split": "train", "kind": None, "seen": ["sky"]},
        {"image": "3.png", "split": "test", "kind": "a", "seen": None},
    )
    found = prepare.prepare(spec, tmp_path / "out", labels=("kind", "seen"), progress=False)
    for split in ("train", "test"):
        ours = open_source(f"prepared:{found.folder}", split, labels=("kind", "seen"))
        theirs = open_source(spec, split, labels=("kind", "seen"), data_dir=tmp_path / "record")
        assert ours.tasks == theirs.tasks
        by_image = {ours[i]["image"].tobytes(): ours[i] for i in range(len(ours))}
        for i in range(len(theirs)):
            example = by_image[theirs[i]["image"].tobytes()]
            assert example["label"] == theirs[i]["label"]
            np.testing.assert_array_equal(example["seen"], theirs[i]["seen"])
    train = found.report["splits"]["train"]["tasks"]
    assert train["kind"]["missing"] == 1
    assert train["seen"]["classes"] == {"sea": 1, "sky": 2}


def prepare_source(monkeypatch, source, out):
    """Prepares a source that no specification names."""
    monkeypatch.setattr(prepare, "open_source", lambda spec, split, **options: source)
    return prepare.prepare("arrays", out, splits=("train",), progress=False)


def test_arrays_are_stored_without_loss(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    source = from_arrays(images, [0, 1, 0, 1, 1])
    found = prepare_source(monkeypatch, source, tmp_path / "out")
    stored = records(found.folder)
    assert sorted(stored) == [f"train[{i}]" for i in range(5)]
    for i in range(5):
        np.testing.assert_array_equal(
            decode.decode(bytes(stored[f"train[{i}]"]["image"])), images[i]
        )


def test_labels_known_in_part_are_refused(tmp_path, monkeypatch):
    images = np.zeros((2, 4, 4), np.uint8)
    source = from_arrays(images, np.asarray([[1, 0, 1], [0, -1, 1]], np.int8))
    with pytest.raises(ValueError, match=r"train\[1\] is known not to be, of others it is not"):
        prepare_source(monkeypatch, source, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_with_how_to_go_on(run, tmp_path):
    run()
    with pytest.raises(FileExistsError, match=rf"open it as prepared:{tmp_path}/out"):
        run()
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
    ],
)
def test_wrong_options_are_refused(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_split_without_a_good_image_is_an_error(root, run, tmp_path):
    for path in (root / "val").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(decode.CorruptImageError, match="none of the 6 images in split 'val'"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_splits_may_have_names_of_other_letters(root, run):
    (root / "val").rename(root / "проба-1")
    found = run()
    assert len(records(found.folder, "проба-1")) == 6
    (root / "проба-1").rename(root / "a test")
    with pytest.raises(ValueError, match="no split called 'a test'"):
        run("other")


def test_a_class_without_a_good_image_is_a_warning(root, run):
    for path in (root / "val/dog").iterdir():
        path.write_bytes(b"")
    assert "no image of 'dog' (label) in split 'val'" in run().report["warnings"]


def test_splits_of_different_classes_are_refused(root, run, save_image):
    save_image(root / "val/emu/0.png")
    with pytest.raises(ValueError, match="training split has not: 'emu'"):
        run()


@pytest.mark.parametrize("step", ["_check_whole", "_write_beside", "_sheet"])
def test_a_preparation_that_fails_leaves_nothing(run, tmp_path, monkeypatch, step):
    def fail(*arguments):
        raise ZeroDivisionError(step)

    owner = record_writer.RecordWriter if step == "_check_whole" else prepare
    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(ZeroDivisionError, match=step):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_the_folder_appears_at_once(run, tmp_path, monkeypatch):
    def refuse(path, target):
        held = {one.name for one in path.iterdir()}
        assert {"dataset_info.json", prepare.REPORT, prepare.QUARANTINE, prepare.SHEET} <= held
        assert not target.exists()
        raise PermissionError("no renaming")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="no renaming"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_records_that_are_missing_are_noticed(run, tmp_path, monkeypatch):
    def forget(self, source, bar, real=record_writer.RecordWriter._examples):
        examples = list(real(self, source, bar))
        yield from examples[1:]

    monkeypatch.setattr(record_writer.RecordWriter, "_examples", forget)
    with pytest.raises(OSError, match="11 of the 12 images of split 'train' were written"):
        run()


def test_a_full_disk_is_called_one(run, tmp_path, monkeypatch):
    def fail(*arguments):
        raise RuntimeError("Failed to finalize: write() failed: No space left on device; writing")

    monkeypatch.setattr(record_writer.RecordWriter, "_check_whole", fail)
    with pytest.raises(OSError, match="the disk is full, and nothing was kept"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_full_is_called_one(root, run, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    Image.fromarray(noise).save(root / "train/dog/large.png")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount a disk")
    try:
        with pytest.raises(OSError, match="the disk is full, and nothing was kept"):
            run("disk/out")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


RUN = """
import sys
from pathlib import Path
from tl_jax.data import prepare
prepare.prepare(sys.argv[1], Path(sys.argv[2]), progress=sys.argv[3] == "bar")
assert "tensorflow" not in sys.modules
"""


def start(spec, out, bar="none", code=RUN, **options):
    return subprocess.Popen(
        [sys.executable, "-c", code, spec, out, bar], text=True, cwd=ROOT, **options
    )


SLOW = RUN.replace("prepare.prepare(", """
import time
from tl_jax.data import decode
real = decode.decode_whole
decode.decode_whole = lambda data: time.sleep(0.1) or real(data)
prepare.prepare(""", 1)  # fmt: skip


def test_a_killed_preparation_leaves_nothing_that_looks_whole(root, run, tmp_path):
    process = start(f"folder:{root}", str(tmp_path / "out"), code=SLOW)
    while process.poll() is None and not list(tmp_path.glob(".out.*.part/prepared/incomplete*")):
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    left = [path.name for path in tmp_path.iterdir() if path.name != "set"]
    assert len(left) == 1
    assert left[0].startswith(".out.")
    with pytest.raises(FileNotFoundError):
        open_source(f"prepared:{tmp_path}/out", "train")
    run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]
    assert len(records(tmp_path / "out")) == 12


def test_another_preparation_that_runs_is_left_alone(run, tmp_path):
    process = subprocess.Popen(["sleep", "60"])
    with prepare._part_folder(tmp_path / "out") as part:
        other = part.with_name(part.name.replace(str(os.getpid()), str(process.pid)))
        other.mkdir()
    run()
    process.kill()
    process.wait()
    assert other.exists()
    run("out2")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    run()
    assert not other.exists()


def test_nothing_is_printed_but_a_bar_on_request(root, tmp_path, bad):
    silent, loud = (
        start(
            f"folder:{root}", str(tmp_path / bar), bar, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for bar in ("none", "bar")
    )  # fmt: skip
    assert silent.communicate() == ("", "")
    out, progress = loud.communicate()
    assert out == ""
    assert f"100%|██████████| {18 + len(bad)}/{18 + len(bad)}" in progress
    assert (silent.returncode, loud.returncode) == (0, 0)


@pytest.fixture
def decoded(monkeypatch):
    """The digests of all that is decoded, but for the contact sheet."""
    seen = []
    real = decode.decode_whole

    def count(data, **options):
        seen.append(hashlib.sha256(data).hexdigest())
        return real(data, **options)

    monkeypatch.setattr(image_reader.decode, "decode_whole", count)
    monkeypatch.setattr(prepare, "_sheet", lambda *arguments: Image.new("RGB", (1, 1)))
    monkeypatch.setattr(verify.decode, "decode", lambda path: pytest.fail("it was verified too"))
    return seen


def test_images_are_decoded_once(run, decoded):
    run()
    assert len(decoded) == len(set(decoded)) == 18


def test_images_that_lie_in_a_table_are_decoded_once(root, tmp_path, decoded):
    images = [path.read_bytes() for path in sorted(root.rglob("*.*"))]
    columns = {"label": [0] * 19, "split": ["train"] * 16 + ["val"] * 3}
    table = pyarrow.table({"image": [*images[:5], b"no image", *images[5:]], **columns})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    found = prepare.prepare(f"manifest:{tmp_path}/t.parquet", tmp_path / "out", progress=False)
    assert len(decoded) == len(set(decoded)) == 19
    assert [bad.reason for bad in found.corrupt] == [
        "cannot identify image file: it is text that begins 'no image'"
    ]
    assert "row 1 of t.parquet" in records(found.folder)


def test_the_splits_of_every_kind_of_source_are_known(root, run, tmp_path, save_image, elpv_dir):
    assert split_names(f"folder:{root}") == ("train", "val")
    save_image(tmp_path / "flat/a/0.png")
    assert split_names(f"folder:{tmp_path}/flat") == ("train", "validation")
    assert set(split_names("elpv", data_dir=elpv_dir)) == {"test", "train", "validation"}
    assert split_names("digits") == ("train", "validation", "test")
    assert split_names("fashion_mnist") == ("train", "test")
    assert set(split_names(f"prepared:{run().folder}")) == {"train", "val"}
    table = rows(tmp_path / "t.jsonl", {"image": "a", "split": "x"}, {"image": "b", "split": "y"})
    assert split_names(table) == ("x", "y")
    table = rows(tmp_path / "t.jsonl", {"image": "a", "label": "x"})
    assert split_names(table) == ("train", "validation")
    table = rows(tmp_path / "t.jsonl", {"image": "a", "split": "x"}, {"image": "b", "split": "val"})
    assert split_names(table) == ("x", "validation")
    np.savez(tmp_path / "a.npz", x_train=0, y_train=0, x_val=0, y_val=0)
    assert split_names(f"npz:{tmp_path}/a.npz") == ("train", "validation")
    with pytest.raises(ValueError, match="unknown source 'foldr:x'"):
        split_names("foldr:x")
