"""Splits and slices: what TFDS reads in the same words, and an error for what it does not."""

import itertools

import pytest
from tensorflow_datasets.core import naming, splits

from tl_jax.data.slices import Part, parse, select

SIZES = {"train": 101, "test": 7, "validation": 3}
SPECS = [
    "train",
    "train[:90%]",
    "train[90%:]",
    "train[33%:67%]",
    "train[-10%:]",
    "train[:-10%]",
    "train[12.5%:]",
    "train[:5]",
    "train[5:]",
    "train[-5:]",
    "train[:-5]",
    "train[10:20]",
    "train[5:50%]",
    "train[:1_0]",
    "test[:50%]",
    "validation[50%:]",
    "train[:50%]+test",
    "train + test[2:4] + train[:1]",
    "all",
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The positions that TFDS selects, as pairs of split and position."""
    template = naming.ShardedFileTemplate(
        dataset_name="x", data_dir=tmp_path_factory.mktemp("x"), filetype_suffix="array_record"
    )
    known = splits.SplitDict(
        splits.SplitInfo(name, [size], 0, filename_template=template.replace(split=name))
        for name, size in SIZES.items()
    )

    def positions(spec):
        found = []
        for each in splits._make_file_instructions(list(known.values()), spec):
            split = each.filename.split("x-")[-1].split(".")[0]
            found += [(split, each.skip + i) for i in range(each.take)]
        return found

    return positions


@pytest.mark.parametrize("spec", SPECS)
def test_a_specification_selects_what_it_selects_in_tfds(reference, spec):
    found = [(split, i) for split, places in select(spec, SIZES, name="x") for i in places]
    assert found == reference(spec)
    assert found


def test_all_percents_round_as_in_tfds(reference):
    for low, high in itertools.combinations(range(0, 101, 9), 2):
        spec = f"train[{low}%:{high}%]"
        ((_, places),) = select(spec, SIZES, name="x")
        assert [("train", i) for i in places] == reference(spec)


@pytest.mark.parametrize("cut", ["1%", "50%", "99%", "1", "50", "-3"])
def test_two_slices_at_one_bound_are_a_whole(cut):
    parts = [select(f"train[{s}]", SIZES, name="x")[0][1] for s in (f":{cut}", f"{cut}:")]
    assert [*parts[0], *parts[1]] == list(range(101))


@pytest.mark.parametrize(
    "spec", ["", "train[]", "train[:]", "train[1]", "train[0shard:]", "train[a:b]", "train[1:2:3]"]
)
def test_what_is_no_specification_is_shown_one(spec):
    with pytest.raises(ValueError, match=r"cannot read the split .* expected a name"):
        select(spec, SIZES, name="x")


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(ValueError, match=r"no split 'tran' in x; it has .*did you mean 'train'"):
        select("test+tran[:5]", SIZES, name="x")


@pytest.mark.parametrize("spec", ["train[:0]", "train[50:50]", "train[60:40]", "validation[:1%]"])
def test_an_empty_slice_is_refused(spec):
    with pytest.raises(ValueError, match="holds no example"):
        select(spec, SIZES, name="x")


@pytest.mark.parametrize("spec", ["test[:8]", "test[-8:]", "test[8:9]"])
def test_bounds_beyond_the_split_are_refused(spec):
    with pytest.raises(ValueError, match="which has 7 examples"):
        select(spec, SIZES, name="x")


def test_percents_beyond_a_hundred_are_refused():
    with pytest.raises(ValueError, match="percents from -100 to 100"):
        select("train[:101%]", SIZES, name="x")


def test_a_split_is_known_by_its_very_name():
    assert parse("week 1+2", ["week 1+2"]) == [Part("week 1+2")]
    assert parse("обучение[:50%]", []) == [Part("обучение", None, 50.0, percent=True)]
    assert parse("all", ["all", "train"]) == [Part("all")]
