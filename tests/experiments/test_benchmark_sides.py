"""Tests that the timed programs and their peers in torch compute the same."""

import dataclasses

import jax
import pytest
import torch

from experiments.benchmarks import agreement, programs, torch_sides
from experiments.benchmarks.programs import Setting
from experiments.benchmarks.torch_sides import TorchOptions
from tl_jax.training import sharding

pytestmark = pytest.mark.slow


def setting(mode: str) -> Setting:
    """A small comparison; over fewer values BatchNorm would magnify rounding."""
    return Setting("cpu", "test_resnet", mode, batch_size=8, image_size=64)


@pytest.fixture
def peer():
    """timm's network with weights in which every layer counts."""
    return torch_sides.timm_model(setting("full"))


def our_run(mode, variables):
    program = programs.make_program(setting(mode), sharding.data_mesh(jax.devices()[:1]))
    compiled, stages = programs.compile_program(program, setting(mode))
    assert set(stages) == {"trace", "lower", "compile"}
    return programs.make_run(program, compiled, setting(mode), variables)


# Of what the others train, logits and gradients are compared below.
@pytest.mark.parametrize(
    "mode", ["full", *(pytest.param(mode, marks=pytest.mark.full) for mode in ("head", "lora"))]
)
def test_both_sides_take_the_same_three_steps(mode, peer):
    variables = agreement.from_timm(setting(mode), peer)
    ours = our_run(mode, variables)
    theirs = torch_sides.make_run(setting(mode), peer, TorchOptions())
    losses = [(ours(1), theirs(1)) for _ in range(3)]
    for one, other in losses:
        assert one == pytest.approx(other, rel=1e-4)
    assert len({one for one, _ in losses}) == 3  # Something is trained.


@pytest.mark.parametrize("mode", ["forward", "evaluation"])
def test_both_sides_compute_the_same_without_training(mode, peer):
    ours = our_run(mode, agreement.from_timm(setting(mode), peer))
    plain = torch_sides.make_run(setting(mode), peer, TorchOptions())
    fused = torch_sides.make_run(setting(mode), peer, TorchOptions(fuse=True))
    assert ours(2) == pytest.approx(plain(2), rel=1e-4)
    assert fused(1) == pytest.approx(plain(1), rel=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_every_batch_norm_of_the_peer_is_folded(name):
    network = torch_sides.timm_model(dataclasses.replace(setting("head"), model=name))
    images = torch.randn(2, 3, 64, 64)
    fused = torch_sides.fused(network, images)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
    torch.testing.assert_close(fused(images), network.eval()(images), rtol=1e-3, atol=1e-4)


def test_head_mode_of_the_peer_trains_the_classifier_alone(peer):
    forward, parameters = torch_sides.parts(peer, "head")
    forward(torch.zeros(2, 3, 32, 32)).sum().backward()
    assert {id(p) for p in parameters} == {id(p) for p in peer.fc.parameters()}
    assert [name for name, p in peer.named_parameters() if p.grad is not None] == [
        "fc.weight",
        "fc.bias",
    ]


@pytest.mark.parametrize("mode", ["head", "full", "lora"])
def test_equal_sides_differ_by_rounding_only(mode, peer):
    _, errors = agreement.checked(setting(mode), peer)
    assert 0 < errors["logits"] < 1e-5
    # In training a few pre-activations cross the kink of a ReLU.
    assert 0 < errors["gradients"] < {"head": 1e-5, "lora": 1e-4, "full": 1e-3}[mode]
    assert ("statistics" in errors) == (mode == "full")


def test_another_epsilon_is_noticed(peer):
    for module in peer.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    with pytest.raises(RuntimeError, match="the logits of tl_jax and torch differ by"):
        agreement.checked(setting("full"), peer)


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
        agreement.checked(setting("full"), peer)


def test_gradients_that_differ_where_the_logits_agree_are_noticed(peer):
    peer.layer1.register_full_backward_hook(lambda module, grads, outputs: (2 * grads[0],))
    with pytest.raises(RuntimeError, match=r"the gradients \(most of all that of conv1"):
        agreement.checked(setting("full"), peer)


def test_errors_by_group_are_those_of_the_stages(peer):
    outputs = agreement.torch_outputs(setting("full"), peer)
    moved = {
        name: array + (array if name.startswith("layer2.0") else 0)
        for name, array in outputs.gradients.items()
    }
    errors = agreement.errors_by_group(dataclasses.replace(outputs, gradients=moved), outputs)
    assert {group for group, error in errors.items() if error > 0} == {"layer2.0"}
    assert errors["layer2.0"] == pytest.approx(1.0)
