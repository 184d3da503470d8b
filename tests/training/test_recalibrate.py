"""Recalibration: pooled moments by their definition and against torch, and what must not move."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn

from experiments.torch_peer import import_timm
from tests.support import devices
from tests.support.tiny import TinyNet, assert_equal_trees, batch, randomised
from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.outputs import features
from tl_jax.models.registry import create_model
from tl_jax.models.variables import from_state_dict
from tl_jax.training import recalibrate
from tl_jax.training.ahead import STEPS_AHEAD
from tl_jax.training.recalibrate import Moments

pytestmark = pytest.mark.slow

# Their brightness differs from batch to batch, so that the means of batches do too.
UNEQUAL = [devices.unequal_images(size, seed) for size, seed in ((8, 0), (8, 1), (3, 2))]


def inputs_of(model, variables, layer: str) -> np.ndarray:
    """Returns all values that a layer puts out in evaluation mode on the batches, by channel."""
    maps = [features(model, variables, x, at=[layer])[layer] for x in UNEQUAL]
    return np.concatenate([np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in maps])


def assert_moments(stats, values: np.ndarray) -> None:
    np.testing.assert_allclose(stats["mean"], values.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats["var"], values.var(0, ddof=1), rtol=1e-5)


# ---- what the statistics are


def test_statistics_are_the_moments_of_all_values_and_a_smaller_batch_counts_less():
    model = TinyNet()
    variables = randomised(model)
    found = recalibrate.recalibrate(model, variables, UNEQUAL)
    assert_moments(found["batch_stats"]["bn1"], inputs_of(model, variables, "conv1"))


def test_it_waits_for_all_batches_but_the_last_ones(monkeypatch):
    """On several CPU devices XLA can come to a standstill where too many programs are under way."""
    model, waited = TinyNet(), []
    wait = jax.block_until_ready
    monkeypatch.setattr(jax, "block_until_ready", lambda x: waited.append(x) or wait(x))
    recalibrate.recalibrate(model, randomised(model), 6 * UNEQUAL[:1])
    assert len(waited) >= 6 - STEPS_AHEAD


def test_a_chosen_layer_sees_what_the_others_give_in_evaluation_mode():
    model = TinyNet()
    variables = randomised(model)
    found = recalibrate.recalibrate(model, variables, UNEQUAL, names=["block"])
    assert_moments(found["batch_stats"]["block"]["bn"], inputs_of(model, variables, "block.conv"))
    assert_equal_trees(found["batch_stats"]["bn1"], variables["batch_stats"]["bn1"])


def torchs_statistics(peer: torch.nn.Module, batches: list[np.ndarray]):
    """Returns torch's mean by layer, and its variance with that of the batches' means added.

    torch averages the unbiased variances of the batches. For k batches of n values each the
    pooled one is ((n - 1) k average + n sum of squares of the means about theirs) / (n k - 1).
    """
    means: dict[str, list[torch.Tensor]] = {}
    counts: dict[str, int] = {}

    def record(name: str, x: torch.Tensor) -> None:
        means.setdefault(name, []).append(x.mean((0, 2, 3)))
        counts[name] = x.numel() // x.shape[1]

    norms = {n: m for n, m in peer.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for name, module in norms.items():
        module.register_forward_pre_hook(lambda _, x, name=name: record(name, x[0]))
    loader = [torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))) for x in batches]
    with torch.no_grad():
        torch.optim.swa_utils.update_bn(loader, peer)
    expected = {}
    for name, module in norms.items():
        n, k = counts[name], len(batches)
        spread = (torch.stack(means[name]) - module.running_mean).square().sum(0)
        var = ((n - 1) * k * module.running_var + n * spread) / (n * k - 1)
        expected[name] = (module.running_mean.numpy(), var.numpy())
    return expected


def test_statistics_of_a_resnet_are_torchs_but_for_the_variance_between_batches():
    timm = import_timm()
    torch.manual_seed(0)
    peer = timm.create_model("test_resnet", num_classes=3)
    model = create_model("test_resnet", num_classes=3)
    variables = from_state_dict(model, peer.state_dict())
    batches = [batch(8, side=32, seed=seed)["image"] + seed for seed in range(3)]
    expected = torchs_statistics(peer, batches)
    found = recalibrate.recalibrate(model, variables, batches)["batch_stats"]
    flat = {trees.dotted(path): leaf for path, leaf in trees.flatten(found).items()}
    assert len(flat) == 2 * len(expected) > 10
    for name, (mean, var) in expected.items():
        scale = np.sqrt(var.max())
        np.testing.assert_allclose(flat[f"{name}.mean"], mean, atol=1e-5 * scale, err_msg=name)
        np.testing.assert_allclose(flat[f"{name}.var"], var, rtol=1e-4, err_msg=name)


class Twice(nn.Module):
    """One layer that is called on two inputs."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        bn = layers.BatchNorm(name="bn")
        return bn(x, train=train) + bn(2 * x + 1, train=train)


def test_a_layer_that_is_called_twice_pools_its_calls():
    variables = randomised(Twice())
    found = recalibrate.recalibrate(Twice(), variables, UNEQUAL)
    values = np.concatenate([x.astype(np.float64).reshape(-1, 3) for x in UNEQUAL])
    assert_moments(found["batch_stats"]["bn"], np.concatenate([values, 2 * values + 1]))


class Evo(nn.Module):
    """A layer with a running variance alone, and one that has it but never uses it."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        x = layers.EvoNormB0(name="evo")(x, train=train)
        return layers.EvoNormB0(activate=False, name="plain")(x, train=train)


def test_a_layer_with_a_running_variance_alone_gets_that():
    variables = randomised(Evo())
    found = recalibrate.recalibrate(Evo(), variables, UNEQUAL)["batch_stats"]
    values = np.concatenate([x.astype(np.float64).reshape(-1, 3) for x in UNEQUAL])
    np.testing.assert_allclose(found["evo"]["var"], values.var(0, ddof=1), rtol=1e-5)
    assert_equal_trees(found["plain"], variables["batch_stats"]["plain"])


def test_pooling_many_batches_loses_no_digits():
    rng = np.random.default_rng(0)
    values = rng.normal(100.0, 0.1, (400, 64, 2))
    total = None
    compiled = jax.jit(recalibrate.pool)
    for part in values.astype(np.float32):
        exact = part.astype(np.float64)
        part_moments = Moments(
            jnp.float32(exact.mean(0)), jnp.float32(exact.var(0)), jnp.float32(64)
        )
        total = part_moments if total is None else compiled(total, part_moments)
    flat = values.astype(np.float32).astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(total.mean, flat.mean(0), rtol=1e-6)
    np.testing.assert_allclose(total.var, flat.var(0), rtol=1e-3)
    assert total.num_values == len(flat)


# ---- what stays as it is


def test_nothing_else_changes():
    model = TinyNet()
    variables = randomised(model)
    before = jax.tree.map(np.array, variables)
    found = recalibrate.recalibrate(model, variables, UNEQUAL)
    assert_equal_trees(found["params"], before["params"])
    assert_equal_trees(variables, before)
    for path, leaf in trees.flatten(found["batch_stats"]).items():
        assert np.all(leaf != trees.flatten(before["batch_stats"])[path]), path


def test_nothing_is_dropped_and_no_random_key_is_needed():
    variables = randomised(TinyNet())
    plain = recalibrate.recalibrate(TinyNet(), variables, UNEQUAL)
    dropping = TinyNet(drop_rate=0.5, drop_path_rate=0.5)
    assert_equal_trees(recalibrate.recalibrate(dropping, variables, UNEQUAL), plain)


def lowered(variables) -> str:
    def train(variables, x):
        return TinyNet().apply(variables, x, train=True, mutable=["batch_stats"])

    return jax.jit(train).lower(variables, UNEQUAL[0]).as_text()


def test_a_training_step_that_does_not_ask_for_moments_is_the_same_program(monkeypatch):
    variables = randomised(TinyNet())
    asked = TinyNet().apply(
        variables, UNEQUAL[0], train=True, mutable=["batch_stats", "batch_moments"]
    )[1]
    assert {path[:-1] for path in trees.flatten(asked["batch_moments"])} == {
        ("bn1",),
        ("block", "bn"),
    }
    program = lowered(variables)
    monkeypatch.setattr(layers.BatchNorm, "sow", lambda self, *what: False)
    assert lowered(variables) == program


# ---- over devices


def test_over_devices_the_moments_are_those_of_the_global_batch(on_four):
    model = TinyNet()
    expected = recalibrate.recalibrate(model, randomised(model), UNEQUAL[:2])["batch_stats"]
    with np.load(on_four / "stats.npz") as found:
        for one, other in zip(found.values(), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


# ---- errors


def test_a_pattern_that_matches_no_layer_is_an_error_that_names_the_nearest():
    model = TinyNet()
    with pytest.raises(ValueError, match=r"'bn2' matches no layer.*did you mean 'bn1'\?"):
        recalibrate.recalibrate(model, randomised(model), UNEQUAL, names=["block", "bn2"])


def test_no_batch_is_an_error():
    model = TinyNet()
    with pytest.raises(ValueError, match="no batch"):
        recalibrate.recalibrate(model, randomised(model), iter([]))


def test_layers_that_take_no_part_in_training_are_an_error_if_there_are_no_others():
    with pytest.raises(ValueError, match="none of the chosen layers takes part"):
        recalibrate.recalibrate(Evo(), randomised(Evo()), UNEQUAL, names=["plain"])


def test_a_network_without_running_statistics_is_an_error():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
            return layers.LayerNorm(name="norm")(x, train=train)

    with pytest.raises(ValueError, match="has no running statistics"):
        recalibrate.recalibrate(Plain(), randomised(Plain()), UNEQUAL)
