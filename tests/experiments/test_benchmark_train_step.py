"""Tests that the benchmark of the training step compares like with like, on any machine."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import torch

from experiments.benchmarks import train_step
from experiments.benchmarks.train_step import Setting

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# What a machine with jax, flax, optax, orbax, torch, torchvision and timm alone does not have. timm
# itself reads images with PIL, so only what is imported before timm does without.
NOT_NEEDED = (
    "array_record", "matplotlib", "pyarrow", "simplejpeg", "tensorboardX",
    "tensorflow_datasets", "tqdm", "tyro",
)  # fmt: skip


def setting(mode: str) -> Setting:
    """A small comparison; over fewer values BatchNorm would magnify rounding."""
    return Setting("cpu", "test_resnet", mode, batch_size=8, image_size=64, steps=1, blocks=2)


@pytest.fixture
def peer():
    """timm's network with weights in which every layer counts."""
    return train_step.timm_model(setting("full"))


@pytest.mark.parametrize("mode", ["head", "full"])
def test_both_sides_take_the_same_three_steps(mode, peer):
    model = train_step.jax_model(setting(mode))
    variables = train_step.from_state_dict(model, peer.state_dict())
    ours = train_step.make_jax_side(setting(mode), variables)
    theirs = train_step.make_torch_side(setting(mode), peer)
    losses = [(ours.run(1), theirs.run(1)) for _ in range(3)]
    for one, other in losses:
        assert one == pytest.approx(other, rel=1e-4)
    assert len({one for one, _ in losses}) == 3  # Something is trained.


def test_head_mode_of_the_peer_trains_the_classifier_alone(peer):
    forward, parameters = train_step.torch_parts(peer, "head")
    forward(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert {id(p) for p in parameters} == {id(p) for p in peer.fc.parameters()}
    assert [name for name, p in peer.named_parameters() if p.grad is not None] == [
        "fc.weight",
        "fc.bias",
    ]


@pytest.mark.parametrize("mode", ["head", "full"])
def test_equal_sides_differ_by_rounding_only(mode, peer):
    errors = train_step.check_sides(setting(mode), peer)
    assert 0 < errors["logits"] < 1e-5
    # In training a few pre-activations cross the kink of a ReLU.
    assert 0 < errors["gradients"] < {"head": 1e-5, "full": 1e-3}[mode]


def test_another_epsilon_is_noticed(peer):
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(RuntimeError, match="the logits of tl_jax and torch differ by"):
        train_step.check_sides(setting("full"), peer)


def test_padding_on_the_wrong_side_is_noticed(peer):
    conv = next(
        module
        for module in peer.modules()
        if isinstance(module, torch.nn.Conv2d) and module.stride == (2, 2) and module.padding[0]
    )
    after = torch.nn.ZeroPad2d((0, 2 * conv.padding[1], 0, 2 * conv.padding[0]))
    conv.padding = (0, 0)
    conv.register_forward_pre_hook(lambda module, args: after(args[0]))
    with pytest.raises(RuntimeError, match="the logits of tl_jax and torch differ by"):
        train_step.check_sides(setting("full"), peer)


def test_gradients_that_differ_where_the_logits_agree_are_noticed(peer):
    peer.layer1.register_full_backward_hook(lambda module, grads, outputs: (2 * grads[0],))
    with pytest.raises(RuntimeError, match=r"the gradients \(most of all that of conv1"):
        train_step.check_sides(setting("full"), peer)


def test_the_result_is_written_with_its_machine_and_versions(tmp_path, capsys):
    sizes = "--batch-size 8 --image-size 64 --steps 1 --blocks 2".split()
    train_step.main(
        ["--model", "test_resnet", "--mode", "head", "--results", str(tmp_path), *sizes]
    )
    result = json.loads((tmp_path / "train_step-cpu-test_resnet-head.json").read_text())
    assert len(result["speed_over_torch_by_block"]) == 2
    assert result["versions"]["jax"] == jax.__version__
    assert result["machine"]["cores"] >= 1
    assert result["tl_jax"]["first_loss"] == pytest.approx(result["torch"]["first_loss"], rel=1e-4)
    assert result["relative_errors"]["gradients"] < 1e-4
    assert {"median_seconds_per_step", "compile_seconds", "peak_bytes"} <= result["torch"].keys()
    assert "times as fast as torch" in capsys.readouterr().out


def test_the_benchmarks_need_no_libraries_of_data_and_commands():
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"
        "from experiments.benchmarks import load_weights, train_step\n"
        "assert 'PIL' not in sys.modules\n"
        "setting = train_step.Setting('cpu', 'test_resnet', 'head', 2, 32, 1, 1)\n"
        "train_step.check_sides(setting, train_step.timm_model(setting))\n"
        "for benchmark in (load_weights, train_step):\n"
        "    try:\n"
        "        benchmark.main(['--help'])\n"
        "    except SystemExit as exit:\n"
        "        assert exit.code == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--model MODEL") == 2 * 2  # The usage, and the help.


def test_operators_that_torchvision_has_are_not_defined_again():
    # As where torchvision's compiled part works; a second definition would abort the process.
    code = (
        "import torch\n"
        "library = torch.library.Library('torchvision', 'DEF')\n"
        "for op in ('nms', 'qnms'):\n"
        "    library.define(f'{op}(Tensor dets, Tensor scores, float t) -> Tensor')\n"
        "from experiments.torch_peer import import_timm\n"
        "import_timm().create_model('test_resnet')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
