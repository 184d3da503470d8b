"""Every option of augmentation and mixing changes what is computed; none is ignored."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from tl_jax.config import AugmentConfig
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.augment.mixing import make_mix_fn
from tl_jax.data.preprocess import Preprocess

PREPROCESS = Preprocess(size=(12, 16), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
OFF = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
# A value of each option other than its default, and the options that it needs to matter.
CHANGES = {
    "scale": ((0.1, 0.2), {}),
    "ratio": ((3.0, 4.0), {"scale": (0.2, 0.3)}),
    "horizontal_flip": (True, {}),
    "vertical_flip": (True, {}),
    "rotation": (90.0, {}),
    "shear": (40.0, {}),
    "zoom": ((0.3, 0.6), {}),
    "shift": (0.5, {}),
    "fill": ("wrap", {"shift": 0.5}),
    "policy": ("randaugment", {}),
    "policy_operations": (4, {"policy": "randaugment"}),
    "policy_magnitude": (29, {"policy": "randaugment"}),
    "policy_severity": (10, {"policy": "augmix"}),
    "brightness": (0.9, {}),
    "contrast": (0.9, {}),
    "saturation": (0.9, {}),
    "hue": (0.5, {}),
    "grayscale": (0.5, {}),
    "blur": (0.5, {}),
    "blur_sigma": ((3.0, 4.0), {"blur": 1.0}),
    "erase": (0.5, {}),
    "erase_area": ((0.8, 0.9), {"erase": 1.0}),
    "erase_ratio": ((2.0, 3.0), {"erase": 1.0}),
    "erase_fill": ("pixel", {"erase": 1.0}),
}
MIXING = {
    "mixup": (0.4, {}),
    "cutmix": (0.4, {}),
    "mix_switch": (0.3, {"mixup": 0.1, "cutmix": 0.2}),
    "mix_probability": (0.4, {"mixup": 0.1}),
}


def trace(function, *arguments) -> tuple[str, list[bytes]]:
    """Returns what a function computes: its traced program and the constants in it."""
    jaxpr = jax.make_jaxpr(function)(jax.random.key(0), *arguments)
    return str(jaxpr), [np.asarray(constant).tobytes() for constant in jaxpr.consts]


def trace_augment(options: AugmentConfig, preprocess: Preprocess = PREPROCESS):
    batch = {
        "image": jax.ShapeDtypeStruct((2, 16, 16, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((2, 2), np.int32),
    }
    return trace(make_augment_fn(options, preprocess), batch)


def test_the_lists_above_hold_every_option():
    known = [field.name for field in dataclasses.fields(AugmentConfig)]
    assert sorted([*CHANGES, *MIXING]) == sorted(known)


@pytest.mark.parametrize("field", CHANGES)
def test_every_option_of_augmentation_changes_the_program(field):
    value, others = CHANGES[field]
    before = dataclasses.replace(OFF, **others)
    after = dataclasses.replace(before, **{field: value})
    assert trace_augment(before) == trace_augment(before)
    assert trace_augment(before) != trace_augment(after)


@pytest.mark.parametrize(
    "change",
    [
        {"size": (16, 12)},
        {"mean": (0.3, 0.2, 0.1)},
        {"std": (0.5, 0.5, 0.5)},
        {"interpolation": "bilinear"},
        {"interpolation": "lanczos"},
    ],
)
def test_the_preprocessing_of_the_network_changes_the_program(change):
    assert trace_augment(OFF) != trace_augment(OFF, dataclasses.replace(PREPROCESS, **change))


def test_every_policy_is_another_program():
    policies = ("none", "randaugment", "trivialaugment", "augmix")
    traced = [trace_augment(dataclasses.replace(OFF, policy=policy)) for policy in policies]
    assert all(one != other for one, other in itertools.combinations(traced, 2))


@pytest.mark.parametrize("field", MIXING)
def test_every_option_of_mixing_changes_the_program(field):
    value, others = MIXING[field]
    arrays = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32), jax.ShapeDtypeStruct((2, 2), "f4")
    mix_fn = make_mix_fn(AugmentConfig(**(others | {field: value})))
    other_fn = make_mix_fn(AugmentConfig(**others))
    assert other_fn is None or trace(mix_fn, *arrays) != trace(other_fn, *arrays)
    assert trace(mix_fn, *arrays) == trace(mix_fn, *arrays)


def test_a_step_that_is_off_is_not_in_the_program():
    changes = {"fill": "wrap", "policy_operations": 5, "policy_magnitude": 3, "policy_severity": 1}
    changes |= {"blur_sigma": (1.0, 3.0), "erase_fill": "pixel", "erase_area": (0.1, 0.2)}
    assert trace_augment(dataclasses.replace(OFF, **changes)) == trace_augment(OFF)


@pytest.mark.parametrize(
    "field",
    [
        {"scale": (0.5, 1.5)},
        {"ratio": (2.0, 1.0)},
        {"rotation": -1.0},
        {"shear": 90.0},
        {"zoom": (0.0, 1.0)},
        {"shift": 15.0},
        {"fill": "mirror"},
        {"policy": "autoaugment"},
        {"policy_operations": 0},
        {"policy_magnitude": 31},
        {"policy_severity": 0},
        {"contrast": -0.1},
        {"hue": 0.6},
        {"grayscale": 1.1},
        {"blur": -0.1},
        {"blur_sigma": (0.0, 1.0)},
        {"erase_area": (0.5, 0.2)},
        {"erase_ratio": (0.0, 1.0)},
        {"erase_fill": "noise"},
    ],
)
def test_invalid_values_are_refused_and_named(field):
    with pytest.raises(
        ValueError, match=f"augment.*{next(iter(field))}.*(must be|are probabilities|expected)"
    ):
        AugmentConfig(**field)
