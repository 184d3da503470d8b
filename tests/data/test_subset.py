"""Subsets: seeded, nested, stratified, disjoint, recorded; and sources like those they are of."""

import hashlib
import itertools
import json
import pickle

import numpy as np
import pytest

from tl_jax.data.source import Source, Task
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source
from tl_jax.data.subset import Subset, carve, few_shot


def source_of(labels, names=None, split="train"):
    """A source whose image i has the value i everywhere."""
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None] * np.ones((2, 3), np.uint8)
    return from_arrays(images, labels, names, split=split)


@pytest.fixture
def source():
    """100 examples of three classes, 60, 30 and 8, and 2 without a label."""
    labels = np.repeat([0, 1, 2, -1], [60, 30, 8, 2])
    return source_of(labels[np.argsort(np.sin(np.arange(100)))], ["a", "b", "c"])


@pytest.mark.parametrize("shots", [1, 5, 8])
def test_each_class_gives_as_many_shots(source, shots):
    few = few_shot(source, shots, seed=0)
    assert np.bincount(few.labels()).tolist() == [shots] * 3
    assert len(set(few.indices)) == len(few) == 3 * shots
    for i in range(len(few)):
        assert few[i]["image"][0, 0, 0] == few.indices[i]
        assert few[i]["label"] == few.labels()[i] == source[few.indices[i]]["label"]


def test_more_shots_contain_the_fewer_of_the_same_seed(source):
    draws = [set(few_shot(source, shots, seed=3).indices) for shots in range(1, 9)]
    assert all(few < more for few, more in itertools.pairwise(draws))


def test_the_seed_decides_what_is_drawn(source):
    assert few_shot(source, 3, seed=1).indices == few_shot(source, 3, seed=1).indices
    assert few_shot(source, 3, seed=1).indices != few_shot(source, 3, seed=2).indices


def test_draws_are_pinned(source):
    # Recorded results compare only as long as the draws stay the same.
    assert few_shot(source, 2, seed=0).indices == DRAWN
    assert carve(source, 0.05, seed=0)[1].indices == CARVED


def test_classes_with_too_few_examples_are_named(source):
    with pytest.raises(ValueError, match=r"fewer than 9 examples: 'c \(8\)'; choose fewer"):
        few_shot(source, 9, seed=0)
    with pytest.raises(ValueError, match=r"fewer than 1 examples: 'd \(0\)'"):
        few_shot(source_of([0, 1], ["b", "c", "d"]), 1, seed=0)


@pytest.mark.parametrize("shots", [0, -1])
def test_shots_are_positive(source, shots):
    with pytest.raises(ValueError, match="expected 1 or more"):
        few_shot(source, shots, seed=0)


def test_few_shots_of_a_multi_label_task_are_refused():
    with pytest.raises(ValueError, match="multi-label task 'label'"):
        few_shot(source_of(np.eye(3, dtype=int)), 1, seed=0)


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.2, 0.5, 0.999])
def test_parts_are_disjoint_complete_and_stratified(source, fraction):
    rest, held = carve(source, fraction, seed=0)
    assert sorted(rest.indices + held.indices) == list(range(100))
    assert (rest.split, held.split) == ("train", "validation")
    for part in (rest, held):
        assert set(part.labels()) >= {0, 1, 2}
    if 0.1 <= fraction <= 0.5:
        assert abs(len(held) - 100 * fraction) < 15


def test_what_is_held_out_stays_held_out_when_the_source_grows():
    labels = [0, 1] * 50
    for size in (40, 70):
        held = carve(source_of(labels[:size]), 0.25, seed=0)[1].indices
        assert set(held) < set(carve(source_of(labels), 0.25, seed=0)[1].indices)


def test_parts_of_parts_are_independent(source):
    rest, held = carve(source, 0.3, seed=0)
    again = carve(rest, 0.3, seed=0, held_out="more")[1]
    assert len(again) > 10
    assert carve(carve(rest, 0.3, seed=0)[0], 0.3, seed=0)[1].source.source.source is source
    assert set(rest.indices).isdisjoint(held.indices)


class Pictures(Source):
    """A source whose examples i and i + 10 are the same picture."""

    name, split, tasks = "pictures", "train", (Task("label", ("a", "b")),)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"image": np.zeros((2, 2, 3), np.uint8), "label": int(self.labels()[index])}

    def labels(self):
        return np.repeat([0, 1], 20).astype(np.int32)

    def identities(self):
        return [f"{index // 20} {index % 10}.jpg" for index in range(40)]


def test_copies_of_a_picture_stay_together_and_are_drawn_once():
    for seed in range(5):
        names = [part.identities() for part in carve(Pictures(), 0.4, seed=seed)]
        assert set(names[0]).isdisjoint(names[1])
        assert len(names[0]) + len(names[1]) == 40
        drawn = few_shot(Pictures(), 10, seed=seed).identities()
        assert len(set(drawn)) == 20
    with pytest.raises(ValueError, match=r"fewer than 11 examples: 'a \(10\)'"):
        few_shot(Pictures(), 11, seed=0)


def test_parts_say_how_they_were_made(source):
    assert "4 examples of each class" in few_shot(source, 4, seed=2).notes[-1]
    assert "about 0.25 of each class of split 'train'" in carve(source, 0.25, seed=2)[1].notes[0]


def test_the_seed_decides_what_is_held_out(source):
    assert carve(source, 0.2, seed=1)[1].indices == carve(source, 0.2, seed=1)[1].indices
    assert carve(source, 0.2, seed=1)[1].indices != carve(source, 0.2, seed=2)[1].indices


def test_a_multi_label_task_is_divided_as_a_whole():
    labels = np.repeat([[0, 0], [0, 1], [1, 1], [-1, -1]], [40, 20, 10, 1], axis=0)
    rest, held = carve(source_of(labels), 0.1, seed=0)
    assert 2 < len(held) < 14
    assert rest[0]["label"].tolist() == [0, 0]
    assert [len(part) for part in carve(source_of(np.eye(3, dtype=int)), 0.001, seed=0)] == [2, 1]


def test_a_class_of_one_example_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"a single example: 'b'; a class needs two"):
        carve(source_of([0, 0, 1], ["a", "b"]), 0.5, seed=0)


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_the_fraction_is_between_0_and_1(source, fraction):
    with pytest.raises(ValueError, match="expected 0 < fraction < 1"):
        carve(source, fraction, seed=0)


def test_two_parts_need_two_names(source):
    with pytest.raises(ValueError, match="which is the split's name"):
        carve(source, 0.5, seed=0, held_out="train")


def test_a_part_that_would_be_empty_is_refused():
    labels = np.eye(5, dtype=int)[:1]
    with pytest.raises(ValueError, match="leaves 1 to train on and 0 held out"):
        carve(source_of(labels), 0.1, seed=0)


def test_a_part_has_the_tasks_and_names_of_the_whole(source):
    part = carve(source, 0.2, seed=0)[0]
    assert (part.name, part.split, part.skipped) == (source.name, source.split, ())
    assert (part.tasks, part.class_names) == (source.tasks, ("a", "b", "c"))


def test_a_source_that_knows_its_classes_alone_can_be_divided():
    class Plain:
        name, split, class_names, skipped = "plain", "train", ["x", "y"], ()

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return {"image": np.zeros((2, 2, 3), np.uint8), "label": index % 2}

        def labels(self):
            return np.arange(4, dtype=np.int32) % 2

    few = few_shot(Plain(), 1, seed=0)
    assert few.tasks == (Task("label", ("x", "y")),)
    assert sorted(few.labels()) == [0, 1]


def test_the_record_says_which_part_it_is(source):
    few = few_shot(source, 2, seed=7)
    digest = hashlib.sha256(np.asarray(few.indices, "<i8").tobytes()).hexdigest()
    expected = {"kind": "few_shot", "seed": 7, "shots": 2, "count": 6, "sha256": digest}
    assert few.record == expected
    rest, held = carve(few, 0.5, seed=1)
    assert rest.record["of"] == held.record["of"] == expected
    assert (held.record["kind"], held.record["fraction"], held.record["count"]) == (
        "carve",
        0.5,
        3,
    )
    assert rest.record["sha256"] != held.record["sha256"]
    assert json.loads(json.dumps(rest.record)) == rest.record


def test_parts_of_files_give_their_bytes_and_parts_of_arrays_do_not(source, tmp_path, save_image):
    for name in ("a", "b"):
        for i in range(4):
            save_image(tmp_path / "in" / name / f"{i}.png", seed=i)
    folder = open_source(f"folder:{tmp_path / 'in'}", "train", data_dir=tmp_path / "d")
    part = few_shot(folder, 1, seed=0)
    assert isinstance(part, Subset)
    data, facts = part.encoded(1)
    assert data == folder.paths[part.indices[1]].read_bytes()
    assert facts == {"label": 1, "path": str(folder.paths[part.indices[1]])}
    assert few_shot(source, 1, seed=0).encoded(0) is None


def test_a_part_can_be_sent_to_another_process(source):
    part = few_shot(source, 2, seed=0)
    copy = pickle.loads(pickle.dumps(part))
    assert copy.indices == part.indices
    np.testing.assert_array_equal(copy[3]["image"], part[3]["image"])


DRAWN = (15, 20, 44, 46, 74, 87)
CARVED = (3, 39, 52, 75, 86)
