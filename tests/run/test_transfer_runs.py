"""Whole runs of the methods that add to a network: they train, resume, load and export."""

import numpy as np
import pytest

from tests.support.runs import change
from tl_jax import trees
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.export import export_timm
from tl_jax.run import journal
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run
from tl_jax.transfer.peft.base import is_added

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "adaptation", ["lora", "adapters", pytest.param("ssf", marks=pytest.mark.full)]
)
def test_an_adapted_run_trains_resumes_and_exports(tiny_config, tmp_path, adaptation):
    config = change(
        change(tiny_config, "train", head_epochs=0, epochs=2),
        "transfer",
        adaptation=adaptation,
        trained="head+added",
        batch_norm="affine_only",
        lora_rank=2,
    )
    assert fit(config, tmp_path / "run", stop_after_epoch=1) is None
    report = fit(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    initial = trees.flatten(Experiment.from_config(config).initial.variables)
    trained = trees.flatten(run.variables)
    moved = {path for path in trained if not np.array_equal(initial[path], trained[path])}
    names = {trees.dotted(path[1:]) for path in moved}
    assert {name for name in names if not is_added(name)} == {"fc.kernel", "fc.bias"}
    assert any(is_added(name) for name in names)
    assert report["metrics"]["test"]["count"] == 14
    if adaptation == "adapters":
        with pytest.raises(ValueError, match="cannot be merged"):
            export_timm(tmp_path / "run", tmp_path / "out.safetensors")
    else:
        assert "num_classes=2" in export_timm(tmp_path / "run", tmp_path / "out.safetensors")


def test_an_unfinished_fused_run_is_evaluated_and_does_not_export(tiny_config, tmp_path):
    config = change(tiny_config, "transfer", classifier="fuse")
    fit(config, tmp_path / "run", stop_after_epoch=1)
    metrics = evaluate(tmp_path / "run", split="val")
    (recorded,) = [r for r in journal.read(tmp_path / "run") if r["split"] == "val"]
    assert metrics["loss"] == pytest.approx(recorded["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="transfer.classifier='fuse'"):
        export_timm(tmp_path / "run", tmp_path / "out.safetensors")


@pytest.mark.parametrize("cache", ["device", "none"])
def test_a_cache_changes_nothing_but_the_time(finished_run, tmp_path, cache):
    config = change(finished_run.config, "data", cache=cache)
    fit(config, tmp_path / cache, stop_after_epoch=1)
    for actual, expected in zip(
        journal.read(tmp_path / cache), journal.read(finished_run.workdir), strict=False
    ):
        assert actual["loss"] == expected["loss"]
