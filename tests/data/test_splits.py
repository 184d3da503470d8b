"""Splits: the slices of TFDS in the same words, and partitions that are the same for one seed."""

import hashlib
import itertools

import pytest
from tensorflow_datasets.core import naming
from tensorflow_datasets.core import splits as tfds_splits

from tl_jax.data import splits

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
    known = tfds_splits.SplitDict(
        tfds_splits.SplitInfo(name, [size], 0, filename_template=template.replace(split=name))
        for name, size in SIZES.items()
    )

    def positions(spec):
        selected = []
        for each in tfds_splits._make_file_instructions(list(known.values()), spec):
            split = each.filename.split("x-")[-1].split(".")[0]
            selected += [(split, each.skip + i) for i in range(each.take)]
        return selected

    return positions


@pytest.mark.parametrize("spec", SPECS)
def test_select_equals_tfds(reference, spec):
    pairs = [(split, i) for split, chosen in splits.select(spec, SIZES, name="x") for i in chosen]
    assert pairs == reference(spec)
    assert pairs


def test_percentages_round_as_in_tfds(reference):
    for low, high in itertools.combinations(range(0, 101, 9), 2):
        spec = f"train[{low}%:{high}%]"
        ((_, positions),) = splits.select(spec, SIZES, name="x")
        assert [("train", i) for i in positions] == reference(spec)


@pytest.mark.parametrize("cut", ["1%", "50%", "99%", "1", "50", "-3"])
def test_two_slices_at_one_bound_are_complete(cut):
    parts = [splits.select(f"train[{s}]", SIZES, name="x")[0][1] for s in (f":{cut}", f"{cut}:")]
    assert [*parts[0], *parts[1]] == list(range(101))


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "train[]",
        "train[:]",
        "train[1]",
        "train[0shard:]",
        "train[a:b]",
        "train[1:2:3]",
        "train[1.5:]",
        "train[:1__0]",
    ],
)
def test_a_malformed_specification_is_refused(spec):
    with pytest.raises(ValueError, match=r"cannot read the split .* expected a name"):
        splits.select(spec, SIZES, name="x")


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(ValueError, match=r"no split 'tran' in x; it has .*did you mean 'train'"):
        splits.select("test+tran[:5]", SIZES, name="x")


@pytest.mark.parametrize("spec", ["train[:0]", "train[50:50]", "train[60:40]", "validation[:1%]"])
def test_an_empty_slice_is_refused(spec):
    with pytest.raises(ValueError, match="holds no example"):
        splits.select(spec, SIZES, name="x")


@pytest.mark.parametrize("spec", ["test[:8]", "test[-8:]", "test[8:9]"])
def test_bounds_beyond_the_split_are_refused(spec):
    with pytest.raises(ValueError, match="which has 7 examples"):
        splits.select(spec, SIZES, name="x")


def test_percentages_beyond_a_hundred_are_refused():
    with pytest.raises(ValueError, match="percentages from -100 to 100"):
        splits.select("train[:101%]", SIZES, name="x")


def test_a_known_name_is_taken_literally():
    assert splits.parse("week 1+2", ["week 1+2"]) == [splits.Slice("week 1+2")]
    assert splits.parse("all", ["all", "train"]) == [splits.Slice("all")]
    expected = splits.Slice("обучение", None, 50.0, percent=True)
    assert splits.parse("обучение[:50%]", []) == [expected]


NAMES = [f"name{i}" for i in range(101)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 101])
def test_every_name_is_in_one_part_and_sizes_follow_the_shares(count):
    shares = (0.6, 0.15, 0.25)
    parts = splits.partition(NAMES[:count], shares=shares, seed=3)
    assert sorted(name for part in parts for name in part) == sorted(NAMES[:count])
    assert all(abs(len(p) - s * count) <= 1 for p, s in zip(parts, shares, strict=True))


def test_the_seed_and_not_the_order_of_the_names_decides():
    first = splits.partition(NAMES, shares=(0.5, 0.5), seed=1)
    assert splits.partition(NAMES[::-1], shares=(0.5, 0.5), seed=1) == first
    assert splits.partition(NAMES, shares=(0.5, 0.5), seed=2) != first


def test_a_partition_is_pinned():
    # Recorded results compare only as long as the partition stays the same.
    parts = splits.partition(list("abcdef"), shares=(0.5, 0.5), seed=0)
    assert parts == [list("fda"), list("cbe")]


def test_strata_are_divided_one_by_one():
    parts = splits.partition_strata([NAMES[:40], NAMES[40:50]], shares={"a": 0.8, "b": 0.2}, seed=5)
    assert sorted(parts["a"] + parts["b"]) == sorted(NAMES[:50])
    assert len(set(parts["b"]) & set(NAMES[:40])) == 8
    assert len(set(parts["b"]) & set(NAMES[40:50])) == 2


@pytest.mark.parametrize("count", [2, 3, 7, 49, 101])
@pytest.mark.parametrize("fraction", [0.001, 0.2, 1 / 3, 0.5, 0.999])
def test_holding_out_leaves_one_on_each_side(count, fraction):
    rest, held = splits.hold_out(NAMES[:count], fraction=fraction, seed=0, nonempty=True)
    assert sorted(rest + held) == sorted(NAMES[:count])
    assert rest
    assert held


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_the_share_that_is_held_out_is_about_the_fraction(fraction):
    names = [f"photo {i}.jpg" for i in range(4000)]
    _, held = splits.hold_out(names, fraction=fraction, seed=3, nonempty=True)
    assert abs(len(held) / 4000 - fraction) < 4 * (fraction * (1 - fraction) / 4000) ** 0.5


def test_what_is_held_out_stays_held_out_when_names_are_added():
    for count in (30, 60, 100):
        rest, held = splits.hold_out(NAMES[:count], fraction=0.2, seed=0, nonempty=True)
        more, more_held = splits.hold_out(NAMES, fraction=0.2, seed=0, nonempty=True)
        assert set(held) <= set(more_held)
        assert set(rest) <= set(more)


@pytest.mark.parametrize("name", ["cat{}.jpg", "cat/IMG ({:05d}).jp2", "{}"])
def test_of_names_in_a_row_the_share_is_nearly_exact(name):
    for start, seed in itertools.product((0, 1, 998), range(20)):
        names = [name.format(start + i) for i in range(10)]
        _, held = splits.hold_out(names, fraction=0.2, seed=seed, nonempty=True)
        assert 1 <= len(held) <= 3
        _, more = splits.hold_out([*names, "x", "y.jpg"], fraction=0.2, seed=seed, nonempty=True)
        assert set(held) <= set(more)


@pytest.mark.parametrize(("count", "most"), [(2, 1), (4, 1), (6, 2), (10, 4)])
def test_a_small_class_holds_out_at_most_twice_its_share(count, most):
    sizes = []
    for number in range(100):
        names = [f"{number}{letter}" for letter in "abcdefghij"[:count]]
        names = [hashlib.md5(name.encode()).hexdigest() + "x" for name in names]
        sizes.append(len(splits.hold_out(names, fraction=0.2, seed=0, nonempty=True)[1]))
    assert set(sizes) <= set(range(1, most + 1))


def test_divisions_with_another_salt_are_independent():
    rest, _ = splits.hold_out(NAMES, fraction=0.2, seed=0, nonempty=True)
    again, held = splits.hold_out(rest, fraction=0.2, seed=0, nonempty=True, salt="again")
    assert 8 < len(held) < 30
    # The same hash would find nothing below the threshold but the one that must be.
    assert len(splits.hold_out(rest, fraction=0.2, seed=0, nonempty=True)[1]) == 1
    assert len(again) + len(held) == len(rest)


def test_names_that_are_no_unicode_can_be_divided():
    names = ["caf\udce9.jpg", "\ud800", "a"]
    assert sorted(splits.shuffled(names, seed=0)) == sorted(names)


SPELLINGS = {
    "train": "train Train TRAIN training Training trn train_set TrainSet trainset train2017",
    "validation": "val Val valid validation dev VALIDATION val_images validation-set",
    "test": "test Testing TST test_data TestSet test.2012",
    "eval": "eval Evaluation",
}


@pytest.mark.parametrize(("name", "spelled"), SPELLINGS.items())
def test_usual_spellings_mean_one_split(name, spelled):
    assert [splits.canonical_name(each) for each in spelled.split()] == [name] * len(
        spelled.split()
    )
    assert all(map(splits.is_split_name, spelled.split()))


@pytest.mark.parametrize(
    "name", ["cat", "trained", "test1", "week 1", "неделя", "trainval", "", "12"]
)
def test_other_names_stay_as_they_are(name):
    assert splits.canonical_name(name) == name
    assert not splits.is_split_name(name)


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["train", "test"], ["train", "test"]),
        (["seg_train", "seg_test", "seg_pred"], ["seg_train", "seg_test"]),
        (["cat", "train", "Validation 2"], ["train", "Validation 2"]),
        (["train", "car", "bus"], []),
        (["train", "test tube"], []),
        (["valid", "invalid"], []),
    ],
)
def test_names_that_differ_in_the_split_alone_are_plainly_splits(names, plain):
    assert splits.plain_splits(names) == plain


def test_a_split_can_be_asked_for_in_any_spelling():
    assert splits.select("val+Training[:1]", SIZES, name="x") == [
        ("validation", range(3)),
        ("train", range(1)),
    ]
    assert splits.respelled("TEST[10%:]", ["Testing", "train"], name="x") == "Testing[10%:]"
    with pytest.raises(ValueError, match=r"no split 'dev' in x; it has train \(Training\), test"):
        splits.select("dev", {"train": 1, "test": 1}, name="x", spelled={"train": "Training"})


@pytest.mark.parametrize(("count", "fraction", "held"), [(1, 0.2, 0), (1, 0.8, 1), (0, 0.5, 0)])
def test_a_part_may_be_empty_without_a_minimum(count, fraction, held):
    parts = splits.hold_out(NAMES[:count], fraction=fraction, seed=0, nonempty=False)
    assert len(parts[1]) == held


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_is_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="got share="):
        splits.check_fraction(fraction, name="share")
