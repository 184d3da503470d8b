"""Tests of finding the source classes of new ones, and of carrying the classifier's rows over."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training.tiny import CLASSES, TinyNet, assert_equal_trees, batch, randomised
from tl_jax import trees
from tl_jax.heads.fused import Fused, Fusion
from tl_jax.heads.head import Linear
from tl_jax.models.registry import create_model
from tl_jax.objectives import metrics
from tl_jax.transfer import class_names as classes
from tl_jax.transfer.class_names import ClassMapping, match_classes
from tl_jax.weights.classes import class_names

IMAGENET = class_names(1000)


def sources(name: str, **options) -> tuple[int, ...]:
    (found,) = match_classes([name], IMAGENET, **options).sources
    return found


# ---- finding classes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tabby", (281,)),
        ("tabby, tabby cat", (281,)),
        ("Tabby_Cat", (281,)),
        ("tabby-cats", (281,)),
        ("tabbies", (281,)),
        ("Egyptian cat", (285,)),
        ("egyptian_cats", (285,)),
        ("jack o' lantern", (607,)),
        ("judges_robe", (400,)),
        ("great grey owl", (24,)),
        ("Great Gray Owls", (24,)),
        ("watches", ()),
        ("wine bottles", (907,)),
        ("foxes", ()),
        ("boxes", ()),
        ("mailboxes", (637,)),
        ("cat", ()),
        ("pole cat", ()),
        ("screen", (782,)),
        ("crosswords", (918,)),
        ("glass", ()),
        ("bus", ()),
        ("solar cell", ()),
        ("", ()),
        ("---", ()),
        ("crane", (134, 517)),
        ("Cranes", (134, 517)),
        ("maillot", (638,)),
        ("maillot, tank suit", (639,)),
        ("tank suit", (639,)),
        ("panda", (387, 388)),
        ("polecat", (358,)),
        ("polecats", (358,)),
        ("harp", (594,)),
        ("crayfish", (124,)),
        ("grass snake", (55, 57)),
        ("giant panda, lesser panda", (387, 388)),
    ],
)
def test_names_that_people_give(name, expected):
    assert sources(name) == expected


def test_imagenets_own_names_find_themselves_but_for_the_two_cranes():
    found = match_classes(IMAGENET, IMAGENET)
    others = [i for i, indices in enumerate(found.sources) if indices != (i,)]
    assert others == [134, 517]


def test_not_every_s_is_a_plural():
    names = ["gras", "cactu", "iri", "ga", "lens"]
    found = match_classes(["grass", "cactus", "iris", "gas", "len"], names)
    assert found.sources == ((), (), (), (), (4,))


def test_kinds_take_whole_words_at_the_end():
    cats = sources("cat", kinds=True)
    assert {281, 282, 283, 284, 285} <= set(cats)
    assert not {358, 286, 287} & set(cats)  # polecat, cougar, lynx
    assert sources("Cats", kinds=True) == cats
    assert sources("tiger", kinds=True) == (292,)  # No "tiger cat", and the exact name decides.
    assert sources("hunting dogs", kinds=True) == (275,)
    assert sources("watches", kinds=True) == (531, 826)


def test_given_goes_before_names():
    given = {"crane": 517, "cat": ["tabby", 282, "Egyptian cat"], "dog": "dalmatian", "tench": []}
    found = match_classes(["tench", "cat", "crane", "goldfish", "dog"], IMAGENET, given)
    assert found.sources == ((), (281, 282, 285), (517,), (1,), (251,))
    assert found.matched == ("cat", "crane", "goldfish", "dog")
    assert found.unmatched == ("tench",)
    assert found.is_matched.tolist() == [False, True, True, True, True]
    assert sources("cat", given={"cat": ("tabby", 281)}) == (281,)
    assert sources("cat", given={"cat": np.int64(5)}) == (5,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cta": 281}, "given for 'cta', which is none of the new classes; did you mean 'cat'"),
        ({"cat": "egyptain cat"}, "'egyptain cat'.* for 'cat' .*did you mean 'egyptian cat'"),
        ({"cat": ["tabby", "xyzzyx"]}, "'xyzzyx' that is given for 'cat' does not exist$"),
        ({"cat": 1000}, "'cat' is mapped to source class 1000; expected 0 to 999"),
        ({"cat": -1}, "source class -1"),
    ],
)
def test_misspelt_classes_are_errors(given, message):
    with pytest.raises(ValueError, match=message):
        match_classes(["cat"], IMAGENET, given)


def test_a_mapping_reads_well():
    found = match_classes(["crane", "solar cell", "Egyptian cat", "dust"], IMAGENET)
    assert str(found).splitlines() == [
        "2 of 4 classes start from the pretrained classifier",
        "  crane <- crane (134), crane (517)",
        "  Egyptian cat <- Egyptian cat (285)",
        "2 start fresh: solar cell, dust",
    ]
    assert "fresh" not in str(match_classes(["tench"], IMAGENET))


def test_a_mapping_of_another_length_is_refused():
    with pytest.raises(ValueError, match="sources of 1 classes, expected 2"):
        ClassMapping(("a", "b"), ("c",), ((0,),))


# ---- carrying rows

MAPPING = ClassMapping(("x", "y", "z", "w"), ("a", "b", "c"), ((2,), (), (0,), (0, 1)))


@pytest.mark.parametrize("shape", [(4, CLASSES), (1, 1, 4, CLASSES)])
def test_rows_are_carried_exactly_and_means_taken(shape):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=shape).astype("f"), rng.normal(size=CLASSES).astype("f")
    found, found_bias = classes.carry_rows(kernel, bias, MAPPING)
    assert found.shape == (*shape[:-1], 4)
    assert found.dtype == found_bias.dtype == jnp.float32
    for rows, carried in ((kernel, found), (bias, found_bias)):
        np.testing.assert_array_equal(carried[..., 0], rows[..., 2])
        np.testing.assert_array_equal(carried[..., 1], 0 * rows[..., 0])
        np.testing.assert_array_equal(carried[..., 2], rows[..., 0])
        np.testing.assert_allclose(carried[..., 3], (rows[..., 0] + rows[..., 1]) / 2, rtol=1e-6)


def test_rows_of_another_classifier_are_refused():
    with pytest.raises(ValueError, match=r"from 3 source classes.*shape \(4, 1000\)"):
        classes.carry_rows(np.zeros((4, 1000)), np.zeros(1000), MAPPING)


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18", "torchvision/squeezenet1_1"])
def test_a_new_network_has_the_old_logits(name):
    """The classifiers are dense layers, a convolution on features, and one on the map."""
    old, new = (create_model(name, num_classes=count) for count in (CLASSES, 2))
    variables = randomised(old, side=32)
    fresh = randomised(new, side=32, seed=1)["params"]
    images = batch(2, side=32)["image"]
    mapping = ClassMapping(("x", "y"), ("a", "b", "c"), ((2,), (0,)))
    params = classes.carry_classifier(variables["params"], old.classifier, mapping, like=fresh)
    old_head, backbone = trees.split(
        variables["params"], lambda n: trees.is_under(n, old.classifier)
    )
    head, rest = trees.split(params, lambda n: trees.is_under(n, old.classifier))
    _, fresh_rest = trees.split(fresh, lambda n: trees.is_under(n, old.classifier))
    assert_equal_trees(rest, fresh_rest)
    logits = jax.jit(old.apply)(variables, images)
    found = jax.jit(new.apply)({**variables, "params": trees.merge(backbone, head)}, images)
    assert logits.std() > 0
    # The rows have the same bits; a product of another width may be summed in another order.
    np.testing.assert_allclose(found, logits[:, [2, 0]], rtol=1e-5, atol=1e-6)
    for leaf in ("kernel", "bias"):
        rows, carried = (
            next(value for path, value in trees.flatten(tree).items() if path[-1] == leaf)
            for tree in (old_head, head)
        )
        np.testing.assert_array_equal(carried, rows[..., [2, 0]])


def test_unmatched_classes_start_as_the_new_network_draws_them():
    variables = randomised(TinyNet())
    fresh = {**variables["params"], "fc": {"kernel": jnp.full((4, 4), 7.0), "bias": jnp.ones(4)}}
    params = classes.carry_classifier(variables["params"], "fc", MAPPING, like=fresh)
    old = variables["params"]["fc"]
    carried, _ = classes.carry_rows(old["kernel"], old["bias"], MAPPING)
    np.testing.assert_array_equal(params["fc"]["kernel"][:, 1], np.full(4, 7))
    assert params["fc"]["bias"][1] == 1
    for i in (0, 2, 3):
        np.testing.assert_array_equal(params["fc"]["kernel"][:, i], carried[:, i])


def test_a_classifier_that_does_not_fit_is_refused():
    params = randomised(TinyNet())["params"]
    with pytest.raises(ValueError, match="no layer 'fcs'; did you mean 'fc'"):
        classes.carry_classifier(params, "fcs", MAPPING, like=params)
    with pytest.raises(ValueError, match=r"fc.kernel of the new network has shape \(4, 3\)"):
        classes.carry_classifier(params, "fc", MAPPING, like=params)


def test_a_mix_starts_from_the_mapping():
    model = Fused(TinyNet(), Fusion(Linear(4), "probabilities"))
    variables = randomised(model)
    head = jax.tree.map(jnp.zeros_like, variables["params"]["head"])
    params = classes.start_mix({**variables["params"], "head": head}, MAPPING)
    found = model.apply({**variables, "params": params}, batch()["image"])
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    odds = jax.nn.softmax(TinyNet().apply(backbone, batch()["image"]))
    expected = [odds[:, 2], 0 * odds[:, 0], odds[:, 0], (odds[:, 0] + odds[:, 1]) / 2]
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-3, atol=1e-6)
    two = dataclasses.replace(MAPPING, new_names=("x", "y"), sources=((0,), (1,)))
    with pytest.raises(ValueError, match=r"from 3 source classes to 2, but head.mix.kernel"):
        classes.start_mix(params, two)


# ---- before training


def test_unmatched_classes_are_never_predicted():
    logits = jnp.asarray([[-5.0, 9.0, -4.0, -6.0], [-50.0, 0.0, -60.0, -70.0]])
    found = classes.matched_logits(logits, MAPPING)
    assert np.argmax(found, -1).tolist() == [2, 0]
    np.testing.assert_array_equal(found[:, [0, 2, 3]], logits[:, [0, 2, 3]])
    assert np.isfinite(jax.nn.log_softmax(found)).all()
    nothing = dataclasses.replace(MAPPING, sources=((),) * 4)
    with pytest.raises(ValueError, match="none of the new classes has a source"):
        classes.matched_logits(logits, nothing)


def test_examples_of_unmatched_classes_count_as_wrong():
    confusion = [[3, 0, 1, 0], [2, 0, 2, 0], [0, 0, 2, 0], [0, 0, 0, 0]]
    found = classes.zero_shot(confusion, MAPPING)
    assert found == classes.ZeroShot(examples=10, of_matched_classes=6, correct=5)
    assert found.accuracy == 0.5
    assert found.matched_accuracy == pytest.approx(5 / 6)
    of_none = classes.zero_shot(np.array([[0] * 4, [1, 0, 0, 0], [0] * 4, [0] * 4]), MAPPING)
    assert of_none.accuracy == 0
    assert np.isnan(of_none.matched_accuracy)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (np.ones((4, 4)), "an unmatched class was predicted"),
        (np.ones((3, 3)), r"got shape \(3, 3\)"),
        (np.zeros((4, 4)), "a sum of 0"),
    ],
)
def test_a_confusion_matrix_that_cannot_be_is_refused(confusion, message):
    with pytest.raises(ValueError, match=message):
        classes.zero_shot(confusion, MAPPING)


def test_a_restricted_network_is_evaluated_in_the_place_of_the_network():
    variables = randomised(TinyNet())
    examples, mapping = batch(), ClassMapping(("x", "y", "z"), ("a", "b"), ((0,), (1,), ()))
    logits = classes.Restricted(TinyNet(), mapping).apply(variables, examples["image"])
    plain = np.array(TinyNet().apply(variables, examples["image"]))
    assert (plain.argmax(-1) == 2).any()
    plain[:, 2] = -np.inf
    np.testing.assert_array_equal(np.argmax(logits, -1), plain.argmax(-1))
    mask = jnp.ones(8, bool)
    confusion = metrics.confusion_matrix(logits, jnp.asarray(examples["label"]), mask)
    found = classes.zero_shot(confusion, mapping)
    assert found.examples == 8
    assert found.accuracy == np.mean(plain.argmax(-1) == examples["label"])
