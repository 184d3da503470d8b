"""Tests of the configuration: JSON and back, unknown names, values that make no sense."""

import dataclasses
import json

import pytest

from tl_jax import config as configuration
from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    GroupConfig,
    ModelConfig,
    OptimConfig,
    PhaseConfig,
    TrainConfig,
    TransferConfig,
)

OTHER = Config(
    model=ModelConfig(name="vgg16", head="mlp", hidden=(64, 32), dtype="bfloat16"),
    data=DataConfig(source="folder:photos", image_size=96, test_split="test"),
    augment=AugmentConfig(scale=(0.5, 0.75)),
    optim=OptimConfig(name="sgd", head_learning_rate=0.1, clip_norm=1.0, step_epochs=(1.5,)),
    transfer=TransferConfig(
        phases=(PhaseConfig(2, "head"), PhaseConfig(3, "head+last:1", learning_rate=1e-4)),
        groups=(GroupConfig("slow", ("features.0",), learning_rate=1e-5),),
    ),
    train=TrainConfig(head_epochs=2, epochs=0, best_metric="loss"),
)


@pytest.mark.parametrize("config", [Config(), OTHER])
def test_json_is_read_back_as_it_was_written(config):
    found = configuration.from_json(configuration.to_json(config))
    assert found == config
    assert isinstance(found.optim.step_epochs, tuple)
    assert isinstance(found.transfer.phases, tuple)


def test_every_value_of_the_example_differs_from_a_default():
    # Otherwise the round trip above would not notice a field that is dropped.
    sections = [field.name for field in dataclasses.fields(Config)]
    differing = {line.partition(".")[0] for line in configuration.differences(Config(), OTHER)}
    assert differing == set(sections)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the configuration is not JSON"),
        ('{"optm": {}}', r"unknown section 'optm'; did you mean 'optim'\?"),
        (
            '{"optim": {"learning_rat": 1}}',
            r"unknown field optim.learning_rat; did you mean 'learning_rate'\?",
        ),
        (
            '{"transfer": {"phases": [{"epoch": 1}]}}',
            r"unknown field transfer.phases.epoch; did you mean 'epochs'\?",
        ),
    ],
)
def test_json_that_is_no_configuration_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        configuration.from_json(text)


def test_missing_fields_take_their_defaults():
    found = configuration.from_json(json.dumps({"optim": {"name": "sgd"}}))
    assert found == Config(optim=OptimConfig(name="sgd"))


def test_differences_are_listed_by_dotted_name():
    one = Config(optim=OptimConfig(name="sgd"), train=TrainConfig(epochs=1))
    assert configuration.differences(one, Config()) == [
        "optim.name: 'sgd' != 'adamw'",
        "train.epochs: 1 != 5",
    ]
    assert configuration.differences(one, one) == []


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("data", DataConfig(batch_size=0), "data.batch_size must be at least 1"),
        ("data", DataConfig(workers=-1), "data.workers"),
        ("data", DataConfig(shots=0), "data.shots"),
        ("data", DataConfig(carve=1.0), "data.carve"),
        ("data", DataConfig(stretch_on="device"), "data.stretch_on"),
        ("data", DataConfig(validation_fraction=1.0), "data.validation_fraction"),
        ("data", DataConfig(image_size=7), "data.image_size must be at least 8"),
        ("data", DataConfig(image_size=0), "data.image_size must be at least 8"),
        ("model", ModelConfig(head_dropout=1.0), "model.head_dropout"),
        ("model", ModelConfig(drop_path=-0.1), "model.drop_path"),
        ("optim", OptimConfig(learning_rate=-1.0), "optim.learning_rate"),
        ("optim", OptimConfig(warmup_epochs=-1.0), "optim.warmup_epochs"),
        ("optim", OptimConfig(clip_norm=-1.0), "optim.clip_norm must be above 0"),
        ("optim", OptimConfig(clip_norm=0.0), "optim.clip_norm must be above 0"),
        ("train", TrainConfig(label_smoothing=1.0), "train.label_smoothing"),
        ("train", TrainConfig(epochs=0), "nor both 0"),
        ("train", TrainConfig(epochs=-1, head_epochs=3), "must not be negative"),
        ("train", TrainConfig(keep=0), "train.keep and train.log_every"),
        ("train", TrainConfig(log_every=0), "train.keep and train.log_every"),
        ("data", DataConfig(carve=0.0), "data.carve"),
        ("data", DataConfig(validation_fraction=0.0), "data.validation_fraction"),
        ("model", ModelConfig(head_dropout=-0.1), "model.head_dropout"),
        ("model", ModelConfig(drop_path=1.0), "model.drop_path"),
        ("optim", OptimConfig(head_learning_rate=-1.0), "optim.head_learning_rate"),
        ("optim", OptimConfig(layer_decay=0.0), "optim.layer_decay"),
        ("optim", OptimConfig(layer_decay=1.1), "optim.layer_decay"),
        ("optim", OptimConfig(l2_sp=-0.1), "optim.l2_sp"),
        ("optim", OptimConfig(weight_decay=-0.1), "optim.weight_decay"),
        ("optim", OptimConfig(momentum=1.0), "optim.momentum"),
        ("optim", OptimConfig(momentum=-0.1), "optim.momentum"),
        ("optim", OptimConfig(step_factor=0.0), "optim.step_factor"),
        ("train", TrainConfig(target=float("nan")), "train.target"),
        ("transfer", TransferConfig(lora_alpha=0.0), "transfer.lora_alpha"),
        ("transfer", TransferConfig(phases=(PhaseConfig(learning_rate=-1.0),)), "rates of"),
        ("transfer", TransferConfig(phases=(PhaseConfig(head_learning_rate=-1.0),)), "rates of"),
        ("transfer", TransferConfig(phases=(PhaseConfig(warmup_epochs=-1.0),)), "warmup_epochs"),
        ("transfer", TransferConfig(groups=(GroupConfig("a", learning_rate=-1.0),)), "rates of"),
        ("transfer", TransferConfig(groups=(GroupConfig("a", weight_decay=-1.0),)), "weight_decay"),
        ("train", TrainConfig(label_smoothing=-0.1), "train.label_smoothing"),
        ("train", TrainConfig(patience=-1), "train.patience"),
        ("train", TrainConfig(patience=0), "train.patience"),
        ("train", TrainConfig(ema=1.0), "train.ema"),
        ("train", TrainConfig(ema=-0.1), "train.ema"),
        ("transfer", TransferConfig(phases=(PhaseConfig(0),)), "transfer.phases must be of"),
        ("transfer", TransferConfig(groups=(GroupConfig(),)), "transfer.groups must have names"),
        ("transfer", TransferConfig(groups=(GroupConfig("a"),) * 2), "each another"),
        ("transfer", TransferConfig(class_mapping=("a=b",)), "transfer.class_mapping is for"),
        ("transfer", TransferConfig(lora_rank=0), "transfer.lora_rank"),
        ("transfer", TransferConfig(adapter_reduction=0), "transfer.adapter_reduction"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(section, values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **{section: values})


@pytest.mark.parametrize(
    ("model", "transfer", "message"),
    [
        ({"head": "mlp"}, {"classifier": "load"}, "'load' and 'fuse' need model.head 'linear'"),
        ({"weights": "random"}, {"classifier": "fuse"}, "and pretrained weights"),
        ({"head": "mlp"}, {"head_init": "class_means"}, "'class_means' needs model.head"),
        ({}, {"head_init": "class_means", "classifier": "load"}, "'class_means' needs .*'replace'"),
        ({"head": "cosine"}, {"head_init": "small"}, "'small' needs model.head"),
        ({}, {"head_init": "small", "classifier": "fuse"}, "'small' needs .*'replace'"),
    ],
)
def test_heads_and_starts_that_do_not_go_together_are_refused(model, transfer, message):
    with pytest.raises(ValueError, match=message):
        Config(model=ModelConfig(**model), transfer=TransferConfig(**transfer))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": ModelConfig(head="liner")}, r"model.head is 'liner'; .*mean 'linear'\?"),
        ({"data": DataConfig(worker_type="proces")}, "data.worker_type is 'proces'; expected thr"),
        ({"optim": OptimConfig(name="adamm")}, "optim.name is 'adamm'"),
        ({"transfer": TransferConfig(adaptation="loar")}, r"adaptation is 'loar'.*'lora'\?"),
        ({"transfer": TransferConfig(recalibrate="befor")}, "transfer.recalibrate is 'befor'"),
        ({"transfer": TransferConfig(phases=(PhaseConfig(optimizer="x"),))}, "phases.optimizer"),
        ({"transfer": TransferConfig(groups=(GroupConfig("a", batch_norm="x"),))}, "groups.batch"),
        ({"train": TrainConfig(best_metric="acuracy")}, "train.best_metric is 'acuracy'"),
    ],
)
def test_a_word_that_a_field_does_not_take_is_refused_with_the_nearest(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)


def test_all_broken_rules_are_named_at_once():
    with pytest.raises(ValueError, match="data.batch_size .*; train.keep"):
        Config(data=DataConfig(batch_size=0), train=TrainConfig(keep=0))
