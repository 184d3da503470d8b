"""Tests of what error messages share: hints, and lists that end after ten entries."""

import pytest

from tl_jax import messages


def test_the_nearest_name_is_suggested_only_if_it_is_close():
    assert messages.nearest("resnet5O", ["vgg16", "resnet50"]) == "resnet50"
    assert messages.hint("resnet5O", ["vgg16", "resnet50"]) == "; did you mean 'resnet50'?"
    assert messages.nearest("zzz", ["vgg16", "resnet50"]) is None
    assert messages.hint("zzz", ["vgg16", "resnet50"]) == ""
    assert messages.hint("resnet50", []) == ""


@pytest.mark.parametrize(("count", "more"), [(1, ""), (10, ""), (11, " and 1 more")])
def test_lists_of_names_end_after_ten(count, more):
    names = [f"n{i}" for i in range(count)]
    listed = ", ".join(f"'n{i}'" for i in range(min(count, 10)))
    assert messages.some(names) == listed + more
    assert messages.some(names, quoted=False) == listed.replace("'", "") + more


@pytest.mark.parametrize(("count", "more"), [(2, []), (10, []), (13, ["  and 3 more"])])
def test_reports_list_ten_problems_between_head_and_tail(count, more):
    lines = messages.report("wrong:", [f"p{i}" for i in range(count)], "mend it").splitlines()
    assert lines == ["wrong:", *[f"  p{i}" for i in range(min(count, 10))], *more, "mend it"]
