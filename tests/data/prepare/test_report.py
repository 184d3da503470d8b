"""The report of a set: counts, spreads, imbalance, and warnings that name files."""

import json

import numpy as np
import pytest

from tl_jax.data.images.decode import Decoded
from tl_jax.data.prepare import report as reporting
from tl_jax.data.prepare.inspection import CorruptImage, ImageInfo
from tl_jax.data.source import Task

ANIMALS = Task("animal", ("cat", "dog", "emu"))
SIGHTS = Task("seen", ("sea", "sky"), multi_label=True)


def info(number, label, *, split="train", seen=(0, 0), pixels=None, form="PNG", mode="RGB"):
    content = np.full((10 + number, 20, 3), number, np.uint8) if pixels is None else pixels
    return ImageInfo.of(
        bytes([number]),
        Decoded(content, form, mode),
        split=split,
        index=number,
        name=f"{split}/{number}.png",
        labels={"animal": (label,), "seen": seen},
    )


IMAGES = [
    info(0, 0, seen=(1, 1)),
    info(1, 0, seen=(1, 0), form="JPEG"),
    info(2, 0, seen=(-1, -1), mode="L"),
    info(3, 1),
    info(9, -1),
    info(5, 2, split="test", pixels=np.full((10, 20, 3), 0, np.uint8)),
]
CORRUPT = [CorruptImage("test", 6, "test/6.png", "cat", "it is empty")]


@pytest.fixture(scope="module")
def report():
    return reporting.make_report(IMAGES, CORRUPT, (ANIMALS, SIGHTS), source="folder:x")


def test_images_are_counted_by_split_task_and_class(report):
    assert (report["images"], report["corrupt"]) == (6, 1)
    train, test = report["splits"]["train"], report["splits"]["test"]
    assert (train["images"], train["corrupt"]) == (5, 0)
    assert (test["images"], test["corrupt"]) == (1, 1)
    assert train["tasks"]["animal"]["classes"] == {"cat": 3, "dog": 1, "emu": 0}
    assert train["tasks"]["animal"]["missing"] == 1
    assert train["tasks"]["seen"]["classes"] == {"sea": 2, "sky": 1}
    assert train["tasks"]["seen"]["missing"] == 1


def test_sizes_formats_and_modes_are_summed_up(report):
    assert report["height"] == {"min": 10, "median": 11.5, "max": 19}
    assert report["width"] == {"min": 20, "median": 20.0, "max": 20}
    assert report["formats"] == {"PNG": 5, "JPEG": 1}
    assert report["modes"] == {"RGB": 5, "L": 1}


def test_imbalance_is_measured(report):
    tasks = report["splits"]["train"]["tasks"]
    assert tasks["animal"]["largest_over_smallest"] is None
    assert tasks["seen"]["largest_over_smallest"] == 2
    entropy = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert tasks["animal"]["effective_classes"] == pytest.approx(np.exp(entropy))


@pytest.mark.parametrize(
    ("counts", "expected"), [([5, 5, 5], 3), ([9, 0, 0], 1), ([1, 1, 0], 2), ([0, 0], 0)]
)
def test_the_effective_number_of_classes(counts, expected):
    assert reporting.effective_classes(counts) == pytest.approx(expected)


def test_warnings_name_the_files(report):
    text = "\n".join(report["warnings"])
    assert "1 images cannot be decoded" in text
    assert "leakage: one image is in several splits: train/0.png (train), test/5.png" in text
    assert "different labels: train/0.png (train: cat), test/5.png (test: emu)" in text
    assert "no image of 'emu' (animal) in split 'train'" in text


def test_a_set_without_faults_has_no_warning():
    images = [info(i, i, seen=(1, 1)) for i in range(3)]
    report = reporting.make_report(images, [], (ANIMALS, SIGHTS), source="x")
    assert report["warnings"] == []
    assert "None." in reporting.markdown(report, [])


def test_what_was_decided_is_said_and_a_set_of_one_class_is_a_warning():
    images = [info(i, 0) for i in range(3)]
    one = (Task("animal", ("cat",)), SIGHTS)
    report = reporting.make_report(images, [], one, source="x", notes=("held out by a hash",))
    for text in (reporting.summary(report), reporting.markdown(report, [])):
        assert "held out by a hash" in text
        assert "all images of split 'train' are of one class (animal), 'cat'" in text


def test_the_report_survives_json(report):
    assert json.loads(json.dumps(report)) == report


def test_the_page_and_the_summary_say_what_the_report_says(report):
    page = reporting.markdown(report, CORRUPT)
    assert "| cat | 3 | 0 |" in page
    assert "- test/6.png (test): it is empty" in page
    assert "- train/0.png (train: cat), test/5.png (test: emu)" in page
    summary = reporting.summary(report)
    assert "train: 5 images, 0 corrupt" in summary
    assert "10 to 19 pixels, median 11.5" in summary
    assert "warning: leakage: one image is in several splits: train/0.png" in summary


def test_a_summary_lists_some_warnings_and_counts_the_rest():
    images = [info(i, i % 2, pixels=np.zeros((2, 2, 3), np.uint8)) for i in range(2)]
    many = [
        info(i % 256, i % 2, pixels=np.full((2, 2 + i // 2, 3), 7, np.uint8)) for i in range(80)
    ]
    report = reporting.make_report(images + many, [], (ANIMALS, SIGHTS), source="x")
    summary = reporting.summary(report)
    assert summary.count("warning: ") == 20
    assert f"and {len(report['warnings']) - 20} more warnings" in summary
