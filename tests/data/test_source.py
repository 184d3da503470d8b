"""The protocol: every kind of source keeps it, so that nothing else need know the kinds."""

import inspect
import pickle

import numpy as np
import pytest

from tl_jax.data.images import decode
from tl_jax.data.source import EncodedSource, Source, Task, check_tasks, tasks_of
from tl_jax.data.sources.open import open_source

KINDS = ["digits", "elpv", "folder", "manifest", "npz", "prepared", "tfds"]
ENCODED = {"elpv", "folder", "manifest", "prepared", "tfds"}


@pytest.fixture(scope="module")
def specs(tmp_path_factory, elpv_dir):
    """A specification of each kind; the small ones hold three images of two classes."""
    root = tmp_path_factory.mktemp("kinds")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 6, 5, 3), np.uint8)
    rows = ["image,label"]
    for i, image in enumerate(images):
        path = root / "folder" / "train" / "ba"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        decode.Image.fromarray(image).save(path)
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


@pytest.fixture(params=KINDS)
def source(request, specs, elpv_dir):
    split = "test[:4]" if request.param in ("elpv", "prepared", "tfds") else "train"
    opened = open_source(specs[request.param], split, data_dir=elpv_dir)
    return request.param, specs[request.param], split, opened


def test_every_kind_keeps_the_protocol(source):
    _, spec, split, opened = source
    members = [name for name, _ in inspect.getmembers(Source) if not name.startswith("_")]
    assert {"labels", "tasks", "skipped"} <= set(members)
    assert not [name for name in members if not hasattr(opened, name)]
    assert (opened.name, opened.split, opened.skipped) == (spec, split, ())
    assert opened.class_names == opened.tasks[0].class_names
    assert tasks_of(opened) == opened.tasks


def test_labels_are_those_of_the_examples(source):
    opened = source[-1]
    labels = opened.labels()
    assert (labels.dtype, labels.shape) == (np.int32, (len(opened),))
    for i in range(0, len(opened), 1 + len(opened) // 8):
        example = opened[i]
        assert type(example["label"]) is int
        assert example["label"] == labels[i]
        assert example["image"].dtype == np.uint8
        assert example["image"].shape[2:] == (3,)


def test_encoded_images_are_those_of_the_examples(source):
    kind, _, _, opened = source
    assert isinstance(opened, EncodedSource) == (kind in ENCODED)
    if isinstance(opened, EncodedSource):
        data, facts = opened.encoded(len(opened) - 1)
        example = opened[len(opened) - 1]
        np.testing.assert_array_equal(decode.decode(data), example.pop("image"))
        assert facts == example


def test_labels_need_no_decoding(source, monkeypatch):
    monkeypatch.setattr(decode, "decode", lambda *a, **k: pytest.fail("an image was decoded"))
    assert len(source[-1].labels()) == len(source[-1])


def test_every_kind_can_be_sent_to_another_process(source):
    opened = source[-1]
    copy = pickle.loads(pickle.dumps(opened))
    assert (copy.name, len(copy), copy.tasks) == (opened.name, len(opened), opened.tasks)
    np.testing.assert_array_equal(copy[1]["image"], opened[1]["image"])


def test_the_main_labels_of_elpv_may_be_the_other(specs, elpv_dir):
    both = open_source("elpv", "test[:50]", data_dir=elpv_dir)
    other = open_source("elpv", "test[:50]", data_dir=elpv_dir, labels=("cell_type",))
    assert [task.name for task in both.tasks] == ["label", "cell_type"]
    assert both.tasks[1].class_names == other.class_names == ("mono", "poly")
    assert other.labels().tolist() == [both[i]["cell_type"] for i in range(50)]
    assert len(set(other.labels())) == 2


def test_a_source_without_tasks_has_the_one_of_its_classes():
    class Plain:
        class_names = ("a", "b")

    assert tasks_of(Plain()) == (Task("label", ("a", "b")),)


@pytest.mark.parametrize("names", [("label", "image"), ("a", "label"), ("a", "mask"), ("a", "a")])
def test_tasks_that_would_hide_something_are_refused(names):
    with pytest.raises(ValueError, match="expected each once, and none but the first"):
        check_tasks("x", tuple(Task(name, ("y",)) for name in names))


def test_the_main_task_may_be_called_as_it_likes():
    check_tasks("x", (Task("image", ("y",)), Task("b", ("y",))))
