"""Finding the source classes of new ones, by name or as given."""

import numpy as np
import pytest

from tl_jax.transfer.class_names import ClassMapping, match_classes
from tl_jax.weights.classes import class_names

IMAGENET = class_names(1000)


def sources(name: str, **options) -> tuple[int, ...]:
    (found,) = match_classes([name], IMAGENET, **options).sources
    return found


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


def test_endings_match_whole_words():
    cats = sources("cat", match_endings=True)
    assert {281, 282, 283, 284, 285} <= set(cats)
    assert not {358, 286, 287} & set(cats)  # polecat, cougar, lynx
    assert sources("Cats", match_endings=True) == cats
    assert sources("tiger", match_endings=True) == (
        292,
    )  # No "tiger cat", and the exact name decides.
    assert sources("hunting dogs", match_endings=True) == (275,)
    assert sources("watches", match_endings=True) == (531, 826)


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
        ({"cta": 281}, "given for 'cta', which is not one of the new classes; did you mean 'cat'"),
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
