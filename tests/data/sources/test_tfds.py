"""Prepared TFDS sets: opened by name without their code, and refused with a reason."""

import functools
import io
import os
import shutil
import struct
import zlib
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source
from etils.epath import testing as epath_testing
from PIL import Image

from tl_jax.data.source import Task
from tl_jax.data.sources import tfds as tfds_source
from tl_jax.data.sources.open import open_source, split_names


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Ten colour images of different sizes in two classes."""

    VERSION = tfds.core.Version("1.0.0")
    IMAGES: ClassVar = [np.full((4 + i, 5, 3), 20 * i, np.uint8) for i in range(10)]
    url_infos = None
    image_key = "image"

    def _info(self):
        features = {
            self.image_key: tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i, image in enumerate(self.IMAGES):
            buffer = io.BytesIO()  # TFDS would encode an array with TensorFlow.
            Image.fromarray(image).save(buffer, "PNG")
            buffer.seek(0)
            yield i, {self.image_key: buffer, "label": i % 2}


class Photo(Tiny):
    """The same under a feature name that is not the usual one."""

    image_key = "photo"


class Several(Tiny):
    """Images with a mask, and several kinds of labels, none of them called `label`."""

    SUPERVISED: ClassVar = ("image", "kind")

    def _info(self):
        classes = tfds.features.ClassLabel(names=["even", "odd"])
        features = {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "mask": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "kind": classes,
            "size": tfds.features.ClassLabel(names=["small", "large"]),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=["a", "b", "c"])),
            "angle": tfds.features.ClassLabel(names=["flat", "steep"]),
            "note": tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=self.SUPERVISED,
        )

    def _generate_examples(self):
        for i, example in super()._generate_examples():
            tags = [[], [0], [1, 2], [-1]][i % 4]
            kind = example["label"] if i else -1
            image = example["image"]
            yield (
                i,
                {
                    "image": image,
                    "mask": io.BytesIO(image.getvalue()),
                    "kind": kind,
                    "size": 0,
                    "tags": tags,
                    "angle": 1,
                    "note": f"№ {i}",
                },
            )


class Unsupervised(Several):
    """The same, which does not say which of them to learn."""

    SUPERVISED = None


BOMB_SIDE = 60_000


def bomb():
    """Returns a PNG file whose header declares far more pixels than it has."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = struct.pack(">II", BOMB_SIDE, BOMB_SIDE)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


class Nested(Tiny):
    """The same with images in lists and in groups of features, which are bombs."""

    def _info(self):
        image = functools.partial(tfds.features.Image, shape=(None, None, 3), encoding_format="png")
        features = {
            "image": image(),
            "label": tfds.features.ClassLabel(names=["even", "odd"]),
            "frames": tfds.features.Sequence(image()),
            "objects": tfds.features.Sequence({"crop": image(), "area": np.int64}),
            "more": {"depth": image(), "place": tfds.features.Text()},
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _generate_examples(self):
        for i, example in super()._generate_examples():
            frames, crops = ([io.BytesIO(bomb()) for _ in range(2)] for _ in range(2))
            yield (
                i,
                {
                    **example,
                    "frames": frames,
                    "objects": {"crop": crops, "area": [i, i]},
                    "more": {"depth": io.BytesIO(bomb()), "place": "here"},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    for builder in (Tiny, Photo, Several, Unsupervised, Nested):
        builder(data_dir=path, file_format="array_record").download_and_prepare()
    return path


@pytest.mark.parametrize("name", ["tiny", "tiny:1.0.0"])
def test_a_prepared_set_opens_by_name(data_dir, name):
    source = open_source(f"tfds:{name}", "train", data_dir=data_dir)
    assert (source.name, source.class_names) == (f"tfds:{name}", ("even", "odd"))
    images = {source[i]["image"].shape[0] - 4: source[i] for i in range(len(source))}
    assert sorted(images) == list(range(10))
    for i, example in images.items():
        np.testing.assert_array_equal(example["image"], Tiny.IMAGES[i])
        assert example["label"] == i % 2


def test_further_images_at_any_depth_are_not_decoded(data_dir):
    source = open_source("tfds:nested", "train", data_dir=data_dir)
    example = source[0]
    assert example["image"].ndim == 3
    assert list(example["frames"]) == [bomb()] * 2
    assert example["more"] == {"depth": bomb(), "place": b"here"}
    assert list(example["objects"]["crop"]) == [bomb()] * 2


def test_slices_are_disjoint_and_complete(data_dir):
    parts = [
        open_source("tfds:tiny", split, data_dir=data_dir)
        for split in ("train[:70%]", "train[70%:]")
    ]
    heights = [source[i]["image"].shape[0] for source in parts for i in range(len(source))]
    assert [len(source) for source in parts] == [7, 3]
    assert sorted(heights) == list(range(4, 14))


def test_split_names_are_those_of_the_set(data_dir):
    assert split_names("tfds:tiny", data_dir=data_dir) == ("train",)
    assert split_names(f"prepared:{data_dir}/tiny") == ("train",)


def test_a_split_is_known_in_any_spelling(data_dir):
    whole = open_source("tfds:tiny", "train", data_dir=data_dir)
    part = open_source("tfds:tiny", "Training[:70%]", data_dir=data_dir)
    assert (part.split, len(part)) == ("Training[:70%]", 7)
    assert part.identities() == whole.identities()[:7]
    assert len(set(whole.identities())) == 10


@pytest.mark.parametrize("damage", ["cut", "empty", "gone"])
def test_damaged_records_are_named(data_dir, tmp_path, damage):
    shutil.copytree(data_dir / "tiny", tmp_path / "tiny")
    (file,) = (tmp_path / "tiny").rglob("*.array_record-*")
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-500] if damage == "cut" else b"")
    source = open_source(f"prepared:{tmp_path / 'tiny'}", "train")
    for read in (source.labels, source.identities, lambda: source[3]):
        with pytest.raises(ValueError, match=rf"{file.name}' is damaged or was not copied whole"):
            read()


def test_a_config_can_be_named(elpv_dir):
    assert len(open_source("tfds:elpv/defect:1.1.0", "test", data_dir=elpv_dir)) == 654


def test_a_set_that_is_not_prepared_says_how(data_dir):
    with pytest.raises(FileNotFoundError, match=r"download_and_prepare\(file_format='array_rec"):
        open_source("tfds:cifar10", "train", data_dir=data_dir)


def test_an_unknown_split_names_the_nearest(data_dir):
    with pytest.raises(ValueError, match=r"no split 'trian'.*did you mean 'train'"):
        open_source("tfds:tiny", "trian", data_dir=data_dir)


def test_the_only_image_may_be_called_otherwise(data_dir):
    source = open_source("tfds:photo", "train", data_dir=data_dir)
    example = source[4]
    assert "photo" not in example
    np.testing.assert_array_equal(example["image"], Tiny.IMAGES[example["image"].shape[0] - 4])


def test_the_supervised_feature_is_the_main_task_and_others_follow(data_dir):
    source = open_source("tfds:several", "train", data_dir=data_dir)
    # `size` would hide a key of the batches; it can still be the main task, by name.
    assert source.tasks == (
        Task("kind", ("even", "odd")),
        Task("angle", ("flat", "steep")),
        Task("tags", ("a", "b", "c"), multi_label=True),
    )
    for i in range(10):
        example = source[i]
        number = example["image"].shape[0] - 4
        tags = {0: [0, 0, 0], 1: [1, 0, 0], 2: [0, 1, 1], 3: [-1, -1, -1]}[number % 4]
        assert example["label"] == (number % 2 if number else -1)
        assert example["tags"].tolist() == tags
        assert example["tags"].dtype == np.int8
        assert example["note"].decode() == f"№ {number}"
        assert isinstance(example["mask"], bytes)  # No image but the one is decoded.


def test_the_order_of_the_tasks_is_not_that_of_the_features(data_dir):
    builder = Several(data_dir=data_dir, file_format="array_record")
    assert list(builder.info.features).index("tags") < list(builder.info.features).index("angle")
    source = tfds_source.from_builder(builder, "train", name="x")
    assert [task.name for task in source.tasks] == ["kind", "angle", "tags"]


def test_what_to_learn_can_be_chosen(data_dir):
    source = open_source("tfds:several", "train", data_dir=data_dir, labels=("tags", "kind"))
    assert source.tasks[0].multi_label
    labels = source.labels()
    assert (labels.dtype, labels.shape) == (np.int8, (10, 3))
    assert all(source[i]["label"].tolist() == labels[i].tolist() for i in range(10))
    source = open_source("tfds:several", "train", data_dir=data_dir, labels=("size",))
    assert source.class_names == ("small", "large")


def test_a_set_that_does_not_say_what_to_learn_asks_for_it(data_dir):
    with pytest.raises(ValueError, match=r"by labels \(angle, kind, size, tags\)"):
        open_source("tfds:unsupervised", "train", data_dir=data_dir)
    chosen = open_source("tfds:unsupervised", "train", data_dir=data_dir, labels=("kind",))
    assert len(chosen.tasks) == 1


def test_an_unknown_label_names_the_nearest(data_dir):
    with pytest.raises(ValueError, match=r"no feature 'kinds' of classes.*did you mean 'kind'"):
        open_source("tfds:several", "train", data_dir=data_dir, labels=("kinds",))


@pytest.mark.parametrize("place", ["tiny/1.0.0", "tiny"])
def test_a_prepared_folder_may_have_any_name(data_dir, tmp_path, place):
    copy = tmp_path / "мой набор 1"
    shutil.copytree(data_dir / place, copy)
    source = open_source(f"prepared:{copy}", "train[:40%]")
    assert (source.name, len(source)) == (f"prepared:{copy}", 4)
    assert source.class_names == ("even", "odd")


def test_a_folder_of_several_prepared_sets_asks_for_one(data_dir):
    with pytest.raises(ValueError, match=r"several prepared sets in .*/photo/1\.0\.0.*name one"):
        open_source(f"prepared:{data_dir}", "train")


def test_a_folder_that_was_not_prepared_says_how(tmp_path):
    with pytest.raises(FileNotFoundError, match="no dataset_info.json; prepare it there"):
        open_source(f"prepared:{tmp_path}", "train")
    with pytest.raises(FileNotFoundError, match="expected one that TFDS prepared"):
        open_source(f"prepared:{tmp_path / 'nowhere'}", "train")


def test_the_home_folder_is_known(data_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(data_dir))
    assert len(open_source("prepared:~/tiny", "train")) == 10
    assert len(open_source("tfds:tiny", "train", data_dir="~")) == 10


@pytest.fixture
def bucket(data_dir, monkeypatch):
    """A remote file system: "gs://bucket" has the prepared sets, for TFDS's own paths."""
    far, near = "gs://bucket", str(data_dir)

    def local(path):
        return os.fspath(path).replace(far, near)

    def glob(original, path):
        return [file.replace(near, far) for file in original(local(path))]

    class Opened:
        """Stands for the records, which array_record itself would fetch."""

        def __init__(self, instructions):
            self.files = [each.filename for each in instructions]

    monkeypatch.setattr(array_record_data_source, "ArrayRecordDataSource", Opened)
    see = {
        name: lambda original, path, *rest: original(local(path), *rest)
        for name in ("exists", "isdir", "listdir", "open")
    }
    with epath_testing.mock_epath(glob=glob, **see):
        yield far


@pytest.mark.parametrize("spec", ["tfds:tiny", "prepared:gs://bucket/tiny"])
def test_sets_on_other_file_systems_are_found(bucket, spec):
    source = open_source(spec, "train[:50%]", data_dir=bucket)
    assert (source.name, source.class_names) == (spec, ("even", "odd"))
    (file,) = source.records.data_source.files
    assert file.startswith("gs://bucket/tiny/1.0.0/tiny-train.array_record")


def test_a_set_that_is_not_on_the_other_file_system_is_missed_there(bucket):
    with pytest.raises(
        FileNotFoundError, match=r"not prepared in gs://bucket; did you mean 'tiny'"
    ):
        open_source("tfds:tyni", "train", data_dir=bucket)


def test_a_misspelt_set_names_the_nearest(data_dir):
    with pytest.raises(FileNotFoundError, match=r"not prepared in .*did you mean 'photo'"):
        open_source("tfds:fotos", "train", data_dir=data_dir)


def test_another_file_format_says_how_to_convert(data_dir, tmp_path):
    info = data_dir / "tiny/1.0.0/dataset_info.json"
    copy = tmp_path / "tiny/1.0.0"
    copy.mkdir(parents=True)
    for path in info.parent.iterdir():
        text = path.read_bytes().replace(b'"array_record"', b'"tfrecord"')
        (copy / path.name.replace("array_record", "tfrecord")).write_bytes(text)
    with pytest.raises(ValueError, match=r"prepared as tfrecord files.*convert_format"):
        open_source("tfds:tiny", "train", data_dir=tmp_path)


def test_tfds_writes_a_set_without_a_word(monkeypatch, capfd):
    class Talkative:
        def download_and_prepare(self, download_config):
            print("Downloading and preparing dataset Unknown size")
            for _ in tfds.core.utils.tqdm(range(2), desc="Generating splits"):
                pass

    tfds_source.write(Talkative())
    assert capfd.readouterr() == ("", "")
