"""Whole runs of the transfer methods: phases, classifier strategies, additions, averages, stops."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.run.test_fit import change, leaves, without_speed
from tl_jax import trees
from tl_jax.config import GroupConfig, PhaseConfig
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.evaluation.export import export_timm
from tl_jax.run import fit as loop
from tl_jax.run import journal
from tl_jax.run.experiment import prepare
from tl_jax.run.fit import fit
from tl_jax.run.folder import load_run
from tl_jax.run.lr_find import lr_find
from tl_jax.run.phases import gradual
from tl_jax.training.stopping import Stopping


def transfer(config, **fields):
    return change(config, "transfer", **fields)


def short(config):
    return change(config, "train", head_epochs=1, epochs=1)


# ---- phases


def test_gradual_unfreezing_ends_the_same_whether_it_was_stopped_or_not(tiny_config, tmp_path):
    phases = gradual(3, every=1, epochs=4)
    assert [phase.trained for phase in phases] == ["head", "head+last:1", "head+last:2", "all"]
    config = transfer(change(tiny_config, "train", ema=0.9), phases=phases)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    report = fit(config, whole)
    for epoch in (1, 2):
        assert fit(config, stopped, stop_after_epoch=epoch) is None
    assert fit(config, stopped) == report
    for one, other in zip(leaves(whole), leaves(stopped), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_speed(journal.read(whole)) == without_speed(journal.read(stopped))
    trained = list(report["trained_parameters"].values())
    assert trained == sorted(trained)
    assert trained[0] < trained[-1]


def test_what_stays_trained_keeps_its_moments_from_phase_to_phase(tiny_config, tmp_path):
    phases = (PhaseConfig(1, "head"), PhaseConfig(1, "head+last:1", learning_rate=0.0))
    config = transfer(tiny_config, phases=phases)
    parts = prepare(config)
    fit(config, tmp_path / "run", stop_after_epoch=1)
    with loop.Checkpoints(tmp_path / "run" / "checkpoints", best_metric="accuracy") as checkpoints:
        before, done = loop._resume(parts, checkpoints)
    begun = loop._begin(parts, parts.phases[1], before)
    assert done == 1
    old, new = _moments(before.opt_state), _moments(begun.opt_state)
    head = {name for name in new if "['fc']" in name}
    assert head <= old.keys()
    for name in head:
        np.testing.assert_array_equal(old[name], new[name])
        assert np.any(new[name])
    for name in new.keys() - head:
        assert not np.any(new[name])


def _moments(opt_state):
    found = jax.tree_util.tree_leaves_with_path(opt_state)
    return {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in found if leaf.ndim}


def test_the_plan_is_told_before_each_phase(tiny_config, tmp_path, capsys):
    config = transfer(
        short(tiny_config), groups=(GroupConfig("stage1", learning_rate=1e-4, weight_decay=0.3),)
    )
    fit(config, tmp_path / "run")
    err = capsys.readouterr().err
    lines = [line.split() for line in err.splitlines() if line.startswith(("stage1", "head "))]
    assert lines == [
        ["stage1", "5,744", "0", "-", "-", "frozen"],
        ["head", "34", "34", "0.01", "-", "-"],
        ["stage1", "5,744", "5,744", "0.0001", "0.3", "update"],
        ["head", "34", "34", "0.01", "-", "-"],
    ]


# ---- classifier strategies


def test_rows_of_the_pretrained_classifier_are_carried_over(tiny_config, tmp_path, capsys):
    config = transfer(
        short(tiny_config), classifier="load", class_mapping=("red ones=tabby|3", "grüne=7")
    )
    fit(config, tmp_path / "run", stop_after_epoch=1)
    report = fit(config, tmp_path / "run")
    assert "2 of 2 classes start from the pretrained classifier" in capsys.readouterr().err
    found = report["zero_shot"]
    assert found["examples"] == found["of_matched_classes"] == 10
    source = prepare(config).start
    kernel = source.variables["params"]["fc"]["kernel"]
    assert kernel.shape == (16, 2)
    assert np.any(kernel)
    # Though the run was stopped and resumed, the zero-shot accuracy is recorded once.
    assert [r["split"] for r in journal.read(tmp_path / "run")].count(loop.ZERO_SHOT) == 1


def test_classes_without_a_source_start_fresh_and_are_listed(tiny_config):
    config = transfer(tiny_config, classifier="load", class_mapping=("grüne=7",))
    parts = prepare(config)
    assert "1 start fresh: red ones" in parts.description
    kernel = parts.start.variables["params"]["fc"]["kernel"]
    fresh = list(parts.train.class_names).index("red ones")
    assert not np.any(kernel[:, fresh])
    assert np.any(kernel[:, 1 - fresh])
    scored = []
    loop._score_start(parts, SimpleNamespace(write=lambda *values: scored.append(values)))
    ((split, step, epoch, found),) = scored
    assert (split, step, epoch) == (loop.ZERO_SHOT, 0, 0)
    assert (found["examples"], found["of_matched_classes"]) == (10, 5)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (("grune=7",), r"'grune', which is none of the new classes; did you mean 'grüne'\?"),
        (("grüne=tabbby",), "'tabbby' that is given for 'grüne' does not exist; did you mean"),
        (("grüne:7",), "expected 'new class=source'"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(tiny_config, mapping, message):
    with pytest.raises(ValueError, match=message):
        prepare(transfer(tiny_config, classifier="load", class_mapping=mapping))


def test_a_fused_run_is_read_back_and_does_not_export(tiny_config, tmp_path):
    config = transfer(short(tiny_config), classifier="fuse")
    report = fit(config, tmp_path / "run")
    found = evaluate(tmp_path / "run", split="test")
    assert found["accuracy"] == report["metrics"]["test"]["accuracy"]
    with pytest.raises(ValueError, match="transfer.classifier='fuse'"):
        export_timm(tmp_path / "run", tmp_path / "out.safetensors")


def test_a_head_that_starts_from_class_means_is_right_before_training(tiny_config):
    for head in ("linear", "cosine"):
        config = transfer(change(tiny_config, "model", head=head), head_init="class_means")
        parts = prepare(config)
        found, _ = parts.evaluator(parts.start.variables, parts.train)
        assert found["accuracy"] > 0.9, head


# ---- additions


@pytest.mark.parametrize("adaptation", ["lora", "ssf", "adapters"])
def test_an_adapted_run_trains_resumes_and_exports(tiny_config, tmp_path, adaptation):
    config = transfer(
        change(tiny_config, "train", head_epochs=1, epochs=2),
        adaptation=adaptation,
        trained="head+added",
        batch_norm="affine_only",
        lora_rank=2,
    )
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    report = fit(config, whole)
    fit(config, stopped, stop_after_epoch=2)
    assert fit(config, stopped) == report
    run = load_run(whole)
    start = prepare(config).start.variables["params"]
    flat = trees.flatten(run.variables["params"])
    same = {p for p, leaf in trees.flatten(start).items() if np.array_equal(leaf, flat[p])}
    moved = {trees.dotted(path) for path in flat.keys() - same}
    assert moved
    assert all(n.startswith("fc.") or n.split(".")[-1][:4] in _PREFIXES for n in moved)
    if adaptation == "adapters":
        with pytest.raises(ValueError, match="cannot be merged"):
            export_timm(whole, tmp_path / "out.safetensors")
    else:
        assert "num_classes=2" in export_timm(whole, tmp_path / "out.safetensors")


_PREFIXES = ("lora", "ssf_", "adap")


# ---- what is evaluated


def test_an_average_is_what_is_evaluated_and_used(tiny_config, tmp_path):
    config = change(short(tiny_config), "train", ema=0.5)
    report = fit(config, tmp_path / "run")
    run = load_run(tmp_path / "run")
    raw = leaves(tmp_path / "run")
    averaged = jax.tree.leaves(run.variables)
    assert any(not any(np.array_equal(a, r) for r in raw[: len(averaged)]) for a in averaged)
    found = evaluate(tmp_path / "run", split="test")
    assert found["loss"] == pytest.approx(report["metrics"]["test"]["loss"], rel=1e-5)
    # The epochs were measured with it too.
    records = [r for r in journal.read(tmp_path / "run") if r["split"] == "val"]
    chosen = next(r for r in records if r["epoch"] == report["best_epoch"])
    assert chosen["loss"] == pytest.approx(report["metrics"]["val"]["loss"], rel=1e-5)


@pytest.mark.parametrize("when", ["before", "after"])
def test_statistics_are_estimated_anew(tiny_config, tmp_path, when):
    config = transfer(short(tiny_config), batch_norm="recalibrate", recalibrate=when)
    fit(config, tmp_path / "run")
    start = prepare(config).start.variables["batch_stats"]
    found = load_run(tmp_path / "run").variables["batch_stats"]
    for name in ("bn1", "layer2"):
        one, other = jax.tree.leaves(start[name]), jax.tree.leaves(found[name])
        assert not any(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_frozen_statistics_stand_still_in_every_phase(tiny_config, tmp_path):
    config = transfer(short(tiny_config), batch_norm="affine_only")
    fit(config, tmp_path / "run")
    start = prepare(config).start.variables["batch_stats"]
    found = load_run(tmp_path / "run").variables["batch_stats"]
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- stopping


def test_a_target_stops_the_run_and_is_told(tiny_config, tmp_path, capsys):
    config = change(tiny_config, "train", target=0.01, head_epochs=1, epochs=5)
    report = fit(config, tmp_path / "run")
    assert report["epochs"] == 1
    assert "reached the target 0.01 in epoch 1" in report["stopped"]
    assert "stopped after epoch 1 of 6" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "report.json").read_text()) == report


def test_patience_counts_in_the_last_phase_and_survives_a_stop(tiny_config, tmp_path):
    still = transfer(
        change(tiny_config, "train", patience=2, best_metric="loss"),
        phases=(
            PhaseConfig(3, "head", learning_rate=0.0),
            PhaseConfig(9, "head", learning_rate=0.0),
        ),
    )
    report = fit(still, tmp_path / "whole")
    assert report["epochs"] == 3 + 3
    losses = [r["loss"] for r in journal.read(tmp_path / "whole") if r["split"] == "val"]
    reason = f"no better loss for 2 epochs: the best is {losses[3]:.4g}, of epoch 4"
    assert report["stopped"] == reason
    fit(still, tmp_path / "stopped", stop_after_epoch=5)
    assert fit(still, tmp_path / "stopped") == report


def test_the_reason_is_the_rules(tiny_config):
    parts = prepare(tiny_config)
    rule = Stopping("accuracy", target=0.9)
    parts = dataclasses.replace(parts, config=change(tiny_config, "train", target=0.9))
    history = [0.5, 0.95]
    assert loop._reason_to_stop(parts, parts.phases[0], history) == rule.decide(history)


# ---- the finder


def test_the_finder_draws_a_curve_of_a_phase(tiny_config, tmp_path):
    file = tmp_path / "rate.png"
    curve, group = lr_find(tiny_config, file, phase=2, low=1e-5, high=1.0, steps=12)
    assert group == "head"  # of equal rates the first by name
    assert len(curve.rates) == len(curve.losses) <= 12
    assert file.stat().st_size > 5000
    with pytest.raises(ValueError, match="has 2 phase"):
        lr_find(tiny_config, file, phase=3)


def test_the_start_is_scored_once_whenever_the_run_is_killed(tiny_config, tmp_path, monkeypatch):
    config = transfer(
        short(tiny_config), classifier="load", class_mapping=("red ones=3", "grüne=7")
    )

    def die(*args):
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(loop, "_epoch", die)
            fit(config, tmp_path / "run")
    found = [record["split"] for record in journal.read(tmp_path / "run")]
    assert found == [loop.ZERO_SHOT]
