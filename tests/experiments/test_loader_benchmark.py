"""The benchmark of the loader times its sides on the same files, and writes the result."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from experiments.benchmarks import loader
from experiments.benchmarks.loader import Setting, Side

SETTING = "--images 8 --batch-size 4 --workers 1 --small-images 300 --blocks 1"


def run(folder, *arguments):
    loader.main([*SETTING.split(), "--results", str(folder), *arguments])
    result = json.loads((folder / "loader.json").read_text())
    rates = result["images_per_second"]
    assert all(len(turns) == 1 and 0 < turns[0] < math.inf for turns in rates.values())
    assert {"date", "machine", "versions", "mean_file_bytes"} <= result.keys()
    return result


@pytest.mark.slow
def test_the_chosen_sides_are_timed_and_written(tmp_path, capsys):
    chosen = ["jpeg", "jpeg, stretched", "records", "memory", "device", "python", "decode", "small"]
    result = run(tmp_path, "--sides", *chosen)
    median = result["median_images_per_second"]
    assert list(median) == chosen
    assert result["ratios"] == {"jpeg over decode": median["jpeg"] / median["decode"]}
    assert "jpeg over decode" in capsys.readouterr().out


@pytest.mark.full
def test_all_sides_are_timed(tmp_path):
    median = run(tmp_path)["median_images_per_second"]
    assert {"dataloader", "dataloader, no jitter", "jpeg, processes"} <= median.keys()


def test_the_files_are_photographs_of_the_documented_size(tmp_path):
    loader.make_files(tmp_path, 10)
    paths = sorted(tmp_path.rglob("*.jpg"))
    images = [Image.open(path) for path in paths]
    assert len(images) == 10
    assert {max(image.size) for image in images} == {500}
    assert all(333 <= min(image.size) <= 375 for image in images)
    assert all(np.asarray(image).std() > 5 for image in images)
    assert {path.parent.name for path in paths} == {f"class {i}" for i in range(4)}


def test_the_warm_up_is_not_timed(monkeypatch):
    clock, taken = iter([10.0, 14.0]), []
    monkeypatch.setattr(loader.time, "perf_counter", lambda: next(clock))

    def start():
        return loader.contextlib.nullcontext(taken.append(i) or i for i in range(100))

    assert Side(start, batches=6, batch_size=2).rate(warm_up=3) == pytest.approx(6 * 2 / 4)
    assert len(taken) == 9
    assert Setting(8, 4, 2, 0, 1).warm_up > 2 + 1
