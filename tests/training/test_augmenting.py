"""The options of augmentation reach what augments and mixes: none is accepted and ignored."""

import dataclasses

import jax
import numpy as np
import pytest

from tl_jax.config import AugmentConfig
from tl_jax.data.augment.augment import augment
from tl_jax.data.preprocess import Preprocess
from tl_jax.training.augmenting import mix_of, prepare_of

HOW = Preprocess(size=(12, 16), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
STILL = AugmentConfig(scale=(1.0, 1.0), ratio=(1.0, 1.0), horizontal_flip=False)
# Of each option a value other than its default, and what else must be on for it to matter.
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
MIXING = {"mixup": 0.1, "cutmix": 0.2, "mix_switch": 0.3, "mix_probability": 0.4}


def program(options: AugmentConfig) -> tuple[str, list[bytes]]:
    """Returns what is computed with these options: the traced program and its constants."""
    batch = {
        "image": jax.ShapeDtypeStruct((2, 16, 16, 3), np.uint8),
        "size": jax.ShapeDtypeStruct((2, 2), np.int32),
    }
    made = jax.make_jaxpr(prepare_of(options, HOW))(jax.random.key(0), batch)
    return str(made), [np.asarray(constant).tobytes() for constant in made.consts]


def test_every_option_is_tried_below():
    known = [field.name for field in dataclasses.fields(AugmentConfig)]
    assert sorted([*CHANGES, *MIXING]) == sorted(known)


@pytest.mark.parametrize("field", CHANGES)
def test_every_option_changes_what_is_computed(field):
    value, others = CHANGES[field]
    before = dataclasses.replace(STILL, **others)
    after = dataclasses.replace(before, **{field: value})
    assert program(before) == program(before)
    assert program(before) != program(after)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_prepared_for_the_network(monkeypatch, interpolation):
    how = dataclasses.replace(HOW, interpolation=interpolation)
    asked = []
    monkeypatch.setattr(augment, "augment", lambda *args, **options: asked.append((args, options)))
    prepare_of(STILL, how)("key", {"image": "images", "size": "sizes", "label": "labels"})
    assert asked == [
        (
            ("key", "images", "sizes"),
            {
                "options": STILL,
                "size": (12, 16),
                "mean": (0.1, 0.2, 0.3),
                "std": (0.4, 0.5, 0.6),
                "interpolation": interpolation,
            },
        )
    ]


def test_every_option_of_mixing_reaches_it():
    assert mix_of(AugmentConfig(**MIXING)).keywords == {
        "mixup": 0.1,
        "cutmix": 0.2,
        "switch": 0.3,
        "probability": 0.4,
    }
