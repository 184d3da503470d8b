"""Features of a split: every example once, views by (seed, view, index), files hit and missed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.tiny import TinyNet, randomised
from tl_jax.config import AugmentConfig
from tl_jax.data.loading import host_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess, preprocess
from tl_jax.data.source import Source, Task
from tl_jax.models.outputs import features
from tl_jax.probes import extract as extraction
from tl_jax.training import sharding

HOW = Preprocess(size=(8, 8), crop_pct=0.8, mean=(0.5,) * 3, std=(0.25,) * 3)


class Pictures(Source):
    """`count` pictures of random pixels and sizes; `seed` decides the pixels."""

    name, split, tasks = "pictures", "all", (Task("label", ("one", "other")),)

    def __init__(self, count, seed=0):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        rng = np.random.default_rng([self.seed, i])
        image = rng.integers(0, 256, (12 + i % 3, 15 - i % 4, 3), np.uint8)
        return {"image": image, "label": (i * i) % 2}


class Pixels(nn.Module):
    """Returns its input, flat, so that features are the pixels."""

    num_classes, in_channels = 0, 3

    @nn.compact
    def __call__(self, x, *, train=False):
        return x.reshape(len(x), -1)


def extract(source, model=None, variables=None, *, batch_size=4, **options):
    options = {"preprocess": HOW, "mesh": one_device(), **options}
    options.setdefault("load_options", LoadOptions(batch_size))
    return extraction.extract(model or Pixels(), variables or {}, source, **options)


def one_device():
    return sharding.data_mesh(jax.devices()[:1])


@pytest.mark.parametrize(
    "load_options", [LoadOptions(2, workers=0), LoadOptions(3, workers=1), LoadOptions(4)]
)
def test_features_do_not_depend_on_the_readers(load_options):
    expected = extract(Pictures(5)).features
    found = extract(Pictures(5), load_options=load_options).features
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_views_need_threads():
    processes = LoadOptions(4, worker_type="process")
    with pytest.raises(ValueError, match=r"got worker_type='process' with views=2; expected 'thr"):
        extract(Pictures(3), views=2, load_options=processes)


@pytest.mark.parametrize("count", [1, 3, 8, 13])
def test_every_example_is_there_once_in_the_source_s_order(count):
    source = Pictures(count)
    found = extract(source)
    images = preprocess([source[i]["image"] for i in range(count)], HOW)
    np.testing.assert_allclose(found.features, images.reshape(1, count, -1), atol=1e-6)
    np.testing.assert_array_equal(found.labels, [source[i]["label"] for i in range(count)])
    assert (found.features.dtype, found.labels.dtype) == (np.float32, np.int32)


def test_a_loader_that_drops_or_repeats_is_an_error(monkeypatch):
    whole = host_batches.host_eval_batches
    for spoil, message in (
        (lambda batches: batches[:-1], "1 were not seen and 0 more than once"),
        (lambda batches: [*batches, batches[0]], "0 were not seen and 4 more than once"),
    ):
        monkeypatch.setattr(
            host_batches,
            "host_eval_batches",
            lambda *args, spoil=spoil, **kw: spoil(list(whole(*args, **kw))),
        )
        with pytest.raises(RuntimeError, match=message):
            extract(Pictures(9))


def test_the_output_of_a_module_by_name():
    model, source = TinyNet(), Pictures(5)
    variables = randomised(model)
    found = extract(source, model, variables, at="block")
    images = preprocess([source[i]["image"] for i in range(5)], HOW)
    expected = features(model, variables, images, at=["block"])["block"]
    assert found.features.shape == (1, 5, 4, 4, 4)
    np.testing.assert_allclose(found.features[0], expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"no module 'blok'; did you mean 'block'\?"):
        extract(source, model, variables, at="blok")


def test_a_network_that_returns_maps_needs_a_name():
    class Map(Pixels):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x

    with pytest.raises(ValueError, match="expected features"):
        extract(Pictures(2), Map())


def test_values_that_are_not_finite_are_an_error():
    class Broken(Pixels):
        @nn.compact
        def __call__(self, x, *, train=False):
            return x.reshape(len(x), -1) * 1e30 * 1e30

    with pytest.raises(FloatingPointError, match="not finite"):
        extract(Pictures(3), Broken())


# ---- views


def test_views_do_not_depend_on_the_batch():
    source = Pictures(7)
    one, other = (extract(source, views=3, seed=5, batch_size=size) for size in (2, 5))
    assert one.features.shape == (3, 7, 8 * 8 * 3)
    np.testing.assert_allclose(one.features, other.features, atol=1e-5)
    np.testing.assert_array_equal(one.features[0], extract(source).features[0])


def test_views_differ_by_view_seed_and_example():
    source = Pictures(4)
    one, other = (extract(source, views=3, seed=seed).features for seed in (0, 1))
    assert not np.allclose(one[1], one[2], atol=0.1)
    assert not np.allclose(one[1], other[1], atol=0.1)
    np.testing.assert_array_equal(one[0], other[0])

    class Same(Pictures):
        def __getitem__(self, i):
            return super().__getitem__(0)

    alike = extract(Same(3), views=2).features
    np.testing.assert_array_equal(alike[0, 0], alike[0, 1])
    assert not np.allclose(alike[1, 0], alike[1, 1], atol=0.1)


def test_a_view_of_the_whole_picture_is_the_picture():
    # No flip, and a crop of all of it, of the picture's own aspect ratio: the stretched picture.
    class Square(Pictures):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "image": np.full((10, 20, 3), 40 * i, np.uint8)}

    still = AugmentConfig(scale=(1.0, 1.0), ratio=(2.0, 2.0), horizontal_flip=False)
    found = extract(Square(3), views=2, augmentation=still).features
    np.testing.assert_allclose(found[1], found[0], atol=1e-4)


def test_views_know_the_size_of_each_picture():
    # A tall picture, bright in its upper half: a square crop of all its width shows a half of it.
    class Tall(Pictures):
        def __getitem__(self, i):
            image = np.zeros((64, 16, 3), np.uint8)
            image[:32] = 255
            return {"image": image, "label": 0}

    square = AugmentConfig(scale=(0.25, 0.25), ratio=(1.0, 1.0), horizontal_flip=False)
    views = extract(Tall(20), views=2, augmentation=square).features[1]
    edges = np.ptp(views.reshape(20, 8, 8, 3).mean((2, 3)), axis=1)
    assert (edges < 0.5).sum() > 5  # A crop of the picture as stretched would always be smaller.


# ---- files


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "float16"])
def test_a_file_gives_the_same_bits_back(tmp_path, kept, monkeypatch):
    first = extract(Pictures(5), cache_dir=tmp_path / "new", storage_dtype=kept, views=2)
    monkeypatch.setattr(host_batches, "host_eval_batches", None)
    again = extract(Pictures(5), cache_dir=tmp_path / "new", storage_dtype=kept, views=2)
    assert (first.from_cache, again.from_cache) == (False, True)
    assert again.features.dtype == (np.float16 if kept == "float16" else np.float32)
    np.testing.assert_array_equal(first.features, again.features)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert first.facts == again.facts


def test_storage_dtypes_round(tmp_path):
    exact = extract(Pictures(5)).features
    for kept in ("bfloat16", "float16"):
        found = extract(Pictures(5), storage_dtype=kept).features
        values = np.asarray(found).astype(np.float32)
        np.testing.assert_array_equal(values, values.astype(jnp.dtype(kept)).astype(np.float32))
        # Half a step of the type, and what two programs may differ by before they round.
        half = float(jnp.finfo(jnp.dtype(kept)).eps) / 2
        np.testing.assert_allclose(values, exact, rtol=half, atol=3e-7)
        assert (values != exact).any()


def test_the_facts_in_a_file_are_readable_json(tmp_path):
    found = extract(Pictures(5), cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    facts = json.loads(str(np.load(file)["facts"]))
    assert facts == found.facts
    assert set(facts) == {  # The names in files: changing one would orphan all files.
        "format", "variables_sha256", "model", "model_sha256", "source", "split", "count",
        "classes", "samples_sha256", "preprocess", "at", "views", "augmentation", "seed", "kept",
    }  # fmt: skip
    assert facts["source"] == "pictures"
    assert facts["count"] == 5
    assert facts["preprocess"]["size"] == [8, 8]


def test_everything_that_the_features_depend_on_makes_another_file(tmp_path):
    model = TinyNet()
    variables = randomised(model)
    moved = jax.tree.map(lambda leaf: leaf + 1e-6, variables)

    class Renamed(Pictures):
        split = "others"

    runs = [
        (Pictures(5), model, variables, {}),
        (Pictures(6), model, variables, {}),
        (Pictures(5, seed=1), model, variables, {}),
        (Renamed(5), model, variables, {}),
        (Pictures(5), model, moved, {}),
        (Pictures(5), TinyNet(dtype=jnp.bfloat16), variables, {}),
        (Pictures(5), model, variables, {"preprocess": Preprocess(size=(8, 8), crop_pct=0.9)}),
        (Pictures(5), model, variables, {"at": "block"}),
        (Pictures(5), model, variables, {"views": 2}),
        (Pictures(5), model, variables, {"views": 2, "seed": 1}),
        (Pictures(5), model, variables, {"storage_dtype": "float16"}),
    ]
    for count, (source, network, values, options) in enumerate(runs, start=1):
        found = extract(source, network, values, cache_dir=tmp_path, **options)
        assert not found.from_cache
        assert len(list(tmp_path.iterdir())) == count


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "other"])
def test_a_damaged_file_is_written_anew(tmp_path, damage):
    first = extract(Pictures(9), cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = {
        "empty": b"",
        "cut": whole[:middle],
        "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "other": b"not an archive",
    }
    file.write_bytes(damaged[damage])
    again = extract(Pictures(9), cache_dir=tmp_path)
    assert not again.from_cache
    np.testing.assert_array_equal(first.features, again.features)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert extract(Pictures(9), cache_dir=tmp_path).from_cache


def test_an_interrupted_write_leaves_no_file(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        extract(Pictures(2), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views=0"),
        ({"storage_dtype": "int8"}, "storage_dtype='int8'"),
        ({"augmentation": AugmentConfig(mixup=0.2)}, "mixup"),
    ],
)
def test_unfit_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        extract(Pictures(2), **options)
