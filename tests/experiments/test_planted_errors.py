"""Planted errors are counted, and the runs of the two experiments on analysis are as stated."""

import numpy as np
import pytest

from experiments import planted_errors, robustness
from tl_jax.data.sources.arrays import from_arrays


def test_hits_are_counted_among_all_and_among_the_first():
    examples = [{"index": index} for index in (3, 8, 5, 1)]
    issues = {"examples": examples, "checked": 40, "estimated": 3.84}
    found = planted_errors.counted(issues, [1, 2, 3])
    assert (found["planted"], found["of"], found["suspected"], found["found"]) == (3, 40, 4, 2)
    assert (found["precision"], found["recall"]) == (0.5, pytest.approx(2 / 3))
    assert found["found_among_the_first_3"] == 1 and found["estimated"] == 3.8


def test_a_copy_counts_if_its_own_original_is_named():
    copies = {"exact": {0: 10, 1: 11}, "mirrored": {2: 12, 3: 13}}
    pairs = [{"index": i, "other": o} for i, o in ((0, 10), (2, 19), (3, 13), (7, 14))]
    found = planted_errors.duplicates_counted(pairs, copies)
    assert found["found"] == {"exact": "1 of 2", "mirrored": "1 of 2"}
    assert found["other_pairs"] == 2


def test_what_is_planted_is_in_the_file(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (200, 16, 16, 3), np.uint8)
    source = from_arrays(images, np.arange(200) % 4)
    monkeypatch.setattr(planted_errors, "open_source", lambda spec, split: source)
    monkeypatch.setattr(planted_errors, "COUNTS", {"digits": (100, 80)})
    planted = planted_errors.plant("digits", "digits", tmp_path, 0)
    written = np.load(tmp_path / "planted.npz")
    assert len(planted["train"]) == 5 and len(written["y_train"]) == 100
    known = {image.tobytes(): index % 4 for index, image in enumerate(images)}
    wrong = [
        place
        for place, image in enumerate(written["x_train"])
        if known[image.tobytes()] != written["y_train"][place]
    ]
    assert wrong == sorted(planted["train"])
    for kind, pairs in planted["copies"].items():
        assert len(pairs) == planted_errors.EACH
        for target, original in pairs.items():
            changed = planted_errors.COPIES[kind](written["x_train"][original])
            np.testing.assert_array_equal(written["x_test"][target], changed)
            assert written["y_test"][target] == written["y_train"][original]
            assert target not in planted["test"]


def test_the_baseline_of_robustness_trains_its_head_alone():
    whole, head = (
        robustness.config(trained=trained, shots=None, epochs=4, side=96)
        for trained in ("all", "head")
    )
    for config in (whole, head):
        assert config.train.head_epochs + config.train.epochs == 4
        assert config.data == whole.data and config.augment == whole.augment
    assert (whole.transfer.trained, head.transfer.trained) == ("all", "head")
