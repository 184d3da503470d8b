"""The record of a run and its list of examples: what is compared, and how differences are named."""

import dataclasses
import gzip
import re
from types import SimpleNamespace

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax.config import Config
from tl_jax.data.inputs import Columns
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Categories, Inputs, Task
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source
from tl_jax.run import examples
from tl_jax.run.examples import Examples
from tl_jax.run.objective import LabelStatistics
from tl_jax.run.record import (
    RunInfo,
    differences,
    is_divided_otherwise,
    version_notes,
    versions,
)
from tl_jax.weights.sources import WeightsRecord

NAMES = ["a/0.png", "a/1.png", "b/0.png"]
INFO = RunInfo(
    class_names=("a", "b"),
    preprocess=Preprocess(size=(32, 32)),
    weights=WeightsRecord("resnet18", "file", "w.safetensors", "abc"),
    parameters=5,
    examples={"train": 3},
    skipped={},
    subsets={},
    versions={"jax": "1"},
    digests={"train": "then"},
    head={"fc.kernel": [8, 2]},
)


def listed(names, labels, marks=()):
    return {"train": Examples(list(names), list(labels), list(marks), "")}


def compare(names, labels, marks=(), **fields):
    """Returns the differences from `NAMES` of classes 0, 0, 1 and size 1 each."""
    now = dataclasses.replace(INFO, digests={"train": "now"}, examples={"train": len(names)})
    before = listed(NAMES, [0, 0, 1], "111")
    now = dataclasses.replace(now, **fields)
    return differences(INFO, now, before, listed(names, labels, marks))


@pytest.mark.parametrize(
    ("names", "labels", "marks", "expected"),
    [
        (["a/2.png", *NAMES], [0, 0, 0, 1], "1111", ["train: 1 image more: a/2.png"]),
        (
            [*NAMES, *(f"b/{i}.png" for i in range(1, 6))],
            [0, 0, *[1] * 6],
            "1" * 8,
            ["train: 5 images more: b/1.png, b/2.png, b/3.png and 2 more"],
        ),
        (NAMES[1:], [0, 1], "11", ["train: 1 image gone: a/0.png"]),
        (
            NAMES,
            [0, 1, 1],
            "111",
            ["train: 1 image with another label: a/1.png is 'b' now, was 'a'"],
        ),
        (NAMES, [0, 0, 1], "121", ["train: 1 image with another content: a/1.png"]),
        (NAMES[::-1], [1, 0, 0], "111", ["train: the same images in another order"]),
    ],
)
def test_changed_examples_are_named(names, labels, marks, expected):
    assert compare(names, labels, marks) == expected


@pytest.mark.parametrize(
    ("class_names", "expected"),
    [
        (("a", "c"), "class 'b' is called 'c' now"),
        (("b", "c"), "class 'a' is gone and 'c' is new, in another place of the order"),
        (("b", "a"), "the order of the classes: 'a', 'b' then, 'b', 'a' now"),
        (("a", "b", "c"), "1 new class: 'c'"),
        (("a",), "1 class gone: 'b'"),
    ],
)
def test_changed_classes_are_named_without_a_list_of_images(class_names, expected):
    assert compare(NAMES, [0, 0, 1], class_names=class_names) == [expected]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"weights": dataclasses.replace(INFO.weights, file="moved")}, None),
        ({"weights": dataclasses.replace(INFO.weights, sha256="x")}, "other weights: .* now"),
        ({"weights": None}, "weights: .* then, random now"),
        ({"preprocess": Preprocess(size=(32, 64))}, r"preprocessing, size: \(32, 32\) then"),
        ({"parameters": 6}, "parameters: 5 then, 6 now"),
        ({"head": {"fc.kernel": [9, 2]}}, r"fc.kernel had the shape \[8, 2\], and has \[9, 2\]"),
        ({"examples": {"train": 3, "val": 1}}, "split 'val' is new"),
        ({"examples": {}}, "split 'train' is gone"),
        ({"versions": {"jax": "2"}}, None),
    ],
)
def test_changed_networks_and_splits_are_named(fields, expected):
    lines = differences(INFO, dataclasses.replace(INFO, **fields), {}, {})
    assert len(lines) == (expected is not None)
    if expected:
        assert re.search(expected, lines[0])


TASKS = (Task("kind", ("a", "b")), Task("grade", ("1", "2", "3"), ordered=True))
COLUMNS = Inputs(
    numeric=("age",), categorical=(Categories("sex", ("f",)),), vocabulary=("x",), max_tokens=3
)
DETAILED = dataclasses.replace(
    INFO,
    tasks=TASKS,
    inputs=COLUMNS,
    label_statistics=(LabelStatistics(1, (2, 1)), LabelStatistics(0, (1, 1, 1))),
    numeric_mean=(0.5,),
    numeric_std=(2.0,),
)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"tasks": TASKS[:1]}, "tasks: 'kind', 'grade' then, 'kind' now"),
        (
            {"tasks": (TASKS[0], dataclasses.replace(TASKS[1], ordered=False))},
            "task 'grade' was of the kind 'ordinal', and is 'multi_class'",
        ),
        (
            {"tasks": (TASKS[0], dataclasses.replace(TASKS[1], class_names=("1", "3", "2")))},
            "task 'grade', the order of the classes: '1', '2', '3' then, '1', '3', '2' now",
        ),
        (
            {"inputs": dataclasses.replace(COLUMNS, vocabulary=("y",))},
            "inputs, vocabulary: ('x',) then, ('y',) now",
        ),
        ({"numeric_mean": (0.25,)}, "the numbers of the training examples differ (numeric_mean)"),
    ],
)
def test_changed_tasks_and_inputs_are_named(fields, expected):
    assert differences(DETAILED, dataclasses.replace(DETAILED, **fields), {}, {}) == [expected]
    assert differences(DETAILED, DETAILED, {}, {}) == []
    assert differences(INFO, dataclasses.replace(INFO, tasks=TASKS), {}, {}) == []


def test_a_record_of_tasks_and_inputs_is_read_as_it_was_written():
    assert RunInfo.from_json(DETAILED.to_json()) == DETAILED
    assert DETAILED.example_facts.tasks == TASKS
    assert INFO.example_facts.tasks == (Task("label", ("a", "b")),)


def test_all_labels_and_inputs_are_in_the_digest():
    images = np.zeros((3, 8, 8), np.uint8)
    ages, labels = np.array([1.0, np.nan, 2.0]), {"a": [0.5, 1.5, np.nan], "b": ["x", "y", "x"]}

    def digest(labels, ages, tasks=None):
        columns = Columns(numeric={"age": ages})
        source = from_arrays(images, labels, numbers=("a",), columns=columns)
        return examples.of_source(source, source.tasks if tasks is None else source.tasks[:tasks])

    one = digest(labels, ages)
    assert one.digest == digest(labels, ages.copy()).digest and np.isnan(one.labels[2])
    assert one.digest != digest(labels, ages + 1).digest
    assert one.digest != digest({**labels, "a": [0.5, 1.0, np.nan]}, ages).digest
    other = {**labels, "b": ["x", "y", "y"]}
    assert one.digest != digest(other, ages).digest
    assert digest(labels, ages, tasks=1).digest == digest(other, ages, tasks=1).digest


def test_labels_of_other_kinds_are_compared():
    before = Examples(["p", "q", "r"], [0.5, float("nan"), 1.0], [], "")
    now = Examples(["p", "q", "r"], [0.5, float("nan"), 2.0], [], "")
    assert examples.differences("train", before, now, ()) == [
        "train: 1 image with another label: r is 2.0 now, was 1.0"
    ]
    vectors = Examples(["p"], [[0, 1]], [], ""), Examples(["p"], [[1, 1]], [], "")
    assert "p is [1, 1] now, was [0, 1]" in examples.differences("train", *vectors, ("a", "b"))[0]
    same = examples.differences("train", before, before, ())
    assert same == ["train: the labels of other tasks, or further inputs, differ"]


def test_other_versions_of_libraries_are_a_note():
    now = dataclasses.replace(INFO, versions={"jax": "2", "flax": "1"})
    assert version_notes(INFO, now) == ["jax 1 then, 2 now"]


def test_a_gpu_records_whether_it_repeats_its_bits_and_another_value_is_a_note(monkeypatch):
    of_platform = {
        platform: SimpleNamespace(
            devices=np.asarray([SimpleNamespace(platform=platform)], object), size=1
        )
        for platform in ("cpu", "gpu", "tpu")
    }
    recorded = {}
    for flags in ("", "--xla_gpu_deterministic_ops=true"):
        monkeypatch.setenv("XLA_FLAGS", flags)
        recorded[flags] = dataclasses.replace(INFO, versions=versions(of_platform["gpu"]))
        assert "determinism" not in {**versions(of_platform["cpu"]), **versions(of_platform["tpu"])}
    off, on = recorded.values()
    assert version_notes(off, on) == ["determinism off then, on now"]
    assert version_notes(on, off) == ["determinism on then, off now"]
    assert version_notes(INFO, on)[1:] == []  # Earlier versions did not record it.


def test_a_record_of_an_earlier_version_is_compared_by_what_it_has():
    old = dataclasses.replace(INFO, digests={}, head={})
    assert differences(old, INFO, {}, {}) == []
    assert differences(old, dataclasses.replace(INFO, examples={"train": 4}), {}, {}) == [
        "train: 3 images then, 4 now"
    ]


def test_earlier_versions_divided_sets_without_splits_otherwise(photos):
    old = dataclasses.replace(INFO, digests={})
    divided, has_splits = Config(), Config()
    divided = change(divided, "data", source=f"folder:{photos / 'train'}")
    has_splits = change(has_splits, "data", source=f"folder:{photos}")
    assert is_divided_otherwise(divided, old)
    assert not is_divided_otherwise(divided, INFO)
    assert not is_divided_otherwise(has_splits, old)
    assert is_divided_otherwise(change(has_splits, "data", carve=0.2), old)


def test_examples_are_read_as_they_were_written_and_damage_is_an_empty_list(tmp_path):
    path = tmp_path / "examples.json.gz"
    assert examples.read(path) == {}
    before = listed(["a\nb", "grün"], [0, 1], "12")
    examples.write(path, before)
    first = path.read_bytes()
    assert examples.read(path) == before
    examples.write(path, before)
    assert path.read_bytes() == first
    for damaged in (b"", first[:-9], gzip.compress(b"[1]"), gzip.compress(b'{"train": {}}')):
        path.write_bytes(damaged)
        assert examples.read(path) == {}


def test_a_copy_elsewhere_has_the_same_digest_and_a_replaced_picture_another(photos, tmp_path):
    one = examples.of_source(open_source(f"folder:{photos}", "train"))
    moved = photos.rename(tmp_path / "moved")
    assert examples.of_source(open_source(f"folder:{moved}", "train")) == one
    picture = sorted((moved / "train").rglob("*.png"))[0]
    picture.write_bytes(sorted((moved / "train").rglob("*.png"))[5].read_bytes())
    assert examples.of_source(open_source(f"folder:{moved}", "train")).digest != one.digest


def test_arrays_are_compared_by_their_pixels_and_not_by_number():
    pixels = np.zeros((4, 8, 8), np.uint8)
    one = examples.of_source(from_arrays(pixels, [0, 1, 0, 1]))
    pixels[2] = 1
    other = examples.of_source(from_arrays(pixels, [0, 1, 0, 1]))
    assert one.names is other.names is None
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("change_text", "message"),
    [
        (lambda text: "", "is empty"),
        (lambda text: text[: len(text) // 2], "is not JSON"),
        (lambda text: "[]", "must be an object"),
        (lambda text: text.replace('"parameters"', '"parametres"'), "unknown field parametres"),
        (lambda text: text.replace('"class_names"', '"x_1"', 1), "unknown field x_1"),
        (lambda text: "{}", "lacks class_names, preprocess, weights"),
        (lambda text: text.replace('"parameters": 5', '"parameters": "5"'), "parameters must be"),
        (lambda text: text.replace('"crop_mode"', '"crop"'), "unknown field preprocess.crop"),
        (lambda text: text.replace('"train": 3', '"train": []'), "examples must be an object"),
    ],
)
def test_a_damaged_record_is_refused(change_text, message):
    assert RunInfo.from_json(INFO.to_json()) == INFO
    with pytest.raises(ValueError, match=message):
        RunInfo.from_json(change_text(INFO.to_json()))
