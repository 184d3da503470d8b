"""Tests that the benchmark of the training step compares like with like, on any machine."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from experiments.benchmarks import train_step
from experiments.benchmarks.train_step import Setting

ROOT = Path(__file__).parents[2]
NOT_NEEDED = ("PIL", "array_record", "grain", "matplotlib", "tensorboardX", "tyro")


def setting(mode: str) -> Setting:
    """A small comparison; over fewer values BatchNorm would blow rounding up."""
    return Setting("cpu", "resnet18", mode, batch_size=4, image_size=64, steps=1, blocks=2)


@pytest.mark.parametrize("mode", ["head", "full"])
def test_both_sides_take_the_same_three_steps(mode):
    model = train_step.timm_model(setting(mode))
    jax_model = train_step.create_model("resnet18", num_classes=train_step.NUM_CLASSES)
    variables = train_step.from_state_dict(jax_model, model.state_dict())
    ours = train_step.make_jax_side(setting(mode), variables)
    peer = train_step.make_torch_side(setting(mode), model)
    losses = [(ours.run(1), peer.run(1)) for _ in range(3)]
    for one, other in losses:
        assert one == pytest.approx(other, rel=1e-4)
    assert len({one for one, _ in losses}) == 3  # Something is trained.


def test_head_mode_of_the_peer_trains_the_classifier_alone():
    model = train_step.timm_model(setting("head"))
    forward, parameters = train_step.torch_parts(model, "head")
    forward(train_step.torch.zeros(2, 3, 32, 32)).sum().backward()
    assert {id(p) for p in parameters} == {id(p) for p in model.fc.parameters()}
    assert [name for name, p in model.named_parameters() if p.grad is not None] == [
        "fc.weight",
        "fc.bias",
    ]


def test_sides_that_compute_different_steps_are_not_timed():
    train_step.check_losses({"tl_jax": 7.0, "torch": 7.0001}, 1e-4)
    with pytest.raises(RuntimeError, match="the first losses differ"):
        train_step.check_losses({"tl_jax": 7.0, "torch": 7.1}, 1e-4)


def test_the_result_is_written_with_its_machine_and_versions(tmp_path, capsys):
    sizes = "--batch-size 2 --image-size 32 --steps 1 --blocks 2".split()
    train_step.main(["--model", "resnet18", "--mode", "head", "--results", str(tmp_path), *sizes])
    result = json.loads((tmp_path / "train_step-cpu-resnet18-head.json").read_text())
    assert len(result["speed_over_torch_by_block"]) == 2
    assert result["versions"]["jax"] == jax.__version__
    assert result["machine"]["cores"] >= 1
    assert result["tl_jax"]["first_loss"] == pytest.approx(result["torch"]["first_loss"], rel=1e-4)
    assert {"median_seconds_per_step", "compile_seconds", "peak_bytes"} <= result["torch"].keys()
    assert "times as fast as torch" in capsys.readouterr().out


def test_the_benchmark_needs_no_data_libraries():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"
        "import experiments.benchmarks.train_step"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
