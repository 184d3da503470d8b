"""The composed sets, made of a few pictures of the forms of Fashion-MNIST and of Tux Paint."""

import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from experiments import composed, composed_sets, strategies_stamps
from tests.support.composed import write_packages
from tl_jax.data.sources.fashion_mnist import CLASS_NAMES
from tl_jax.data.sources.open import open_source
from tl_jax.data.sources.options import InputColumns

COUNTS = {"train": 24, "validation": 3, "test": 4}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(composed_sets, "COUNTS", COUNTS)


def table_of(manifest):
    with manifest.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", composed_sets.COMPOSED)
def test_a_set_is_written_whole_and_the_same_again(name, packages, tmp_path):
    manifest = composed.write(name, 0, tmp_path / "one", packages)
    rows = table_of(manifest)
    assert Counter(row["split"] for row in rows) == COUNTS
    again = composed.write(name, 0, tmp_path / "two", packages)
    other = composed.write(name, 1, tmp_path / "two", packages)
    assert again.read_bytes() == manifest.read_bytes() != other.read_bytes()
    images = sorted((manifest.parent / "images").iterdir())
    assert {path.name for path in images} == {
        cell.removeprefix("images/") for row in rows for cell in row.values() if "images/" in cell
    }
    for path in images:
        assert path.read_bytes() == (again.parent / "images" / path.name).read_bytes()
    with Image.open(manifest.parent / "sheet.png") as sheet:
        assert sheet.width > 96 and np.asarray(sheet).std() > 0
    stamp = manifest.stat().st_mtime_ns
    assert composed.write(name, 0, tmp_path / "one", packages).stat().st_mtime_ns == stamp


def test_what_a_killed_process_left_is_written_anew(packages, tmp_path):
    (tmp_path / "multi_scale-0" / "images").mkdir(parents=True)
    (tmp_path / "multi_scale-0" / "images" / "old.png").write_bytes(b"")
    manifest = composed.write("multi_scale", 0, tmp_path, packages)
    assert not (manifest.parent / "images" / "old.png").exists()
    assert len(table_of(manifest)) == sum(COUNTS.values())


def test_no_picture_is_in_two_splits_or_twice_in_one(packages, monkeypatch):
    taken = []
    take = composed_sets.Articles.take

    def recorded(self):
        article, name = take(self)
        taken.append(article.tobytes())
        return article, name

    monkeypatch.setattr(composed_sets.Articles, "take", recorded)
    rows = composed_sets.rows("multi_view", 0, packages)
    assert [split for split, _ in rows] == [s for s, count in COUNTS.items() for _ in range(count)]
    assert len(taken) == sum(COUNTS.values())
    held_out = COUNTS["train"] + COUNTS["validation"]  # Those for testing have patterns of others.
    assert len(set(taken[:held_out])) == held_out


def test_an_article_is_taken_once():
    images = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((28, 28), np.uint8)
    articles = composed_sets.Articles(images, np.arange(20) % 10, np.random.default_rng(0))
    taken = [articles.take() for _ in range(20)]
    assert {int(article[0, 0]) for article, _ in taken} == set(range(20))
    assert all(name == CLASS_NAMES[article[0, 0] % 10] for article, name in taken)
    with pytest.raises(StopIteration):
        articles.take()


def test_labels_of_a_canvas_are_the_classes_of_its_articles():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 10
    images = (100 + labels.astype(np.uint8))[:, None, None] * np.ones((28, 28), np.uint8)
    articles = composed_sets.Articles(images, labels, rng)
    for _ in range(8):
        row = composed_sets.multi_label(articles, rng)
        values, counts = np.unique(row["image"][row["image"] > 0], return_counts=True)
        assert (counts % 28**2 == 0).all() and 1 <= counts.sum() / 28**2 <= 4
        assert row["articles"] == "|".join(sorted(CLASS_NAMES[value - 100] for value in values))


def test_views_may_be_missing_but_the_first(packages):
    rows = [row for _, row in composed_sets.rows("multi_view", 0, packages)]
    assert all(row["view1"] is not None for row in rows)
    assert any(row[f"view{i}"] is None for row in rows for i in (2, 3))
    assert rows[0]["view1"].shape == (48, 48)


def test_measures_are_those_of_the_original_within_their_error(packages):
    rows = [row for _, row in composed_sets.rows("multi_modal_columns", 0, packages)]
    heights = [float(row["height"]) for row in rows if row["height"] is not None]
    assert np.mean(heights) == pytest.approx(20, rel=0.05) and np.std(heights) > 0
    # In the picture the article fills the square, whatever its size was.
    assert all((row["image"][:, [0, 24, -1]] > 20).any(axis=0).all() for row in rows)


def test_a_parcel_weighs_what_is_in_it(packages):
    rows = [row for _, row in composed_sets.rows("combined", 0, packages)]
    one = 28 * 28 * 150 * (20 * 16) / (28 * 28) / 1000
    per_article = [float(row["weight"]) / int(row["number"]) for row in rows]
    assert np.mean(per_article) == pytest.approx(one, rel=0.1)
    assert {row["box"] for row in rows} <= {"small", "medium", "large"}


def test_a_long_tail_has_the_same_proportions_in_each_split(packages, monkeypatch):
    most = {"train": 12, "validation": 4, "test": 5}
    monkeypatch.setattr(composed_sets, "LONG_TAIL", most)
    rows = list(composed_sets.rows("long_tail", 3, packages))
    counts = {
        split: Counter(row["article"] for each, row in rows if each == split) for split in most
    }
    assert {split: max(count.values()) for split, count in counts.items()} == most
    orders = [[name for name, n in count.most_common() if n > 1] for count in counts.values()]
    assert orders[0][:2] == orders[1][:2] == orders[2][:2]
    assert min(counts["train"].values()) == 1 and len(counts["train"]) == 10


def test_stamps_keep_their_sentences_and_some_have_none(packages, tmp_path):
    manifest = composed.write("multi_modal_text", 0, tmp_path, packages)
    rows = table_of(manifest)
    assert {row["folder"] for row in rows} == {"animals", "food"} and len(rows) == 50
    with_text = [row for row in rows if row["text"]]
    assert 30 < len(with_text) < 48  # Two have none from the start.
    assert all(row["text"].startswith(f"A {row['folder']} ") for row in with_text)
    assert not any("Ding" in row["text"] for row in rows)
    with Image.open(manifest.parent / rows[0]["image"]) as image:
        assert image.size == (64, 64) and image.mode == "RGB"


def test_the_library_reads_what_is_written(packages, tmp_path):
    manifest = composed.write("combined", 0, tmp_path, packages)
    source = open_source(
        f"manifest:{manifest}",
        "train",
        labels=("articles", "number"),
        ordered={"number": ("1", "2", "3")},
        image_column=("photo1", "photo2", "photo3"),
        columns=InputColumns(numeric=("weight",), categorical=("box",)),
    )
    assert [task.kind for task in source.tasks] == ["multi_label", "ordinal"]
    example = source[0]
    assert len(example["image"]) == 3 and np.isfinite(example["numeric"]).all()


def test_the_command_writes_what_is_named(packages, tmp_path, capsys):
    options = ["--fashion", str(packages.fashion), "--folder", str(tmp_path), "--seed", "2"]
    composed.main(["multi_scale", *options])
    assert capsys.readouterr().out.strip() == str(tmp_path / "multi_scale-2" / "manifest.csv")
    with pytest.raises(SystemExit):
        composed.main(["multi_scal", *options])


def test_sentences_are_missing_with_the_package(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get download tuxpaint-stamps-default"):
        strategies_stamps.read_files(tmp_path / "none", (".txt",))
