"""BiT's hyper-rule: the numbers of the authors' code, and schedules that follow from them."""

import itertools

import pytest

from tl_jax.training import optim
from tl_jax.transfer.hyper_rule import hyper_rule


@pytest.mark.parametrize(
    ("examples", "steps", "warmup", "boundaries", "mixup"),
    [
        (1, 500, 100, (200, 300, 400), 0.0),
        (19_999, 500, 100, (200, 300, 400), 0.0),
        (20_000, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
        (499_999, 10_000, 500, (3_000, 6_000, 9_000), 0.1),
        (500_000, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
        (1_281_167, 20_000, 500, (6_000, 12_000, 18_000), 0.1),
    ],
)
def test_the_schedule_follows_from_the_number_of_examples(
    examples, steps, warmup, boundaries, mixup
):
    rule = hyper_rule(examples, (224, 224))
    assert (rule.steps, rule.warmup_steps, rule.boundaries) == (steps, warmup, boundaries)
    assert rule.mixup == mixup
    assert (rule.batch_size, rule.learning_rate, rule.momentum) == (512, 0.003, 0.9)


@pytest.mark.parametrize(
    ("size", "resize", "crop"),
    [
        ((32, 32), 160, 128),
        ((95, 96), 160, 128),
        ((96, 96), 512, 480),
        ((48, 192), 512, 480),  # the area decides
        ((300, 300), 512, 480),
    ],
)
def test_the_resolution_follows_from_the_size_of_the_images(size, resize, crop):
    rule = hyper_rule(1000, size)
    assert (rule.resize, rule.crop) == (resize, crop)


def test_the_rate_scales_with_the_batch_and_the_steps_do_not():
    rule = hyper_rule(1000, (224, 224), batch_size=128)
    assert rule.learning_rate == pytest.approx(0.00075)
    assert (rule.batch_size, rule.steps) == (128, 500)


@pytest.mark.parametrize("examples", [1_000, 100_000, 1_000_000])
def test_its_fields_make_the_schedule_of_the_authors(examples):
    rule = hyper_rule(examples, (224, 224))
    rate = optim.schedule(
        "step",
        rule.learning_rate,
        total_steps=rule.steps,
        warmup_steps=rule.warmup_steps,
        boundaries=rule.boundaries,
        factor=0.1,
    )
    assert float(rate(rule.warmup_steps // 2 - 1)) == pytest.approx(0.0015)
    ends = (rule.warmup_steps, *rule.boundaries, rule.steps)
    for fallen, (first, end) in enumerate(itertools.pairwise(ends)):
        for step in (first, end - 1):
            assert float(rate(step)) == pytest.approx(0.003 / 10**fallen, rel=1e-5), step


def test_its_text_is_a_table():
    lines = str(hyper_rule(50_000, (32, 32))).splitlines()
    assert lines == [
        "data       medium",
        "images     resized to 160x160, cropped to 128x128",
        "steps      10,000 of 512 images",
        "warm-up    500 steps",
        "rate       0.003, divided by ten at step 3,000, 6,000, 9,000",
        "optimizer  SGD, momentum 0.9, no weight decay",
        "mixup      alpha 0.1",
    ]
    assert str(hyper_rule(1_000, (32, 32))).splitlines()[-1] == "mixup      none"


@pytest.mark.parametrize(
    ("examples", "size", "batch"), [(0, (32, 32), 8), (9, (0, 32), 8), (9, (32, 32), 0)]
)
def test_numbers_below_one_are_errors(examples, size, batch):
    with pytest.raises(ValueError, match="each must be at least 1"):
        hyper_rule(examples, size, batch_size=batch)
