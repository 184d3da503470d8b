"""Groups of parameters by depth, and what a selection chooses, on networks of every family."""

from typing import ClassVar

import jax
import pytest
from flax import linen as nn

from tests.support.tiny import TinyNet, randomised
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.registry import FAMILIES, architecture, create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.transfer import groups
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA

SMALLEST = {family: min(about.architectures, key=len) for family, about in FAMILIES.items()}


def by_depth(name: str, **options):
    model = create_model(name, num_classes=5, **options)
    return groups.by_depth(model, architecture(name).stages)


def labels(tree) -> dict[str, str]:
    return {trees.dotted(path): label for path, label in trees.flatten(tree).items()}


@pytest.fixture(scope="module")
def resnet():
    model = create_model("resnet18", num_classes=5)
    return by_depth("resnet18"), abstract_variables(model)["batch_stats"]


# ---- groups


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_stages_from_the_stem_to_the_head(family):
    name = SMALLEST[family]
    tree = by_depth(name)
    found, names = labels(tree), trees.names(tree)
    about = architecture(name)
    assert found[f"{about.stem}.kernel"] == "stage0"
    head = {leaf for leaf, label in found.items() if label == groups.HEAD}
    assert head == {leaf for leaf in names if trees.is_under(leaf, about.classifier)}
    order = groups.group_names(tree)
    assert order[0] == "stage0"
    assert order[-1] == "head"
    assert order[-2] == f"stage{max(int(g[5:]) for g in order[:-1])}"
    for depth, stage in enumerate(about.stages):
        within = {label for leaf, label in found.items() if trees.is_under(leaf, stage)}
        assert within <= {f"stage{depth}"}


def test_what_lies_between_stages_belongs_to_the_next_and_what_follows_them_to_the_last():
    found = labels(by_depth("densenet121"))
    assert found["features.transition1.conv.kernel"] == "stage2"
    assert found["features.norm5.scale"] == "stage4"
    assert labels(by_depth("mobilenetv3_small_050"))["conv_head.kernel"] == "stage4"


def test_added_leaves_belong_to_the_group_of_what_they_change():
    model = Adapted(create_model("resnet18", num_classes=5), LoRA(rank=2))
    found = labels(groups.by_depth(model, architecture("resnet18").stages))
    assert found["layer2.0.conv1.lora_a"] == "stage2"


class Twice(nn.Module):
    """Three stages, the first of which is called once more between the second and the third."""

    classifier: ClassVar[str] = "fc"
    in_channels: ClassVar[int] = 3

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        one = layers.Conv(3, 3, name="one")
        x = layers.Conv(3, 3, name="two")(one(images))
        x = layers.Conv(3, 3, name="between")(one(x))
        return layers.Dense(2, name="fc")(layers.Conv(3, 3, name="three")(x).mean((1, 2)))


def test_a_module_that_is_called_twice_belongs_where_it_is_called_first():
    found = labels(groups.by_depth(Twice(), ["one", "two", "three", "fc"], head=["three"]))
    assert {name.split(".")[0]: label for name, label in found.items()} == {
        "one": "stage0",
        "two": "stage1",
        "between": "stage2",
        "three": groups.HEAD,
        "fc": "stage3",
    }


def test_stages_are_counted_as_numbers_and_other_groups_are_none():
    found = dict.fromkeys(["stage10", "stage2", "stage_two", "head"])
    tree = {name: {"kernel": name} for name in found}
    assert groups.group_names(tree) == ["stage2", "stage10", "stage_two", "head"]
    assert groups.select(tree, "last:1") == {"stage10.kernel"}


def test_a_batch_norm_without_a_scale_is_a_norm():
    tree = {"bn": {"bias": "stage0"}, "fc": {"kernel": "head", "bias": "head"}}
    for selection in ("batch_norm", "norms"):
        assert groups.select(tree, selection, {"bn": {"mean": 0}}) == {"bn.bias"}


def test_a_stage_that_is_no_module_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match=r"no module 'layer9'; did you mean 'layer\d'"):
        groups.by_depth(create_model("resnet18"), ["layer1", "layer9"])


def test_new_groups_take_their_parameters_from_the_others(resnet):
    found = labels(groups.regroup(resnet[0], {"slow": ["layer1", "layer2.0"]}))
    assert {name.split(".")[0] for name, label in found.items() if label == "slow"} == {
        "layer1",
        "layer2",
    }
    assert found["layer2.1.conv1.kernel"] == "stage2"
    assert groups.group_names(groups.regroup(resnet[0], {"slow": ["layer1"]})) == [
        "stage0", "stage2", "stage3", "stage4", "slow", "head",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"slow": ["layer1"], "fast": ["layer1.0"]}, r"'layer1\.0\..* exactly one label"),
        ({"slow": ["layr1.0.conv1"]}, "'layr1.0.conv1' matches no parameter; did you mean 'layer1"),
    ],
)
def test_new_groups_that_overlap_or_match_nothing_are_errors(resnet, patterns, message):
    with pytest.raises(ValueError, match=message):
        groups.regroup(resnet[0], patterns)


# ---- selections


@pytest.mark.parametrize(
    ("selection", "chosen", "count"),
    [
        ("all", lambda name: True, 62),
        ("head", lambda name: name.startswith("fc."), 2),
        ("last:1", lambda name: name.startswith("layer4."), 15),
        ("head+last:2", lambda name: name.startswith(("fc.", "layer4.", "layer3.")), 32),
        ("stage0", lambda name: name.startswith(("conv1.", "bn1.")), 3),
        ("batch_norm", lambda name: "bn" in name or "downsample.1" in name, 40),
        ("norms + head", lambda name: "bn" in name or "ple.1" in name or name[:3] == "fc.", 42),
        ("biases", lambda name: name.endswith(".bias"), 21),
        ("layer2.*.conv1+fc", lambda n: n.startswith("fc.") or n[-14:] == ".conv1.kernel", None),
    ],
)
def test_a_selection_chooses_what_it_says(resnet, selection, chosen, count):
    by_stage, batch_stats = resnet
    found = groups.select(by_stage, selection, batch_stats)
    if count is None:
        assert found == {"layer2.0.conv1.kernel", "layer2.1.conv1.kernel", "fc.kernel", "fc.bias"}
        return
    assert found == {name for name in labels(by_stage) if chosen(name)}
    assert len(found) == count


def test_norms_of_a_network_without_batch_norm():
    by_stage = by_depth("convnext_atto")
    found = groups.select(by_stage, "norms")
    assert "stages.0.blocks.0.norm.scale" in found
    assert not any("conv" in name or ".fc" in name for name in found)
    with pytest.raises(ValueError, match="'batch_norm' .* matches no parameter"):
        groups.select(by_stage, "batch_norm")


def test_added_leaves_are_selected_alone():
    model = Adapted(TinyNet(), LoRA(rank=2))
    params = jax.eval_shape(model.init, jax.random.key(0), jax.numpy.zeros((1, 8, 8, 3)))["params"]
    found = groups.select(groups.by_head(params, ["fc"]), "added")
    assert found == {name for name in trees.names(params) if ".lora_" in name} != frozenset()


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("hed", r"'hed' of the selection 'hed' matches no parameter; did you mean 'head'\?"),
        ("head+layer4.*.conv9", r"did you mean 'layer4\.\d\.conv"),
        ("last:0", "must name 1 to 5 stages"),
        ("last:6", "must name 1 to 5 stages"),
        ("last:x", "must name 1 to 5 stages"),
        ("added", "'added' of the selection 'added' matches no parameter"),
    ],
)
def test_a_selection_of_nothing_is_an_error(resnet, selection, message):
    with pytest.raises(ValueError, match=message):
        groups.select(*resnet[:1], selection, resnet[1])


def test_stages_cannot_be_counted_where_there_are_none():
    params = randomised(TinyNet())["params"]
    with pytest.raises(ValueError, match="needs groups by depth"):
        groups.select(groups.by_head(params, ["fc"]), "last:1")
