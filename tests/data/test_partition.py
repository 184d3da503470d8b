"""Partitions: whole, disjoint, near their shares, and the same for the same seed."""

import pytest

from tl_jax.data.partition import check_fraction, hold_out, partition

NAMES = [f"name{i}" for i in range(101)]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 101])
def test_every_name_is_dealt_once_and_sizes_follow_the_shares(count):
    shares = (0.6, 0.15, 0.25)
    parts = partition(NAMES[:count], shares=shares, seed=3)
    assert sorted(name for part in parts for name in part) == sorted(NAMES[:count])
    assert all(abs(len(p) - s * count) <= 1 for p, s in zip(parts, shares, strict=True))


def test_the_seed_and_not_the_order_of_the_names_decides():
    first = partition(NAMES, shares=(0.5, 0.5), seed=1)
    assert partition(NAMES[::-1], shares=(0.5, 0.5), seed=1) == first
    assert partition(NAMES, shares=(0.5, 0.5), seed=2) != first


def test_a_partition_is_what_it_always_was():
    # Recorded results compare only as long as the partition stays: this pins it.
    assert partition(list("abcdef"), shares=(0.5, 0.5), seed=0) == [list("fda"), list("cbe")]


@pytest.mark.parametrize("count", [2, 3, 7, 49, 101])
@pytest.mark.parametrize("fraction", [0.001, 0.2, 1 / 3, 0.5, 0.999])
def test_holding_out_leaves_one_on_each_side_and_else_rounds(count, fraction):
    kept, held = hold_out(NAMES[:count], fraction=fraction, seed=0, both=True)
    assert sorted(kept + held) == sorted(NAMES[:count])
    assert len(held) == min(max(round(count * fraction), 1), count - 1)


@pytest.mark.parametrize(("count", "fraction", "held"), [(1, 0.2, 0), (1, 0.8, 1), (0, 0.5, 0)])
def test_without_a_least_number_a_part_may_be_empty(count, fraction, held):
    assert len(hold_out(NAMES[:count], fraction=fraction, seed=0, both=False)[1]) == held


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_lies_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="got share="):
        check_fraction(fraction, name="share")
