"""The comparison of strategies: its methods, its rows, its tables, and the stamps that it reads."""

import dataclasses
import io
import json
import math
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments import strategies, strategies_report, strategies_run, strategies_stamps
from tl_jax import config as configuration
from tl_jax.config import AugmentConfig, Config, DataConfig
from tl_jax.transfer.class_names import match_classes
from tl_jax.weights.classes import class_names

DATA = (DataConfig(), AugmentConfig())


def row(method="full", rate=1e-3, seed=0, accuracy=0.8, loss=0.5, set_name="elpv"):
    found = {"accuracy": accuracy, "balanced_accuracy": accuracy, "loss": loss, "count": 50}
    return {
        "set": set_name,
        "method": method,
        "rate": rate,
        "seed": seed,
        "validation": found,
        "test": found,
        "trained_parameters": 1234,
        "seconds": 10.0,
        "seconds_in_all": 20.0,
        "step_mib": None if seed else 64.0,
        "peak_mib": 900.0,
        "zero_shot": None,
        "platform": "cpu",
    }


def stamps_tree(root, counts):
    """Writes stamps: a red square in the middle of a transparent, broad picture."""
    for label, count in counts.items():
        (root / label / "kind").mkdir(parents=True)
        for i in range(count):
            image = Image.new("RGBA", (40 + i, 20), (0, 0, 0, 0))
            image.paste((255, 0, 0, 255), (15, 5, 25, 15))
            image.save(root / label / "kind" / f"{i}.png")
    return root


def deb_of(root, path):
    """Packs a folder of stamps as a Debian package has them, between members of odd sizes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as archive:
        archive.add(root, "./usr/share/tuxpaint/stamps")
        # Another file that is no stamp.
        archive.add(next(root.rglob("*.png")), "./usr/share/doc/logo.png")
    members = {"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": buffer.getvalue()}
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("method", strategies.METHODS.values(), ids=lambda m: m.name)
def test_every_method_is_a_valid_configuration_with_the_same_epochs(method):
    config = strategies.configured(method, DATA, rate=2e-3, seed=1)
    assert configuration.from_json(configuration.to_json(config)) == config
    phases = config.transfer.phases
    epochs = sum(phase.epochs for phase in phases) if phases else config.train.epochs
    assert epochs == strategies.EPOCHS and config.train.seed == 1
    # Otherwise a phase would have no epoch that does not compile.
    assert all(phase.epochs >= 2 for phase in phases)


def test_methods_differ_in_what_is_compared():
    configs = [
        strategies.configured(m, DATA, rate=1e-3, seed=0) for m in strategies.METHODS.values()
    ]
    assert len(set(configs)) == len(configs)


def test_rates_are_chosen_by_validation_and_loss_breaks_a_tie():
    rows = [
        row(rate=1e-4, accuracy=0.7),
        row(rate=1e-3, accuracy=0.8, loss=0.6),
        row(rate=1e-2, accuracy=0.8, loss=0.5),
        row("lora", rate=1e-3, accuracy=0.1),
    ]
    assert strategies.best_rates(rows) == {"full": 1e-2, "lora": 1e-3}


def test_rates_are_searched_on_each_methods_first_set():
    cells = [("elpv", "full"), ("stamps", "full"), ("stamps", "load")]
    assert strategies.searched(cells) == [("elpv", "full"), ("stamps", "load")]


def test_interval_is_students():
    low, high = strategies_report.interval([0.7, 0.8, 0.9])
    assert (low, high) == pytest.approx(
        (0.8 - 4.3027 * 0.1 / math.sqrt(3), 0.8 + 0.24842), abs=1e-4
    )
    assert strategies_report.interval([0.7]) is None


def test_tables_hold_means_intervals_and_failures(tmp_path):
    rows = [row(seed=s, accuracy=a) for s, a in enumerate((0.7, 0.8, 0.9))]
    rows += [row("load", set_name="stamps")]
    titles = {"full": "full (replace)", "load": "load"}
    summary = {
        "protocol": {
            **dict.fromkeys(("model", "image_size", "epochs", "batch_size", "seeds"), 3),
            "jobs": 2,
        },
        "left_out": {"elpv/load": "no class"},
        "methods": strategies_report.summarize(rows, titles),
        "search": [],
        "failures": {"elpv-lora-0.1-0": "FloatingPointError: nan"},
    }
    page = tmp_path / "page.md"
    page.write_text(f"before\n{strategies_report.BEGIN}\nold\n{strategies_report.END}\nafter\n")
    strategies_report.write(summary, tmp_path, page)
    text = page.read_text()
    assert (
        "| full (replace) | 0.800 | 0.552 to 1.048 | 0.800 | 1,234 | 0.001 | 10 (20) | 64 |" in text
    )
    assert "on one core" in text and "no class" in text and "FloatingPointError: nan" in text
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert json.loads((tmp_path / "strategies.json").read_text())["methods"]["stamps"]
    with Image.open(tmp_path / "strategies.png") as picture:
        assert picture.width > 800
    with pytest.raises(ValueError, match="add both lines"):
        strategies_report.with_tables("no markers", "tables")


def test_the_committed_page_takes_the_tables():
    text = strategies.DOCS.read_text()
    assert "a | b" in strategies_report.with_tables(text, "a | b")


def test_seconds_leave_out_the_epochs_that_compile():
    speeds = {1: 1.0, 2: 20.0, 3: 1.0, 4: 40.0, 5: 40.0}
    losses = [{"epoch": float(e), "images_per_second": s} for e, s in speeds.items()]
    losses.insert(0, {"epoch": 0.5, "images_per_second": 7.0})  # Within an epoch.

    def phases(*ends):
        return [
            SimpleNamespace(start_epoch=a, end_epoch=b, epochs=b - a)
            for a, b in zip((0, *ends), ends, strict=False)
        ]

    found = strategies_run.training_seconds(losses, phases(2, 5), 400)
    assert found == pytest.approx(2 * 20 + 3 * 10)
    assert strategies_run.training_seconds(losses, phases(1, 5), 400) is None


def result(run) -> str:
    return json.dumps({"test": {"accuracy": 0.5}, "of": run.seed})


def test_rows_are_kept_and_stale_ones_are_not(tmp_path):
    launched = []

    def launch(job):
        launched.append(job.run.seed)
        if job.run.seed == 2:
            job.log.write_text("Traceback\nValueError: no\n")
            return 1
        job.row.write_text(result(job.run))
        return 0

    bench = strategies_run.Bench(tmp_path / "rows", tmp_path / "work", 1, launch)
    runs = [strategies_run.Run("elpv", "full", 1e-3, seed, Config()) for seed in (0, 1, 2)]
    assert [row["of"] for row in bench.rows(runs)] == [0, 1]
    assert bench.failures(runs) == {"elpv-full-0.001-2": "ValueError: no"}
    bench.rows(runs)
    assert launched == [0, 1, 2, 2]  # What failed is repeated, what is done is not.
    changed = dataclasses.replace(runs[0], config=Config(data=DataConfig(batch_size=8)))
    bench.rows([changed])
    assert launched == [0, 1, 2, 2, 0]


def test_runs_side_by_side_share_no_file(tmp_path):
    """The dot of a rate is no suffix: these two differ behind it."""
    jobs = []

    def launch(job):
        jobs.append(job)
        return 1

    bench = strategies_run.Bench(tmp_path / "rows", tmp_path / "work", 1, launch)
    runs = [strategies_run.Run("elpv", "full", rate, 0, Config()) for rate in (1e-3, 3e-4)]
    assert bench.rows(runs) == []
    files = [{job.config, job.row, job.log, job.folder} for job in jobs]
    assert [len(own) for own in files] == [4, 4]
    assert files[0] & files[1] == set()


@pytest.mark.slow
def test_a_run_that_fails_is_noted_and_the_next_goes_on(tmp_path):
    bad = Config(data=DataConfig(source=f"folder:{tmp_path / 'absent'}"))
    bench = strategies_run.Bench(tmp_path / "rows", tmp_path / "work", 1)
    runs = [strategies_run.Run("elpv", "full", 1e-3, 0, bad)]
    assert bench.rows(runs) == []
    assert "FileNotFoundError" in bench.failures(runs)["elpv-full-0.001-0"]


@pytest.mark.slow
def test_a_run_is_measured(tiny_config, tmp_path):
    train = dataclasses.replace(tiny_config.train, log_every=1000)
    config = dataclasses.replace(tiny_config, train=train)
    found = strategies_run.measured_run(config, tmp_path / "run", step_memory=True)
    assert found["test"]["count"] == 14 and found["validation"]["count"] == 10
    assert found["trained_parameters"] > 1000
    assert 0 < found["seconds"] < found["seconds_in_all"]
    assert 0 < found["step_mib"] < found["peak_mib"]


def test_stamps_are_the_same_from_folder_and_package(tmp_path):
    counts = {"animals": 30, "food": 20, "space": 19}
    tree = stamps_tree(tmp_path / "tree", counts)
    package = deb_of(tree, tmp_path / "stamps.deb")
    from_folder = strategies_stamps.write_pictures(tree, tmp_path / "one")
    from_package = strategies_stamps.write_pictures(package, tmp_path / "two")
    names = [p.relative_to(from_folder) for p in sorted(from_folder.rglob("*.png"))]
    assert names == [p.relative_to(from_package) for p in sorted(from_package.rglob("*.png"))]
    assert len(names) == 50 and not (from_folder / "train" / "space").exists()
    assert len(list((from_folder / "test").rglob("*.png"))) == 20
    assert "space (19)" in strategies_stamps.describe(from_folder)
    mapping = strategies_stamps.class_mapping(from_folder)
    assert [entry.partition("=")[0] for entry in mapping] == ["animals", "food"]


def test_stamps_lie_on_white_squares():
    image = Image.new("RGBA", (300, 100), (10, 20, 30, 0))
    image.paste((255, 0, 0, 255), (100, 0, 200, 100))
    pixels = np.asarray(strategies_stamps.on_white(image))
    assert pixels.shape == (128, 128, 3)
    np.testing.assert_array_equal(pixels[[5, 64], [64, 5]], 255)
    np.testing.assert_array_equal(pixels[64, 64], [255, 0, 0])


def test_stamps_that_are_missing_or_unfit_say_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="apt-get download tuxpaint-stamps-default"):
        strategies_stamps.write_pictures(tmp_path / "none", tmp_path / "out")
    few = stamps_tree(tmp_path / "few", {"animals": 30, "food": 3})
    with pytest.raises(ValueError, match="33 pictures in 2 folders, of which 1"):
        strategies_stamps.write_pictures(few, tmp_path / "out")
    other = tmp_path / "other.deb"
    other.write_bytes(b"PK")
    with pytest.raises(ValueError, match="not a Debian package"):
        strategies_stamps.write_pictures(other, tmp_path / "out")


def test_every_source_class_of_the_stamps_is_one_of_imagenets():
    for sources in strategies_stamps.IMAGENET_SOURCES.values():
        match_classes(["x"], class_names(1000), {"x": sources.split("|")})
