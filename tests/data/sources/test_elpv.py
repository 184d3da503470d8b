"""ELPV: the package's data, fixed splits, and record files written without TensorFlow."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest

from tests.support.slim import ROOT
from tl_jax.data.images import decode
from tl_jax.data.source import Task
from tl_jax.data.sources import elpv
from tl_jax.data.sources.open import open_source, split_names

SPLITS = {"train": 1575, "validation": 395, "test": 654}


@pytest.fixture(scope="module")
def cells():
    return elpv.read_cells(elpv.package_data())


@pytest.fixture(scope="module")
def records(elpv_dir):
    """Every record of each split, its image still encoded."""
    sources = {split: open_source("elpv", split, data_dir=elpv_dir) for split in SPLITS}
    return {split: list(source.records) for split, source in sources.items()}


def test_the_package_holds_what_is_published(cells):
    assert len(cells) == 2624
    assert Counter(round(3 * c.probability) for c in cells) == {0: 1508, 1: 295, 2: 106, 3: 715}
    assert Counter(c.cell_type for c in cells) == {"mono": 1074, "poly": 1550}


def test_splits_are_disjoint_complete_and_stratified(cells):
    splits = elpv.split_cells(cells)
    assert {name: len(part) for name, part in splits.items()} == SPLITS
    assert Counter(c for part in splits.values() for c in part) == Counter(cells)
    whole = Counter((c.probability, c.cell_type) for c in cells)
    for name, part in splits.items():
        for stratum, count in Counter((c.probability, c.cell_type) for c in part).items():
            assert abs(count - elpv.SHARES[name] * whole[stratum]) <= 1


def test_splits_are_pinned(cells):
    # Recorded results compare only as long as the splits stay the same.
    first = {name: min(c.path for c in part) for name, part in elpv.split_cells(cells).items()}
    assert first == FIRST


def test_every_cell_is_prepared_with_its_label_and_type(cells, records):
    expected = {
        c.path: (int(c.probability >= 0.5), np.float32(c.probability), c.cell_type == "poly")
        for c in cells
    }
    seen = {
        r["path"].decode(): (r["label"], r["probability"], r["cell_type"])
        for part in records.values()
        for r in part
    }
    assert seen == expected
    assert {split: len(part) for split, part in records.items()} == SPLITS


def test_images_are_the_packages_own_in_three_channels(elpv_dir):
    source = open_source("elpv", "test", data_dir=elpv_dir)
    assert source.class_names == ("functional", "defective")
    example = source[17]
    original = decode.decode(elpv.package_data() / example["path"])
    assert example["image"].shape == (300, 300, 3)
    np.testing.assert_array_equal(example["image"], original)
    assert example["label"] in (0, 1)


def test_labels_of_a_whole_split_come_in_its_order(elpv_dir, records):
    labels = open_source("elpv", "train", data_dir=elpv_dir).labels()
    assert labels.tolist() == [record["label"] for record in records["train"]]


def test_slices_of_a_split_can_be_opened(elpv_dir):
    assert set(split_names("elpv", data_dir=elpv_dir)) == SPLITS.keys()
    assert len(open_source("elpv", "train[:10%]", data_dir=elpv_dir)) == 158


def test_the_licence_is_recorded(elpv_dir):
    info = json.loads((elpv_dir / "elpv/defect/1.1.0/dataset_info.json").read_text())
    assert info["redistributionInfo"]["license"] == "CC-BY-NC-SA-4.0"
    assert "Deitsch" in info["citation"]
    assert info["fileFormat"] == "array_record"


def test_the_experts_certainty_weights_the_loss(elpv_dir):
    source = open_source(
        "elpv",
        "train+validation",
        data_dir=elpv_dir,
        labels=("label",),
        example_weights="certainty",
    )
    assert len(source) == SPLITS["train"] + SPLITS["validation"]
    probabilities = [source.encoded(index)[1]["probability"] for index in range(len(source))]
    is_sure = np.isin(probabilities, (0, 1))
    expected = np.where(is_sure, np.float32(1), np.float32(2 / 3))
    np.testing.assert_array_equal(source.example_weights(), expected)
    assert source.encoded(3)[1]["example_weight"] == expected[3]
    with pytest.raises(ValueError, match="no feature 'certanty' .* did you mean 'certainty'"):
        open_source("elpv", "test", data_dir=elpv_dir, example_weights="certanty")


def test_a_misspelt_split_names_the_nearest(elpv_dir):
    with pytest.raises(ValueError, match=r"no split 'tain'.*did you mean 'train'"):
        open_source("elpv", "tain", data_dir=elpv_dir)


def test_an_empty_slice_is_refused(elpv_dir):
    with pytest.raises(ValueError, match="holds no example"):
        open_source("elpv", "train[:0]", data_dir=elpv_dir)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "elpv_dataset" else find(name)
    )
    with pytest.raises(ModuleNotFoundError, match="pip install elpv-dataset"):
        open_source("elpv", "train", data_dir=tmp_path)


def test_a_prepared_set_needs_no_package(elpv_dir, monkeypatch):
    monkeypatch.setattr(elpv, "package_data", lambda: pytest.fail("the package was looked for"))
    assert len(open_source("elpv", "test", data_dir=elpv_dir)) == SPLITS["test"]


def test_the_default_folder_is_the_environments(elpv_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(elpv_dir))
    monkeypatch.setattr(elpv, "package_data", lambda: pytest.fail("it was prepared again"))
    assert len(open_source("elpv", "test")) == SPLITS["test"]


# Fails every import of TensorFlow, but lets a library ask whether it is installed.
NO_TENSORFLOW = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame and frame.f_code.co_name != "_find_and_load":
            if frame.f_globals["__name__"] == "importlib.util":
                return None
            frame = frame.f_back
        if name.partition(".")[0] == "tensorflow":
            print("imported", name, flush=True)
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""

OPEN = """
import sys
from tl_jax.data.sources.open import open_source
source = open_source("elpv", "test", data_dir=sys.argv[1])
print("examples", len(source), source[0]["image"].shape)
"""

PREPARE = """
from pathlib import Path
from tl_jax.data.prepare.pack import prepare_source
folder = Path(sys.argv[1], "digits")
prepare_source("digits", folder, splits=["validation"], progress=False)
print("digits", len(open_source(f"prepared:{folder}", "validation")))
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_a_killed_process_leaves_no_set_and_the_next_writes_it_without_tensorflow(tmp_path):
    killed = start(OPEN, tmp_path)
    parent = tmp_path / "elpv/defect"
    while killed.poll() is None and not list(parent.glob("incomplete.*/*")):
        time.sleep(0.005)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (parent / "1.0.0").exists()
    second = start(NO_TENSORFLOW + OPEN + PREPARE, tmp_path)
    output, errors = second.communicate()
    assert second.returncode == 0, errors
    assert "imported" not in output
    assert output.splitlines()[-2:] == ["examples 654 (300, 300, 3)", "digits 269"]


def test_the_refusal_of_tensorflow_works():
    output, _ = start(NO_TENSORFLOW + "import tensorflow.io").communicate()
    assert "imported tensorflow" in output


FIRST = {
    "train": "images/cell0004.png",
    "validation": "images/cell0001.png",
    "test": "images/cell0008.png",
}


def test_the_probability_is_a_level_or_a_number(elpv_dir):
    names = ("probability", "cell_type")
    options = {"data_dir": elpv_dir, "labels": names}
    levels = open_source("elpv", "test", ordered={"probability": elpv.LEVELS}, **options)
    assert levels.tasks[0] == Task("probability", ("0", "1/3", "2/3", "1"), ordered=True)
    counts = np.bincount(levels.labels()).tolist()
    assert (sum(counts), len(counts)) == (len(levels), 4)
    numbers = open_source("elpv", "test", numbers=("probability",), **options)
    assert numbers.tasks[0].kind == "regression"
    values = numbers.labels()
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.round(3 * values), levels.labels())
    found = levels.task_labels()
    for index in (0, 7):
        example = levels[index]
        assert example["label"] == found["label"][index]
        assert example["cell_type"] == found["cell_type"][index]
        assert numbers[index]["label"] == values[index]


@pytest.mark.parametrize(
    ("labels", "kinds", "message"),
    [
        (("probability",), {}, "no feature 'probability' of classes"),
        ((), {"numbers": ("probability",)}, "none of the labels .*; name them in `labels` too"),
        (("cell_type",), {"numbers": ("cell_type",)}, "expected a feature of numbers"),
        (("path",), {"numbers": ("path",)}, "expected a feature of numbers"),
        (("probability",), {"ordered": {"probability": ()}}, "from low to high"),
        (("probability",), {"ordered": {"probability": ("1", "0")}}, "from low to high"),
        (("probability",), {"ordered": {"probability": ("a", "b")}}, "from low to high"),
        (
            ("cell_type",),
            {"ordered": {"cell_type": ("poly", "mono")}},
            "its classes in their order",
        ),
    ],
)
def test_labels_of_other_kinds_than_the_features_are_refused(elpv_dir, labels, kinds, message):
    with pytest.raises(ValueError, match=message):
        open_source("elpv", "test", data_dir=elpv_dir, labels=labels, **kinds)


def test_a_number_that_is_no_level_is_refused(elpv_dir):
    few = {"probability": ("0", "1")}
    source = open_source("elpv", "test", data_dir=elpv_dir, labels=("probability",), ordered=few)
    with pytest.raises(ValueError, match=r"has the number 0\.333333 as 'probability'"):
        source.labels()


def test_classes_may_be_levels(elpv_dir):
    source = open_source(
        "elpv", "test", data_dir=elpv_dir, labels=("cell_type",), ordered={"cell_type": ()}
    )
    assert source.tasks == (Task("cell_type", ("mono", "poly"), ordered=True),)
