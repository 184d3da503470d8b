"""What all tests share: the CPU as device, tiny networks under real names, a folder of pictures."""

import os

# Before JAX is first imported: a device that is there would change the numbers compared.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tl_jax import trees
from tl_jax.config import AugmentConfig, Config, DataConfig, ModelConfig, OptimConfig, TrainConfig
from tl_jax.models import registry
from tl_jax.models.families import resnet, vgg


@pytest.fixture(scope="session")
def compiled(tmp_path_factory) -> str:
    """A folder for what is compiled."""
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture
def tiny_networks(monkeypatch, compiled):
    """Puts tiny networks in the place of some architectures, so that whole runs take seconds.

    What they compile is kept on disk and shared by all runs.
    """
    small = {
        "resnet18": functools.partial(
            resnet.ResNet, block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16)
        ),
        "resnet50": functools.partial(
            resnet.ResNet, block=resnet.Bottleneck, depths=(1, 1), widths=(8, 16)
        ),
        "vgg16": functools.partial(vgg.VGG, depths=(1, 1), widths=(8, 16)),
        "tf_efficientnet_lite0": functools.partial(
            resnet.ResNet, block=resnet.BasicBlock, depths=(1, 1), widths=(8, 16)
        ),
    }
    for name, build in small.items():
        known = registry.ARCHITECTURES[name]
        classifier = build.func.classifier
        stages = ("features.2", "features.5") if name == "vgg16" else ("act1", "layer1", "layer2")
        tiny = dataclasses.replace(
            known, build=build, classifier=classifier, stages=stages, stem="conv1", rename=None
        )
        monkeypatch.setitem(registry.ARCHITECTURES, name, tiny)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def tiny_weights(tiny_networks, tmp_path) -> Path:
    """A safetensors file of random weights, with a 1000-way classifier, for the tiny ResNet-18."""
    from safetensors.numpy import save_file

    from tl_jax.weights.state_dict import abstract_variables, to_state_dict

    model = registry.create_model("resnet18", num_classes=1000)
    shapes = trees.flatten(abstract_variables(model)).items()
    rng = np.random.default_rng(7)
    flat = {path: np.full(leaf.shape, path[-1] in ("scale", "var"), "f4") for path, leaf in shapes}
    for path, leaf in flat.items():
        if path[-1] == "kernel":
            leaf += rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape)
    path = tmp_path / "resnet18.safetensors"
    save_file(to_state_dict(trees.unflatten(flat)), path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """`train/`, `val/` and `test/` with pictures of two classes that differ in colour."""
    rng = np.random.default_rng(0)
    root = tmp_path / "photos"
    for split, count in {"train": 13, "val": 5, "test": 7}.items():
        for channel, name in enumerate(("red ones", "grüne")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (30 + i, 36, 3), np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


@pytest.fixture
def tiny_config(tiny_weights, photos, tmp_path) -> Config:
    """A run of four short epochs with everything random in it: crops, flips, dropout, drop path."""
    return Config(
        model=ModelConfig(
            name="resnet18", weights=str(tiny_weights), head_dropout=0.3, drop_path=0.2
        ),
        data=DataConfig(
            source=f"folder:{photos}",
            eval_split="val",
            test_split="test",
            data_dir=str(tmp_path / "prepared"),
            batch_size=8,
            image_size=32,
        ),
        augment=AugmentConfig(scale=(0.5, 1.0)),
        optim=OptimConfig(name="adam", learning_rate=1e-2, warmup_epochs=0.5, clip_norm=1.0),
        train=TrainConfig(head_epochs=2, epochs=2, log_every=2),
    )
