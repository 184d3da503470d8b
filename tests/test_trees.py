"""Tests of paths, dotted names, patterns, labels, split and merge."""

import pytest

from tl_jax import trees

TREE = {
    "conv1": {"kernel": 1},
    "layer4": {"0": {"conv1": {"kernel": 2}, "bn1": {"scale": 3, "bias": 4}}},
    "features.0": {"kernel": 5, "bias": 6},
    "fc": {"kernel": 7, "bias": 8},
    "fc_norm": {"scale": 9},
}


def test_flatten_is_undone_by_unflatten():
    flat = trees.flatten(TREE)
    assert flat["layer4", "0", "conv1", "kernel"] == 2
    assert flat["features.0", "bias"] == 6
    assert trees.unflatten(flat) == TREE


def test_names_keep_the_trees_order():
    assert trees.names(TREE)[:3] == [
        "conv1.kernel",
        "layer4.0.conv1.kernel",
        "layer4.0.bn1.scale",
    ]
    assert "features.0.kernel" in trees.names(TREE)


@pytest.mark.parametrize(
    ("name", "prefix", "expected"),
    [
        ("fc.kernel", "fc", True),
        ("fc", "fc", True),
        ("fc_norm.scale", "fc", False),
        ("layer4.0.bn1.bias", "layer4.0", True),
        ("anything", "", True),
    ],
)
def test_is_under_respects_whole_parts_of_a_name(name, prefix, expected):
    assert trees.is_under(name, prefix) is expected


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("fc.kernel", "fc", True),
        ("fc.kernel", "fc.kernel", True),
        ("fc_norm.scale", "fc", False),
        ("layer4.0.bn1.bias", "*.bias", True),
        ("layer4.0.conv1.kernel", "layer4.*.conv1", True),
        ("layer4.0.bn1.scale", "layer4.*.conv1", False),
        ("FC.kernel", "fc", False),
    ],
)
def test_matches(name, pattern, expected):
    assert trees.matches(name, pattern) is expected


def test_label_gives_every_leaf_one_label():
    labels = trees.label(TREE, [("fc", "head"), ("layer4", "late"), ("*", "rest")])
    flat = trees.flatten(labels)
    assert flat.keys() == trees.flatten(TREE).keys()
    assert labels["fc"] == {"kernel": "head", "bias": "head"}
    assert labels["layer4"]["0"]["bn1"]["scale"] == "late"
    assert labels["fc_norm"]["scale"] == labels["conv1"]["kernel"] == "rest"


def test_label_takes_overlapping_rules_that_agree():
    labels = trees.label(TREE, [("fc", "head"), ("fc.bias", "head"), ("*", "rest")])
    assert labels["fc"]["bias"] == "head"


def test_label_names_the_nearest_of_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match=r"'layr4.0.bn1.bias' matches no .*'layer4.0.bn1.bias'\?"):
        trees.label(TREE, [("layr4.0.bn1.bias", "head"), ("*", "rest")])


def test_label_refuses_a_leaf_without_a_label():
    with pytest.raises(ValueError, match=r"'conv1.kernel' needs exactly one label, got \[\]"):
        trees.label(TREE, [("fc", "head")])


def test_label_refuses_a_leaf_with_two_labels():
    with pytest.raises(ValueError, match=r"'fc.bias' needs exactly one .*\['head', 'plain'\]"):
        trees.label(TREE, [("fc", "head"), ("*.bias", "plain"), ("*", "rest")])


def test_split_is_undone_by_merge():
    head, others = trees.split(TREE, lambda name: trees.is_under(name, "fc"))
    assert head == {"fc": {"kernel": 7, "bias": 8}}
    assert trees.flatten(others).keys() | trees.flatten(head).keys() == trees.flatten(TREE).keys()
    assert trees.merge(head, others) == TREE


def test_merge_refuses_a_leaf_that_is_in_two_trees():
    with pytest.raises(ValueError, match=r"1 leaves are in two trees, first 'fc.bias'"):
        trees.merge(TREE, {"fc": {"bias": 0}})


def test_leaves_of_a_layer_are_read_and_replaced():
    assert trees.layer_leaves(TREE, "layer4.0.bn1") == {"scale": 3, "bias": 4}
    assert trees.layer_leaves(TREE, "features.0") == {"kernel": 5, "bias": 6}
    changed = trees.with_layer_leaves(TREE, "fc", {"bias": 0})
    assert changed["fc"] == {"kernel": 7, "bias": 0}
    assert {**changed, "fc": TREE["fc"]} == TREE
    with pytest.raises(ValueError, match=r"no layer 'layer4.0.bn2'; did you mean 'layer4.0.bn1'"):
        trees.layer_leaves(TREE, "layer4.0.bn2")
