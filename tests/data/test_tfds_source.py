"""Prepared TFDS sets: opened by name without their code, and refused with a reason."""

import io
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tl_jax.data.open import open_source


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


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    for builder in (Tiny, Photo):
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


def test_slices_are_disjoint_and_complete(data_dir):
    parts = [
        open_source("tfds:tiny", split, data_dir=data_dir)
        for split in ("train[:70%]", "train[70%:]")
    ]
    heights = [source[i]["image"].shape[0] for source in parts for i in range(len(source))]
    assert [len(source) for source in parts] == [7, 3]
    assert sorted(heights) == list(range(4, 14))


def test_a_config_can_be_named(elpv_dir):
    assert len(open_source("tfds:elpv/defect:1.0.0", "test", data_dir=elpv_dir)) == 654


def test_a_set_that_is_not_prepared_says_how(data_dir):
    with pytest.raises(FileNotFoundError, match=r"download_and_prepare\(file_format='array_rec"):
        open_source("tfds:cifar10", "train", data_dir=data_dir)


def test_an_unknown_split_names_the_nearest(data_dir):
    with pytest.raises(ValueError, match=r"no split 'trian'.*did you mean 'train'"):
        open_source("tfds:tiny", "trian", data_dir=data_dir)


def test_other_features_are_named(data_dir):
    with pytest.raises(ValueError, match=r"has the features .*photo.*expected `image`"):
        open_source("tfds:photo", "train", data_dir=data_dir)


def test_another_file_format_says_how_to_convert(data_dir, tmp_path):
    info = data_dir / "tiny/1.0.0/dataset_info.json"
    copy = tmp_path / "tiny/1.0.0"
    copy.mkdir(parents=True)
    for path in info.parent.iterdir():
        text = path.read_bytes().replace(b'"array_record"', b'"tfrecord"')
        (copy / path.name.replace("array_record", "tfrecord")).write_bytes(text)
    with pytest.raises(ValueError, match=r"prepared as tfrecord files.*convert_format"):
        open_source("tfds:tiny", "train", data_dir=tmp_path)
