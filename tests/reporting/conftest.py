"""Finished runs to report on, of every kind of task and with hostile names, and a browser."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tl_jax
from tests.support import runs
from tests.support.browser import open_browser
from tests.support.runs import change

HOSTILE = "<script>alert(1)</script>"
QUOTED = '"><img src=x onerror=alert(1)>'


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A headless Chromium; its tests are skipped where there is none."""
    with open_browser(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="session")
def shared_other_run(shared_run, tmp_path_factory) -> runs.FinishedRun:
    config = change(shared_run.config, "optim", learning_rate=1e-5)
    return runs.finish_run(config, tmp_path_factory.mktemp("runs") / "other")


@pytest.fixture
def other_run(tiny_networks, shared_other_run) -> runs.FinishedRun:
    """A run as `finished_run` that has learned little; tests must not change its folder."""
    return shared_other_run


@pytest.fixture(scope="session")
def shared_hostile_run(shared_run, tmp_path_factory) -> runs.FinishedRun:
    folder = tmp_path_factory.mktemp("data") / "<i>hostile<i>"
    folder.mkdir()
    rows = [["image", "label", "split"]]
    for split, count in {"train": 16, "val": 4, "test": 6}.items():
        for index in range(count):
            name = f"<b>{split}{index}.png"
            Image.new("RGB", (32, 32), ["red", "green"][index % 2]).save(folder / name)
            rows.append([name, [HOSTILE, QUOTED][index % 2], split])
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    config = change(shared_run.config, "data", source=f"manifest:{folder / 'table.csv'}")
    return runs.finish_run(config, tmp_path_factory.mktemp("runs") / "<u>a & 'b'")


@pytest.fixture
def hostile_run(tiny_networks, shared_hostile_run) -> runs.FinishedRun:
    """A run whose classes, images and folders have markup as names; tests must not change it."""
    return shared_hostile_run


@pytest.fixture(scope="session")
def pages(
    shared_run, shared_other_run, shared_task_run, shared_hostile_run, tmp_path_factory
) -> dict[str, Path]:
    """Pages on one run, on two of the same data, on four tasks, and with hostile names."""
    of_pages = {
        "one": [shared_run],
        "several": [shared_run, shared_other_run],
        "tasks": [shared_task_run],
        "hostile": [shared_hostile_run, shared_run],
    }
    folder = tmp_path_factory.mktemp("pages")
    with runs.tiny_networks():
        for name, of_page in of_pages.items():
            paths = [run.workdir for run in of_page]
            tl_jax.report(paths, to=folder / f"{name}.html", gallery=2)
    return {name: folder / f"{name}.html" for name in of_pages}


@pytest.fixture
def rewritten(finished_run, tmp_path) -> Callable[..., Path]:
    """Copies the finished run, with other fields in its record and its report."""

    def rewrite(info: dict[str, Any], report: dict[str, Any]) -> Path:
        folder = shutil.copytree(finished_run.workdir, tmp_path / "rewritten")
        for name, fields in {"run.json": info, "report.json": report}.items():
            written = json.loads((folder / name).read_text())
            (folder / name).write_text(json.dumps(written | fields))
        return folder

    return rewrite
