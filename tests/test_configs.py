"""The configurations: each is whole, says its command, and runs on a tiny stand-in of its data."""

import contextlib
import dataclasses
import io
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from experiments import composed, composed_sets
from experiments.composed_sets import Packages
from tests.support.composed import write_packages
from tl_jax import config as configuration
from tl_jax.cli import read_config
from tl_jax.config import Config, TransferConfig
from tl_jax.run.experiment import Experiment
from tl_jax.run.fit import fit
from tl_jax.run.phases import gradual

CONFIGS = Path(__file__).parents[1] / "configs"
FILES = sorted(path for path in CONFIGS.glob("*.py") if path.stem != "base")
# What trains in another way, each for one reason; all start from a classifier of 1000 classes.
STRATEGIES = {
    "adapters": "head+added",
    "batch_norm_only": "head+batch_norm",
    "bit_hyper_rule": "all",
    "bitfit": "head+biases",
    "cosine_head": "head all",
    "fuse_classifier": "all",
    "gradual": "head head+last:1 head+last:2 all",
    "l2_sp": "all",
    "linear_probe": "head",
    "llrd": "all",
    "load_classifier": "all",
    "lora": "head+added",
    "lp_ft": "head all",
    "partial": "head+last:2",
    "ssf": "head+added",
}
# Recipes on composed sets, and the kinds of their tasks.
COMPOSED = {
    "combined": "multi_label ordinal",
    "multi_label": "multi_label",
    "multi_modal_columns": "multi_class",
    "multi_modal_text": "multi_class",
    "multi_scale": "multi_class multi_class",
    "multi_view": "multi_class",
}


class Cifar10(tfds.core.GeneratorBasedBuilder):
    """Some 32x32 images in CIFAR-10's form."""

    VERSION = tfds.core.Version("3.0.2")
    url_infos = None
    COUNTS: ClassVar = {"train": 20, "test": 10}

    def _info(self):
        names = "airplane automobile bird cat deer dog frog horse ship truck".split()
        features = {
            "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=names),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in self.COUNTS.items()}

    def _generate_examples(self, count):
        rng = np.random.default_rng(count)
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
            buffer.seek(0)
            yield i, {"image": buffer, "label": i % 10}


def shortened(config: Config, **data) -> Config:
    """Returns a configuration for a minute at most: tiny images, few epochs, random weights."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, weights="random", hidden=(8,)),
        data=dataclasses.replace(config.data, batch_size=8, image_size=32, **data),
        train=dataclasses.replace(
            config.train, head_epochs=min(config.train.head_epochs, 1), epochs=1
        ),
        optim=dataclasses.replace(config.optim, warmup_epochs=0.0),
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_configuration_is_whole_and_says_its_command(path):
    config = read_config(path)
    assert configuration.from_json(configuration.to_json(config)) == config
    assert f"python -m tl_jax train configs/{path.name}" in path.read_text()


@pytest.mark.parametrize(
    ("name", "optimizer", "head"),
    [
        ("folder", "adamw", "linear"),
        ("imagefolder_resnet50", "sgd", "linear"),
        ("vgg16_gap", "adam", "mlp"),
    ],
)
@pytest.mark.slow
def test_a_folder_recipe_fits_a_stand_in(name, optimizer, head, tiny_networks, photos):
    config = read_config(CONFIGS / f"{name}.py")
    config = shortened(config, source=f"folder:{photos}", eval_split="val")
    experiment = Experiment.from_config(config)
    assert (config.optim.name, config.model.head) == (optimizer, head)
    assert len(experiment.phases) == 1


@pytest.mark.slow
def test_the_cifar_recipe_fits_a_stand_in(tiny_networks, tmp_path):
    Cifar10(data_dir=tmp_path / "sets", file_format="array_record").download_and_prepare()
    config = read_config(CONFIGS / "cifar10_resnet18.py")
    experiment = Experiment.from_config(shortened(config, data_dir=str(tmp_path / "sets")))
    assert experiment.info.examples == {"train": 20, "test": 10}
    assert len(experiment.info.class_names) == experiment.model.num_classes == 10
    with contextlib.closing(experiment.train_batches(0)) as batches:
        labels = np.concatenate([next(batches)["label"] for _ in range(5)])
    assert set(labels.tolist()) == set(range(10))


def stand_in(name: str, weights: Path, photos: Path, prepared: Path) -> Config:
    """Returns a strategy's recipe for tiny pictures, a tiny network and its weights."""
    config = shortened(
        dataclasses.replace(read_config(CONFIGS / f"{name}.py"), transfer=TransferConfig()),
        source=f"folder:{photos}",
        eval_split="val",
        test_split="test",
        data_dir=str(prepared),
    )
    transfer = read_config(CONFIGS / f"{name}.py").transfer
    if name == "gradual":  # The stand-in has three stages, not five.
        assert transfer.phases == gradual(5, every=1, epochs=8)
        transfer = dataclasses.replace(transfer, phases=gradual(3, every=1, epochs=4))
    one_each = tuple(dataclasses.replace(phase, epochs=1) for phase in transfer.phases)
    model = dataclasses.replace(config.model, weights=str(weights))
    transfer = dataclasses.replace(transfer, phases=one_each)
    return dataclasses.replace(config, model=model, transfer=transfer)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.slow
def test_a_strategy_trains_what_its_recipe_says(name, tiny_weights, photos, tmp_path):
    config = stand_in(name, tiny_weights, photos, tmp_path / "prepared")
    experiment = Experiment.from_config(config)
    assert " ".join(phase.name for phase in experiment.phases) == STRATEGIES[name]
    rates = experiment.phases[-1].peak_rates
    decay = config.optim.layer_decay
    assert rates["stage0"] == pytest.approx(rates["stage2"] * decay**2)
    assert (decay < 1) == (name == "llrd")
    assert (experiment.initial.mapping is not None) == (
        name in ("load_classifier", "fuse_classifier")
    )


@pytest.mark.parametrize(
    "name",
    [n if n == "cosine_head" else pytest.param(n, marks=pytest.mark.full) for n in STRATEGIES],
)
@pytest.mark.slow
def test_a_strategy_runs_on_a_stand_in(name, tiny_weights, photos, tmp_path):
    config = stand_in(name, tiny_weights, photos, tmp_path / "prepared")
    report = fit(config, tmp_path / "run")
    assert report["metrics"]["test"]["count"] == 14
    assert report["epochs"] == len(STRATEGIES[name].split())


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return write_packages(tmp_path_factory.mktemp("packages"))


def on_composed(name: str, packages: Packages, folder: Path) -> Config:
    """Returns a recipe for a composed set of a few examples, and for a tiny network."""
    manifest = composed.write(name, 0, folder, packages)
    config = read_config(CONFIGS / f"{name}.py")
    assert config.data.source == f"manifest:{composed.FOLDER}/{name}-0/manifest.csv"
    stages = ("layer1", "layer2") if config.inputs.stages else ()
    config = dataclasses.replace(config, inputs=dataclasses.replace(config.inputs, stages=stages))
    return shortened(config, source=f"manifest:{manifest}")


@pytest.mark.parametrize(
    "name",
    [n if n == "combined" else pytest.param(n, marks=pytest.mark.full) for n in COMPOSED],
)
@pytest.mark.slow
def test_a_recipe_of_tasks_and_inputs_runs_on_a_few_examples(
    name, packages, tiny_networks, tmp_path, monkeypatch
):
    counts = {"train": 40, "validation": 6, "test": 8}
    monkeypatch.setattr(composed_sets, "COUNTS", counts)
    report = fit(on_composed(name, packages, tmp_path), tmp_path / "run")
    assert report["metrics"]["test"]["count"] == (15 if name == "multi_modal_text" else 8)
    assert [task["kind"] for task in report["tasks"]] == COMPOSED[name].split()


@pytest.mark.parametrize("name", ["elpv", "elpv_imbalance", "elpv_multi_task"])
@pytest.mark.slow
def test_a_recipe_for_solar_cells_fits_a_stand_in(name, tiny_networks, tmp_path):
    lines = ["split,image,label,probability,cell_type,certainty"]
    for i in range(36):
        level = i % 4
        split = ("train", "validation", "test")[i // 12]
        Image.new("L", (32, 32), i).save(tmp_path / f"{i}.png")
        label = ("functional", "defective")[level > 1]
        levels = ("0", "1/3", "2/3", "1")
        kind, certainty = ("mono", "poly")[i // 2 % 2], (1, 2 / 3)[level in (1, 2)]
        lines.append(f"{split},{i}.png,{label},{levels[level]},{kind},{certainty}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    config = read_config(CONFIGS / f"{name}.py")
    assert config.data.source == "elpv"
    config = shortened(config, source=f"manifest:{tmp_path / 'manifest.csv'}")
    experiment = Experiment.from_config(config)
    kinds = [task.kind for task in experiment.info.tasks]
    assert kinds == {"elpv_multi_task": ["ordinal", "multi_class"]}.get(name, ["multi_class"])


def test_every_recipe_is_run_somewhere():
    elsewhere = {"cifar10_resnet18", "demo", "folder", "imagefolder_resnet50", "vgg16_gap"}
    elsewhere |= {"elpv", "elpv_imbalance", "elpv_multi_task"} | COMPOSED.keys()
    assert {path.stem for path in FILES} == elsewhere | STRATEGIES.keys()
