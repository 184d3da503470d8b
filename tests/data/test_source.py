"""Sources: every kind behaves alike, so that nothing else needs to know the kinds."""

import pickle

import numpy as np
import pytest
from PIL import Image

from tl_jax.data.images import decode
from tl_jax.data.source import (
    Categories,
    Inputs,
    Source,
    Task,
    as_source,
    check_tasks,
    check_trainable,
)
from tl_jax.data.sources.open import open_source

KINDS = ["digits", "elpv", "folder", "manifest", "npz", "prepared", "tfds"]
ENCODED = {"elpv", "folder", "manifest", "prepared", "tfds"}


@pytest.fixture(scope="module")
def specs(tmp_path_factory, elpv_dir):
    """A specification of each kind; the small ones have four images of two classes."""
    root = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 6, 5, 3), np.uint8)
    rows = ["image,label"]
    for i, image in enumerate(images):
        path = root / "folder" / "train" / "ba"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        rows.append(f"{path.relative_to(root)},{'ba'[i % 2]}")
    (root / "list.csv").write_text("\n".join(rows) + "\n")
    np.savez(root / "a.npz", images=images, labels=list("baba"))
    return {
        "digits": "digits",
        "elpv": "elpv",
        "folder": f"folder:{root / 'folder'}",
        "manifest": f"manifest:{root / 'list.csv'}",
        "npz": f"npz:{root / 'a.npz'}",
        "prepared": f"prepared:{elpv_dir / 'elpv'}",
        "tfds": "tfds:elpv/defect",
    }


@pytest.fixture(scope="module", params=KINDS)
def opened(request, specs, elpv_dir):
    """The kind, the specification and the source."""
    split = "test[:4]" if request.param in ("elpv", "prepared", "tfds") else "train"
    spec = specs[request.param]
    return request.param, spec, open_source(spec, split, data_dir=elpv_dir)


def test_every_kind_is_a_source(opened):
    _, spec, source = opened
    assert isinstance(source, Source)
    assert (source.name, source.skipped) == (spec, ())
    assert source.split in ("train", "test[:4]")
    assert source.class_names == source.tasks[0].class_names
    assert len(source.class_names) > 1


def test_labels_are_those_of_the_examples(opened):
    source = opened[-1]
    labels = source.labels()
    assert (labels.dtype, labels.shape) == (np.int32, (len(source),))
    for i in range(0, len(source), 1 + len(source) // 8):
        example = source[i]
        assert type(example["label"]) is int
        assert example["label"] == labels[i]
        assert example["image"].dtype == np.uint8
        assert example["image"].shape[2:] == (3,)


def test_encoded_images_are_those_of_the_examples(opened):
    kind, _, source = opened
    last = len(source) - 1
    encoded = source.encoded(last)
    assert (encoded is not None) == (kind in ENCODED)
    if encoded is not None:
        data, facts = encoded
        example = source[last]
        np.testing.assert_array_equal(decode.decode(data), example.pop("image"))
        assert facts == example


def test_labels_need_no_decoding(opened, monkeypatch):
    monkeypatch.setattr(decode, "decode", lambda *a, **k: pytest.fail("an image was decoded"))
    assert len(opened[-1].labels()) == len(opened[-1])


def test_every_kind_can_be_sent_to_another_process(opened):
    source = opened[-1]
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.name, len(copy), copy.tasks) == (source.name, len(source), source.tasks)
    np.testing.assert_array_equal(copy[1]["image"], source[1]["image"])


def test_the_main_label_of_elpv_may_be_the_other(elpv_dir):
    both = open_source("elpv", "test[:50]", data_dir=elpv_dir)
    other = open_source("elpv", "test[:50]", data_dir=elpv_dir, labels=("cell_type",))
    assert [task.name for task in both.tasks] == ["label", "cell_type"]
    assert both.tasks[1].class_names == other.class_names == ("mono", "poly")
    assert other.labels().tolist() == [both[i]["cell_type"] for i in range(50)]
    assert len(set(other.labels())) == 2


class Minimal(Source):
    """A source that defines what it must."""

    name, split = "minimal", "train"

    def __init__(self, *tasks, labels):
        self.tasks, self._labels = tasks, labels

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        return {"image": np.zeros((2, 2, 3), np.uint8), "label": self._labels[index]}


def test_a_source_has_defaults():
    source = Minimal(Task("kind", ("a", "b")), Task("size", ("c",)), labels=[1, -1, 0])
    assert (source.class_names, source.skipped) == (("a", "b"), ())
    assert source.encoded(0) is None
    assert (source.labels().dtype, source.labels().tolist()) == (np.int32, [1, -1, 0])


def test_default_labels_of_a_multi_label_task_are_vectors():
    task = Task("kind", ("a", "b"), multi_label=True)
    labels = Minimal(task, labels=[[1, 0], [-1, -1]]).labels()
    assert (labels.dtype, labels.tolist()) == (np.int8, [[1, 0], [-1, -1]])


class Duck:
    """What can be wrapped as a source: its members, and another base class."""

    name, split, class_names = "duck", "test", ["a", "b"]

    def labels(self):
        return np.array([1, 0])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {"image": np.zeros((2, 2, 3), np.uint8), "label": 1 - index}


def test_an_object_with_the_members_of_a_source_can_be_wrapped():
    source = as_source(Duck())
    assert isinstance(source, Source)
    assert (source.name, source.split, source.skipped) == ("duck", "test", ())
    assert source.tasks == (Task("label", ("a", "b")),)
    assert (len(source), source[0]["label"], source.labels().tolist()) == (2, 1, [1, 0])
    assert source.encoded(0) is None
    assert as_source(source) is source


def test_a_wrapped_source_keeps_its_optional_members():
    class Rich(Duck):
        tasks = (Task("x", ("a", "b")), Task("y", ("c",)))
        skipped = ("bad.png: it is empty",)

        def encoded(self, index):
            return b"png", {"label": index}

    source = as_source(Rich())
    assert (source.tasks, source.skipped) == (Rich.tasks, Rich.skipped)
    assert source.encoded(1) == (b"png", {"label": 1})


def test_examples_have_names_that_stay(opened):
    kind, _, source = opened
    names = source.identities()
    assert len(set(names)) == len(names) == len(source)
    if kind in ("folder", "manifest"):
        assert all(name.endswith(".png") and not name.startswith("/") for name in names)
    assert as_source(Duck()).identities() == ["0", "1"]


@pytest.mark.parametrize("labels", [[1, 1, -1], [0], [-1]])
def test_one_class_cannot_be_trained_on(labels):
    with pytest.raises(ValueError, match="got one class to train on: .*two classes or more"):
        check_trainable(Minimal(Task("x", ("a", "b")), labels=labels))
    check_trainable(Minimal(Task("x", ("a", "b", "c")), labels=[0, 2]))


@pytest.mark.parametrize("names", [("label", "image"), ("a", "label"), ("a", "mask"), ("a", "a")])
def test_names_of_tasks_that_are_taken_are_refused(names):
    with pytest.raises(ValueError, match="expected distinct names, of which only the first"):
        check_tasks("x", tuple(Task(name, ("y",)) for name in names))


def test_the_main_task_may_have_any_name():
    check_tasks("x", (Task("image", ("y",)), Task("b", ("y",))))


def test_the_kind_of_a_task_follows_from_its_fields():
    tasks = {
        "multi_class": Task("x", ("a", "b")),
        "multi_label": Task("x", ("a", "b"), multi_label=True),
        "ordinal": Task("x", ("a", "b"), ordered=True),
        "regression": Task("x", ()),
    }
    assert {kind: task.kind for kind, task in tasks.items()} == {kind: kind for kind in tasks}
    forms = {kind: (task.dtype, task.shape) for kind, task in tasks.items()}
    assert forms == {
        "multi_class": (np.int32, ()),
        "multi_label": (np.int8, (2,)),
        "ordinal": (np.int32, ()),
        "regression": (np.float32, ()),
    }
    assert tasks["ordinal"].missing(np.array([1, -1])).tolist() == [False, True]
    assert tasks["regression"].missing(np.array([-1, np.nan])).tolist() == [False, True]
    vectors = np.array([[-1, 0], [-1, -1]])
    assert tasks["multi_label"].missing(vectors).tolist() == [False, True]


@pytest.mark.parametrize(
    ("names", "options"),
    [
        ((), {"multi_label": True}),
        ((), {"ordered": True}),
        (("a", "b"), {"multi_label": True, "ordered": True}),
    ],
)
def test_a_task_is_of_one_kind(names, options):
    with pytest.raises(ValueError, match="expected one of the two at most, and neither without"):
        Task("x", names, **options)


def test_the_inputs_of_a_source_are_one_image_by_default():
    source = Minimal(Task("kind", ("a", "b")), labels=[1, 0])
    assert source.inputs.is_one_image
    assert source.input_arrays() == {}
    assert source.task_labels()["label"].tolist() == [1, 0]
    assert as_source(Duck()).inputs == Inputs()
    assert as_source(Duck()).task_labels()["label"].tolist() == [1, 0]
    assert Inputs(numeric=("a",), vector=3).keys == ("numeric", "vector")


def test_labels_and_inputs_are_read_from_the_examples_by_default():
    class Rich(Minimal):
        inputs = Inputs(numeric=("a", "b"), max_tokens=2)

        def __getitem__(self, index):
            more = {"mass": index - 0.5, "numeric": (index, np.nan), "tokens": [1, index]}
            return super().__getitem__(index) | more

    rich = Rich(Task("x", ("p", "q")), Task("mass", ()), labels=[1, 0])
    for source in (rich, as_source(rich)):
        found, arrays = source.task_labels(), source.input_arrays()
        assert {key: each.dtype for key, each in found.items()} == {
            "label": np.int32,
            "mass": np.float32,
        }
        assert found["mass"].tolist() == [-0.5, 0.5]
        np.testing.assert_array_equal(arrays["numeric"], [[0, np.nan], [1, np.nan]])
        assert (arrays["tokens"].dtype, arrays["tokens"].tolist()) == (np.int32, [[1, 0], [1, 1]])


def test_default_labels_of_a_regression_are_floats():
    labels = Minimal(Task("mass", ()), labels=[0.5, np.nan]).labels()
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [0.5, np.nan])
    with pytest.raises(ValueError, match="got one number to train on: .* are 2; expected two"):
        check_trainable(Minimal(Task("mass", ()), labels=[2, 2, np.nan]))
    check_trainable(Minimal(Task("mass", ()), labels=[2, 3]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"views": -1}, "got views=-1"),
        ({"vocabulary": ("a",)}, "a vocabulary of 1 words and max_tokens=0"),
        ({"numeric": ("a", "a")}, "got 'a' twice"),
        ({"numeric": ("a",), "categorical": (Categories("a", ("x",)),)}, "got 'a' twice"),
        ({"categorical": (Categories("a", ("x", "x")),)}, "got 'x' twice"),
    ],
)
def test_inputs_that_mean_nothing_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Inputs(**fields)
