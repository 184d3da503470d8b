"""Runs whose examples have weights, and runs that keep the last checkpoint: all but a test set."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import CLASS_NAMES, change, leaves
from tl_jax.config import AugmentConfig, Config, DataConfig, TrainConfig
from tl_jax.run import journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run

pytestmark = pytest.mark.slow


def write_table(photos: Path, weight) -> str:
    """Writes a table of the photos; `weight` is a function of the class and the number."""
    rows = ["image,label,split,sure"]
    for split in ("train", "val", "test"):
        for name in CLASS_NAMES:
            for path in sorted((photos / split / name).iterdir()):
                sure = weight(name, int(path.stem)) if split != "test" else ""
                rows.append(f"{path.relative_to(photos)},{name},{split},{sure}")
    (photos / "table.csv").write_text("\n".join(rows))
    return f"manifest:{photos / 'table.csv'}"


@pytest.fixture
def config(tiny_config, photos) -> Config:
    """A short run on all photos but those of the test split, weighted by a column."""
    source = write_table(photos, lambda name, number: 1 if number % 2 else 0.25)
    config = change(
        tiny_config, "data", source=source, train_split="train+validation", eval_split=None,
        test_split="test", example_weights="sure",
    )  # fmt: skip
    return change(config, "train", head_epochs=0, epochs=2)


def test_the_last_checkpoint_is_reported_on_the_test_split_alone(config, tmp_path, capsys):
    workdir = tmp_path / "run"
    assert fit(config, workdir, stop_after_epoch=1) is None
    report = fit(config, workdir)
    assert (report["best_epoch"], report["epochs"], report["best_metric"]) == (2, 2, None)
    assert report["metrics"].keys() == {"test"} and report["metrics"]["test"]["count"] == 14
    assert report["calibration"] == report["calibrated_metrics"] == {}
    assert {record["split"] for record in journal.read(workdir)} == {"train"}
    run = load_run(workdir)
    newest = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    assert run.step == newest == 2 * Experiment.from_config(config).steps_per_epoch
    said = capsys.readouterr().err
    assert "the loss is weighted by 'sure': 0.25 to 1, mean 0.5833" in said
    assert "no record" not in said


def test_a_changed_weight_is_found_before_a_run_goes_on(config, photos, tmp_path):
    assert fit(config, tmp_path / "run", stop_after_epoch=1) is None
    before = leaves(tmp_path / "run")
    write_table(photos, lambda name, number: 0.5 if number == 1 else 1 if number % 2 else 0.25)
    message = r"train\+validation: 4 images with another weight: .*1\.png weighs 0\.5 now, was 1"
    with pytest.raises(ValueError, match=message):
        fit(config, tmp_path / "run")
    for one, other in zip(before, leaves(tmp_path / "run"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_weights_reach_the_loss_of_a_step(config, photos):
    def first_loss(config: Config) -> float:
        experiment = Experiment.from_config(config)
        (phase,) = experiment.phases
        batch = next(experiment.train_batches(0))
        _, metrics = experiment.compile_step(phase)(experiment.begin(phase, None), batch)
        return float(metrics["loss"])

    write_table(photos, lambda name, number: 2)
    plain = first_loss(change(config, "data", example_weights=None))
    assert first_loss(config) == pytest.approx(2 * plain, rel=1e-6)


def test_metrics_that_are_not_measured_stop_nothing():
    data = DataConfig(eval_split=None, test_split="test")
    with pytest.raises(ValueError, match=r"train\.patience needs metrics after each epoch"):
        Config(data=data, train=TrainConfig(patience=2))
    with pytest.raises(ValueError, match=r"train\.target needs metrics after each epoch"):
        Config(data=data, train=TrainConfig(target=0.5))
    with pytest.raises(ValueError, match=r"data\.eval_split and data\.test_split are both None"):
        DataConfig(eval_split=None)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_weights_and_mixing_exclude_each_other(name):
    data, augment = DataConfig(example_weights="sure"), AugmentConfig(**{name: 0.2})
    with pytest.raises(ValueError, match=rf"augment\.{name} and data\.example_weights 'sure' excl"):
        Config(data=data, augment=augment)
