"""Tests of networks' variables: their shapes, and state dicts of torch both ways, strictly."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from tests.support.tiny import CLASSES, TinyNet, assert_equal_trees, batch, randomised
from tl_jax import trees
from tl_jax.models.registry import architecture, create_model
from tl_jax.models.variables import abstract_variables, from_state_dict, head_keys
from tl_jax.weights.state_dict import StateDictError, to_state_dict, torch_key


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = torch.nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.bn(self.conv(x))


class Twin(torch.nn.Module):
    """`TinyNet` in torch."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)
        self.block = Block()
        self.fc = torch.nn.Linear(4, CLASSES)

    def forward(self, x):
        x = self.block(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


@pytest.fixture
def twin() -> Twin:
    torch.manual_seed(0)
    twin = Twin()
    twin.train()
    with torch.no_grad():  # moves the running statistics and the counters
        twin(torch.randn(8, 3, 8, 8))
    return twin.eval()


# ---- both ways


def test_a_network_of_torch_has_the_same_logits_here(twin):
    images = batch()["image"]
    variables = from_state_dict(TinyNet(), twin.state_dict())
    with torch.no_grad():
        expected = twin(torch.tensor(images).permute(0, 3, 1, 2))
    np.testing.assert_allclose(TinyNet().apply(variables, images), expected, atol=1e-6)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_there_and_back_gives_the_same_bits(twin):
    given = twin.state_dict()
    found = to_state_dict(from_state_dict(TinyNet(), given))
    counters = {key for key in given if key.endswith("num_batches_tracked")}
    assert len(counters) == 2
    assert found.keys() == given.keys() - counters
    for key, array in found.items():
        np.testing.assert_array_equal(array, given[key].numpy(), err_msg=key)
        assert array.dtype == np.float32 and array.flags.c_contiguous


def test_back_and_there_gives_the_same_bits():
    variables = randomised(TinyNet())
    found = from_state_dict(TinyNet(), to_state_dict(variables))
    jax.tree.map(np.testing.assert_array_equal, found, variables)


def test_torch_loads_the_export_strictly(twin):
    exported = to_state_dict(randomised(TinyNet()))
    keys = twin.load_state_dict(
        {key: torch.from_numpy(array) for key, array in exported.items()}, strict=True
    )
    assert not keys.missing_keys and not keys.unexpected_keys
    np.testing.assert_array_equal(twin.conv1.weight.detach(), exported["conv1.weight"])


# ---- strict


def test_all_that_is_wrong_is_named_at_once(twin):
    given = twin.state_dict()
    del given["conv1.weight"], given["bn1.running_var"]
    given["neck.weight"] = torch.zeros(2)
    given["fc.weight"] = torch.zeros(9, 4)
    given["fc.bias"] = torch.zeros(9)
    with pytest.raises(StateDictError) as caught:
        from_state_dict(TinyNet(), given)
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines[1:4]] == [
        "2 missing: bn1.running_var, conv1.weight",
        "1 unused: neck.weight",
        "2 mis-shaped: fc.bias: got (9,), expected (3,), fc.weight: got (9, 4), expected (3, 4)",
    ]
    assert "except_head=True" in lines[4]


def test_a_kernel_in_the_layout_of_flax_is_mis_shaped(twin):
    given = dict(twin.state_dict())
    given["fc.weight"] = given["fc.weight"].T
    with pytest.raises(StateDictError, match=r"fc.weight: got \(4, 3\), expected \(3, 4\)"):
        from_state_dict(TinyNet(), given)


def test_long_lists_are_cut(twin):
    more = {f"extra{i}": np.zeros(1) for i in range(102)}
    with pytest.raises(StateDictError, match=r"  102 unused: .*extra9 and 92 more\n") as caught:
        from_state_dict(TinyNet(), twin.state_dict() | more)
    assert len(str(caught.value)) < 1000


def test_only_the_counters_of_batches_are_ignored(twin):
    given = {**twin.state_dict(), "bn1.num_batches": torch.tensor(1)}
    with pytest.raises(StateDictError, match="1 unused: bn1.num_batches"):
        from_state_dict(TinyNet(), given)


# ---- arrays


def variants(value: torch.Tensor) -> dict:
    return {
        "numpy": value.numpy(),
        "jax": jnp.asarray(value.numpy()),
        "gradient": value.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(value),
        "strided": value.repeat_interleave(2, 0)[::2],
        "float64": value.double(),
        "list": value.tolist(),
    }


@pytest.mark.parametrize("kind", variants(torch.zeros(1)))
def test_any_array_is_taken(twin, kind):
    given = {
        key: variants(value)[kind]
        for key, value in twin.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    found = from_state_dict(TinyNet(), given)
    expected = from_state_dict(TinyNet(), twin.state_dict())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", ["torch", "numpy"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_becomes_float32_without_loss(twin, kind, dtype):
    half = {key: value.to(dtype) for key, value in twin.state_dict().items()}
    exact = {key: value.float() for key, value in half.items()}
    if kind == "numpy":
        type_ = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16
        half = {key: value.numpy().astype(type_) for key, value in exact.items()}
    found = from_state_dict(TinyNet(), half)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    jax.tree.map(np.testing.assert_array_equal, found, from_state_dict(TinyNet(), exact))


def test_the_variables_are_copies(twin):
    variables = from_state_dict(TinyNet(), twin.state_dict())
    before = jax.tree.map(np.array, variables)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            tensor.fill_(7)
    jax.tree.map(np.testing.assert_array_equal, variables, before)


# ---- the head


@pytest.mark.parametrize("name", ["test_resnet", "vgg11_bn", "test_efficientnet"])
def test_head_keys_are_what_a_network_without_head_lacks(name):
    def keys(**fields) -> set[str]:
        model = create_model(name, num_classes=7).clone(**fields)
        return {torch_key(path) for path in trees.flatten(abstract_variables(model))}

    under = {key for key in keys() if trees.is_under(key, architecture(name).classifier)}
    assert len(under) == 2
    for classes in (7, 0):
        assert head_keys(create_model(name, num_classes=classes)) == under
    top = head_keys(create_model(name, num_classes=0, global_pool=""))
    assert top == keys() - keys(num_classes=0, global_pool="")
    if name.startswith("vgg"):
        assert {"pre_logits.fc1.weight", "head.fc.bias"} <= top


@pytest.fixture(scope="module")
def resnet() -> dict[str, np.ndarray]:
    return to_state_dict(randomised(create_model("test_resnet", num_classes=7), side=32))


@pytest.mark.parametrize("classes", [7, 3, 0])
def test_except_head_starts_the_classifier_at_zero_and_keeps_the_rest(resnet, classes):
    model = create_model("test_resnet", num_classes=classes)
    variables = from_state_dict(model, resnet, except_head=True)
    head, rest = trees.split(variables["params"], lambda name: trees.is_under(name, "fc"))
    features = resnet["fc.weight"].shape[1]
    assert {key: leaf.shape for key, leaf in head.get("fc", {}).items()} == (
        {"kernel": (features, classes), "bias": (classes,)} if classes else {}
    )
    assert not any(leaf.any() for leaf in jax.tree.leaves(head))
    exported = to_state_dict({"params": rest, "batch_stats": variables["batch_stats"]})
    assert exported.keys() == resnet.keys() - {"fc.weight", "fc.bias"}
    for key, array in exported.items():
        np.testing.assert_array_equal(array, resnet[key])


def test_except_head_takes_a_state_dict_without_head(resnet):
    headless = {key: value for key, value in resnet.items() if not key.startswith("fc.")}
    model = create_model("test_resnet", num_classes=3)
    variables = from_state_dict(model, headless, except_head=True)
    assert variables["params"]["fc"]["bias"].shape == (3,)


def test_except_head_excepts_nothing_else(resnet):
    wrong = {key: value for key, value in resnet.items() if key != "layer4.0.bn2.bias"}
    model = create_model("test_resnet", num_classes=3)
    with pytest.raises(StateDictError, match=r"1 missing: layer4\.0\.bn2\.bias\n") as caught:
        from_state_dict(model, {**wrong, "fc2.bias": 0}, except_head=True)
    assert "1 unused: fc2.bias" in str(caught.value)


def test_without_the_exception_another_head_is_an_error(resnet):
    with pytest.raises(
        StateDictError, match=r"2 mis-shaped: fc\.bias: got \(7,\), expected \(3,\)"
    ):
        from_state_dict(create_model("test_resnet", num_classes=3), resnet)


def test_what_may_be_lacking_is_drawn_as_the_network_draws_it(twin):
    given = twin.state_dict()
    without = {key: value for key, value in given.items() if not key.startswith("block.")}
    variables = from_state_dict(TinyNet(), without, may_lack=["block"])
    drawn = jax.jit(TinyNet().init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    for collection in ("params", "batch_stats"):
        assert_equal_trees(variables[collection]["block"], drawn[collection]["block"])
    assert np.std(variables["params"]["block"]["conv"]["kernel"]) > 0.1
    np.testing.assert_array_equal(variables["params"]["fc"]["bias"], given["fc.bias"])


def test_a_fresh_head_is_drawn_as_the_network_draws_it():
    """SqueezeNet's classifier comes before a ReLU: at zero it would never get a gradient."""
    model = create_model("torchvision/squeezenet1_1", num_classes=3)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), abstract_variables(model))
    head = from_state_dict(model, to_state_dict(zeros), except_head=True)["params"]["classifier.1"]
    assert 0.005 < np.std(head["kernel"]) < 0.02
    np.testing.assert_array_equal(head["bias"], 0)


def test_what_may_be_lacking_lacks_altogether_or_not_at_all(twin):
    given = dict(twin.state_dict())
    del given["block.bn.weight"]
    with pytest.raises(StateDictError, match="1 missing: block.bn.weight"):
        from_state_dict(TinyNet(), given, may_lack=["block"])


def test_a_network_without_statistics_has_no_such_collection():
    model = create_model("simple_cnn", num_classes=2)
    assert from_state_dict(model, to_state_dict(randomised(model, side=32))).keys() == {"params"}


# ---- shapes


def test_the_abstract_variables_cost_no_memory():
    leaves = jax.tree.leaves(abstract_variables(create_model("vgg11")))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_the_abstract_trace_leaves_the_network_as_it_is():
    """It draws no kernels and normalises nothing, and jax remembers traces."""
    abstract, images = abstract_variables(TinyNet()), batch()["image"]
    variables = jax.jit(TinyNet().init)(jax.random.key(0), images)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, abstract)
    assert np.std(variables["params"]["conv1"]["kernel"]) > 0.01
    variables["params"]["fc"]["kernel"] += 1
    shifted = jax.tree.map(lambda leaf: leaf + 1, variables["batch_stats"])
    logits = TinyNet().apply(variables, images)
    assert jnp.any(logits != TinyNet().apply(variables | {"batch_stats": shifted}, images))


def test_equal_networks_are_traced_once(twin):
    class Counted(TinyNet):
        def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
            nonlocal traces
            traces += 1
            return super().__call__(images, train=train)

    traces = 0
    for _ in range(2):
        from_state_dict(Counted(drop_rate=0.5), twin.state_dict())
    assert traces == 1
    from_state_dict(Counted(drop_rate=0.1), twin.state_dict())
    assert traces == 2
