"""The benchmark of the loader times all sides on the same files, and writes what it found."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import loader
from experiments.benchmarks.loader import Setting, Side


def test_all_sides_are_timed_and_written(tmp_path, capsys):
    sizes = "--images 8 --batch-size 4 --workers 1 --small-images 300 --blocks 1"
    loader.main([*sizes.split(), "--results", str(tmp_path)])
    result = json.loads((tmp_path / "loader.json").read_text())
    rates = result["images_per_second"]
    assert all(len(turns) == 1 and 0 < turns[0] < math.inf for turns in rates.values())
    median = result["median_images_per_second"]
    assert result["ratios"]["jpeg over decode"] == median["jpeg"] / median["decode"]
    assert result["ratios"]["memory over dataloader"] == median["memory"] / median["dataloader"]
    assert {"date", "machine", "versions", "mean_file_bytes"} <= result.keys()
    assert "jpeg over dataloader" in capsys.readouterr().out


def test_the_files_are_photographs_of_the_size_that_is_said(tmp_path):
    loader.make_files(tmp_path, 10)
    paths = sorted(tmp_path.rglob("*.jpg"))
    images = [Image.open(path) for path in paths]
    assert len(images) == 10
    assert {max(image.size) for image in images} == {500}
    assert all(333 <= min(image.size) <= 375 for image in images)
    assert all(np.asarray(image).std() > 5 for image in images)
    assert {path.parent.name for path in paths} == {f"class {i}" for i in range(4)}


def test_what_is_not_counted_is_not_timed(monkeypatch):
    clock, taken = iter([10.0, 14.0]), []
    monkeypatch.setattr(loader.time, "perf_counter", lambda: next(clock))

    def begin():
        return loader.contextlib.nullcontext(taken.append(i) or i for i in range(100))

    assert Side(begin, batches=6, batch_size=2).rate(warm_up=3) == pytest.approx(6 * 2 / 4)
    assert len(taken) == 9
    assert Setting(8, 4, 2, 0, 1).warm_up > 2 + 1
