"""What a TFDS set says of itself cannot run code, and cannot lead out of its folder."""

import json
import shutil
import sys

import pytest

from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.sources.open import open_source, split_names


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A prepared set of two classes."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("tfds_files")
    for number, name in enumerate("aabb"):
        path = root / "photos" / "train" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 60 * number, np.uint8)).save(path)
    return prepare_source(f"folder:{root / 'photos'}", root / "out", progress=False).folder


@pytest.fixture
def prepared(whole, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(whole, tmp_path / "set")


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the folder that Python looks in first, which leaves a proof that it ran."""
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "proof"
    sys.modules.pop("evil_features", None)


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


TEXT = "tensorflow_datasets.core.features.text_feature.Text"
CLASSES = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_feature_of_another_module_is_refused_and_not_imported(prepared, evil, key):
    file = prepared / "features.json"
    change(file, f'"pythonClassName": "{CLASSES}"', f'"{key}": "evil_features.Feature"')
    for read in (open_source, lambda spec, split: split_names(spec)):
        with pytest.raises(ValueError, match=r"features\.json names the class 'evil_features"):
            read(f"prepared:{prepared}", "train")
    assert not evil.exists()


def test_the_older_form_of_the_file_is_checked_too(prepared, evil):
    feature = {"type": "evil_features.Feature", "content": {}}
    older = {"type": "tensorflow_datasets.core.features.features_dict.FeaturesDict"}
    (prepared / "features.json").write_text(json.dumps({**older, "content": {"x": feature}}))
    with pytest.raises(ValueError, match="would run that module's code"):
        open_source(f"prepared:{prepared}", "train")
    assert not evil.exists()


def test_a_set_that_is_opened_by_its_name_is_checked(prepared, evil, tmp_path):
    folder = shutil.copytree(prepared, tmp_path / "sets" / "mine" / "1.0.0")
    change(folder / "features.json", CLASSES, "evil_features.Feature")
    with pytest.raises(ValueError, match="names the class 'evil_features"):
        open_source("tfds:mine", "train", data_dir=tmp_path / "sets")
    assert not evil.exists()


def test_a_module_that_the_program_has_imported_may_be_named(prepared, evil):
    change(prepared / "features.json", CLASSES, "evil_features.Feature")
    sys.modules["evil_features"] = sys
    with pytest.raises(ValueError, match="Unrecognized FeatureConnector"):
        open_source(f"prepared:{prepared}", "train")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\udce9"])
def test_a_damaged_file_of_features_is_named(prepared, text):
    (prepared / "features.json").write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"cannot read features\.json of .*set: "):
        open_source(f"prepared:{prepared}", "train")


@pytest.mark.parametrize(
    "template",
    ["../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}", "/{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"],
)
def test_records_outside_the_folder_are_refused(prepared, template):
    file = prepared / "dataset_info.json"
    content = json.loads(file.read_text())
    for split in content["splits"]:
        split["filepathTemplate"] = template
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"names the file .*, which is not in that folder"):
        open_source(f"prepared:{prepared}", "train")


def test_a_whole_set_is_read(prepared):
    assert len(open_source(f"prepared:{prepared}", "train")) == 4
