"""Tests of the configuration: JSON and back, unknown names, values that make no sense."""

import dataclasses
import json
import re
import typing
from pathlib import Path

import numpy as np
import pytest

from tl_jax import config as configuration
from tl_jax import trees
from tl_jax.config import (
    AugmentConfig,
    Config,
    DataConfig,
    GroupConfig,
    InputsConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    PhaseConfig,
    TaskConfig,
    TrainConfig,
    TransferConfig,
    changes,
    field_types,
    json_format,
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
    inputs=InputsConfig(numeric=("age",), scales=(1.0, 0.5), stages=("features.0",)),
    parallel=ParallelConfig(fsdp=2, accumulate=4, remat="blocks"),
    tasks=(
        TaskConfig("grade", kind="ordinal", levels=("low", "high"), weight=0.5),
        TaskConfig("kind", class_weights=(1.0, 2.5), label_smoothing=0.1),
    ),
)


@pytest.mark.parametrize("config", [Config(), OTHER])
def test_json_is_read_back_as_it_was_written(config):
    read = configuration.from_json(configuration.to_json(config))
    assert read == config
    assert isinstance(read.optim.step_epochs, tuple)
    assert isinstance(read.transfer.phases, tuple)


def test_the_example_differs_from_the_defaults_in_every_section():
    # Otherwise the round trip above would not notice a section that is dropped.
    sections = [field.name for field in dataclasses.fields(Config)]
    differing = {name.partition(".")[0] for name in changes.changed(Config(), OTHER)}
    assert differing == set(sections)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the configuration is not JSON"),
        ("  ", "the configuration is empty"),
        ('{"transfer": {"phases": 3}}', "transfer.phases must be a list of objects; got 3"),
        (
            '{"optim": {"learning_rate": NaN}}',
            "optim.learning_rate must be a finite number; got nan",
        ),
        ("[]", r"the configuration must be an object with fields model, data, .*; got \[\]"),
        ('{"optim": 3}', "optim must be an object with fields name, learning_rate, .*; got 3"),
        ('{"optm": {}}', r"unknown section optm; did you mean 'optim'\?"),
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
    read = configuration.from_json(json.dumps({"optim": {"name": "sgd"}}))
    assert read == Config(optim=OptimConfig(name="sgd"))


def test_when_statistics_are_recalibrated_counts_only_where_they_are():
    """Runs of earlier versions, whose default was "after", go on."""
    earlier = changes.with_values(Config(), {"transfer.recalibrate": "after"})
    assert changes.changed(Config(), earlier) == set()
    values = {"transfer.batch_norm": "recalibrate"}
    one, other = (changes.with_values(config, values) for config in (Config(), earlier))
    assert changes.changed(one, other) == {"transfer.recalibrate"}
    group = {"transfer.groups": (GroupConfig("stage1", batch_norm="recalibrate"),)}
    one, other = (changes.with_values(config, group) for config in (Config(), earlier))
    assert changes.changed(one, other) == {"transfer.recalibrate"}


def test_differences_are_listed_by_dotted_name():
    one = Config(optim=OptimConfig(name="sgd"), train=TrainConfig(epochs=1))
    assert configuration.differences(one, Config()) == [
        "optim.name: 'sgd' != 'adamw'",
        "train.epochs: 1 != 5",
    ]
    assert configuration.differences(one, one) == []


SMALLEST = 1e-9


@pytest.mark.parametrize(
    ("section", "field", "allowed", "refused"),
    [
        (ModelConfig, "head_dropout", (0, 0.99), (-0.1, 1)),
        (ModelConfig, "drop_path", (0, 0.99), (-0.1, 1)),
        (DataConfig, "batch_size", (1,), (0,)),
        (DataConfig, "workers", (0,), (-1,)),
        (DataConfig, "shots", (1, None), (0,)),
        (DataConfig, "carve", (0.01, 0.99, None), (0, 1)),
        (DataConfig, "value_range", ((0, 1), (-1000, 400.5)), ((1, 1), (9, 0))),
        (DataConfig, "validation_fraction", (0.01, 0.99), (0, 1)),
        (DataConfig, "image_size", (8, None), (7, 0)),
        (AugmentConfig, "scale", ((0.1, 0.1), (0.1, 1)), ((0, 1), (0.5, 0.4), (0.5, 1.1))),
        (AugmentConfig, "ratio", ((1, 1), (0.1, 9)), ((0, 1), (2, 1))),
        (AugmentConfig, "rotation", (0, 180), (-1, 181)),
        (AugmentConfig, "shear", (0, 89), (-1, 90)),
        (AugmentConfig, "zoom", ((1, 1), (0.1, 9)), ((0, 1), (2, 1))),
        (AugmentConfig, "shift", (0, 1), (-0.1, 1.1)),
        (AugmentConfig, "policy_operations", (1,), (0,)),
        (AugmentConfig, "policy_magnitude", (0, 30), (-1, 31)),
        (AugmentConfig, "policy_severity", (1, 10), (0, 11)),
        (AugmentConfig, "brightness", (0, 2), (-0.1,)),
        (AugmentConfig, "contrast", (0, 2), (-0.1,)),
        (AugmentConfig, "saturation", (0, 2), (-0.1,)),
        (AugmentConfig, "hue", (0, 0.5), (-0.1, 0.6)),
        (AugmentConfig, "grayscale", (0, 1), (-0.1, 1.1)),
        (AugmentConfig, "blur", (0, 1), (-0.1, 1.1)),
        (AugmentConfig, "blur_sigma", ((1, 1), (0.1, 9)), ((0, 1), (2, 1))),
        (AugmentConfig, "erase", (0, 1), (-0.1, 1.1)),
        (AugmentConfig, "erase_area", ((0.1, 0.1), (0.1, 1)), ((0, 1), (0.5, 0.4), (0.5, 1.1))),
        (AugmentConfig, "erase_ratio", ((1, 1), (0.1, 9)), ((0, 1), (2, 1))),
        (AugmentConfig, "mixup", (0, 2), (-0.1,)),
        (AugmentConfig, "cutmix", (0, 2), (-0.1,)),
        (AugmentConfig, "mix_switch", (0, 1), (-0.1, 1.1)),
        (AugmentConfig, "mix_probability", (0, 1), (-0.1, 1.1)),
        (OptimConfig, "learning_rate", (0,), (-SMALLEST,)),
        (OptimConfig, "head_learning_rate", (0, None), (-SMALLEST,)),
        (OptimConfig, "momentum", (0, 0.99), (-0.1, 1)),
        (OptimConfig, "weight_decay", (0,), (-SMALLEST,)),
        (OptimConfig, "layer_decay", (SMALLEST, 1), (0, 1.1)),
        (OptimConfig, "l2_sp", (0,), (-SMALLEST,)),
        (OptimConfig, "warmup_epochs", (0, 0.5), (-SMALLEST,)),
        (OptimConfig, "step_factor", (SMALLEST,), (0, -0.1)),
        (OptimConfig, "clip_norm", (SMALLEST, None), (0, -1)),
        (PhaseConfig, "epochs", (1,), (0,)),
        (PhaseConfig, "learning_rate", (0, None), (-SMALLEST,)),
        (PhaseConfig, "head_learning_rate", (0, None), (-SMALLEST,)),
        (PhaseConfig, "warmup_epochs", (0, None), (-SMALLEST,)),
        (GroupConfig, "learning_rate", (0, None), (-SMALLEST,)),
        (GroupConfig, "weight_decay", (0, None), (-SMALLEST,)),
        (TransferConfig, "lora_rank", (1,), (0,)),
        (TransferConfig, "lora_alpha", (SMALLEST,), (0,)),
        (TransferConfig, "adapter_reduction", (1,), (0,)),
        (TaskConfig, "weight", (0, 2.5), (-0.1,)),
        (TaskConfig, "label_smoothing", (0, 0.99, None), (-0.1, 1)),
        (TaskConfig, "focal_gamma", (0,), (-0.1,)),
        (TaskConfig, "focal_alpha", (0, 1, None), (-0.1, 1.1)),
        (TaskConfig, "gamma_positive", (0,), (-0.1,)),
        (TaskConfig, "gamma_negative", (0,), (-0.1,)),
        (TaskConfig, "margin", (0, 0.99), (-0.1, 1)),
        (TaskConfig, "huber_delta", (SMALLEST,), (0,)),
        (TaskConfig, "effective_beta", (0, 0.9999), (-0.1, 1)),
        (TaskConfig, "logit_tau", (SMALLEST,), (0,)),
        (TaskConfig, "class_weights", ((), (0, 2.5)), ((-0.1,),)),
        (TaskConfig, "thresholds", ((), (0, 1)), ((-0.1,), (0.5, 1.1))),
        (TaskConfig, "hidden", ((), (1,)), ((0,),)),
        (TaskConfig, "dropout", (0, 0.99, None), (-0.1, 1)),
        (InputsConfig, "max_words", (1,), (0,)),
        (InputsConfig, "vocabulary", (1,), (0,)),
        (InputsConfig, "min_count", (1,), (0,)),
        (InputsConfig, "scales", ((1.0,), (0.5, 2)), ((), (0.0,), (1.0, 1.0))),
        (InputsConfig, "attention_heads", (1,), (0,)),
        (InputsConfig, "recurrent_width", (0,), (-1,)),
        (InputsConfig, "width", (1,), (0,)),
        (InputsConfig, "category_width", (1,), (0,)),
        (InputsConfig, "modality_dropout", (0, 0.99), (-0.1, 1)),
        (ParallelConfig, "fsdp", (1,), (0,)),
        (ParallelConfig, "accumulate", (1,), (0,)),
        (TrainConfig, "head_epochs", (0, 1), (-1,)),
        (TrainConfig, "epochs", (1,), (-1,)),
        (TrainConfig, "label_smoothing", (0, 0.99), (-0.1, 1)),
        (TrainConfig, "keep", (1,), (0,)),
        (TrainConfig, "patience", (1, None), (0, -1)),
        (TrainConfig, "keep_every", (1, None), (0, -1)),
        (TrainConfig, "save_every", (1, None), (0, -1)),
        (TrainConfig, "target", (0.5, None), (float("nan"), float("inf"))),
        (TrainConfig, "seed", (0, 2**32 - 1), (-1, 2**32)),
        (TrainConfig, "ema", (0, 0.999), (-0.1, 1)),
        (TrainConfig, "log_every", (1,), (0,)),
    ],
)
def test_a_field_takes_values_up_to_its_bounds_and_none_beyond(section, field, allowed, refused):
    name = section.__name__.removesuffix("Config").lower()
    lists = {"phase": "transfer.phases", "group": "transfer.groups", "task": "tasks"}
    dotted = lists.get(name, name)
    for value in allowed:
        assert getattr(section(**{field: value}), field) == value
    for value in refused:
        message = re.escape(f"{dotted}.{field} must ") + ".*" + re.escape(f"; got {value!r}")
        with pytest.raises(ValueError, match=message):
            section(**{field: value})


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DataConfig, {"stretch_on": "device"}, "'device' needs data.cache 'none'; .* 'memory'"),
        (TrainConfig, {"epochs": 0}, "train.head_epochs and train.epochs are both 0"),
        (TransferConfig, {"groups": (GroupConfig(),)}, r"must have a name of its own; got \[''\]"),
        (TransferConfig, {"groups": (GroupConfig("a"),) * 2}, "must have a name of its own"),
        (TransferConfig, {"class_mapping": ("a=b",)}, "needs transfer.classifier 'load' or 'fuse'"),
        (
            InputsConfig,
            {"views": ("a", "b"), "group": "c"},
            "inputs.views and inputs.group are",
        ),
        (InputsConfig, {"max_views": 3}, "inputs.max_views needs inputs.group"),
        (
            InputsConfig,
            {"numeric": ("a",), "text": ("a",)},
            "must be of one kind, once; got",
        ),
        (
            TaskConfig,
            {"balance": "effective_number", "class_weights": (1.0,)},
            "exclude each other: leave one out",
        ),
        (
            TaskConfig,
            {"kind": "ordinal", "thresholds": (0.5,)},
            "tasks.thresholds .* 'multi_l",
        ),
        (TaskConfig, {"kind": "regression", "levels": ("a",)}, "tasks.levels .* 'ordinal'; got"),
        (TaskConfig, {"kind": "ordinal", "loss": "mse"}, "must be one of auto, coral, corn; got"),
        (
            TaskConfig,
            {"kind": "multi_label", "balance": "logit_adjustment"},
            "tasks.balance .* must be one of none, positive_weights; got 'logit_adjustment'",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(section, values, message):
    with pytest.raises(ValueError, match=message):
        section(**values)


def test_fields_that_go_together_are_taken():
    assert DataConfig(stretch_on="device", cache="none").stretch_on == "device"
    assert TrainConfig(head_epochs=1, epochs=0).epochs == 0
    assert TransferConfig(classifier="fuse", class_mapping=("a=b",)).class_mapping == ("a=b",)


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
def test_sections_that_do_not_go_together_are_refused(model, transfer, message):
    with pytest.raises(ValueError, match=message):
        Config(model=ModelConfig(**model), transfer=TransferConfig(**transfer))


@pytest.mark.parametrize(
    ("model", "transfer"),
    [
        ({}, {"classifier": "load"}),
        ({"head": "cosine"}, {"head_init": "class_means"}),
        ({"head": "mlp"}, {"head_init": "small"}),
        ({"weights": "random"}, {"head_init": "small"}),
    ],
)
def test_sections_that_go_together_are_taken(model, transfer):
    config = Config(model=ModelConfig(**model), transfer=TransferConfig(**transfer))
    assert configuration.from_json(configuration.to_json(config)) == config


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (ModelConfig, {"head": "liner"}, r"model.head must be one of .*'liner'; .*'linear'\?"),
        (DataConfig, {"worker_type": "proces"}, "data.worker_type must be one of thread, process"),
        (AugmentConfig, {"policy": "autoaugment"}, "augment.policy must be one of none, rand"),
        (OptimConfig, {"name": "adamm"}, "optim.name must be .*got 'adamm'; did you mean 'adam'"),
        (TransferConfig, {"adaptation": "loar"}, r"transfer.adaptation must .*'lora'\?"),
        (TransferConfig, {"batch_norm": None}, "batch_norm must be one of update, .*; got None"),
        (PhaseConfig, {"optimizer": "x"}, "transfer.phases.optimizer must be .*adamw or None; got"),
        (GroupConfig, {"batch_norm": "x"}, "transfer.groups.batch_norm must be one of update"),
        (TrainConfig, {"best_metric": "acuracy"}, r"train.best_metric must .*'accuracy'\?"),
    ],
)
def test_a_word_that_a_field_does_not_take_is_refused_with_the_nearest(section, values, message):
    with pytest.raises(ValueError, match=message):
        section(**values)


def test_all_wrong_fields_of_a_section_are_named_at_once():
    with pytest.raises(ValueError, match=r"(?s)train.keep .*\ntrain.best_metric .*\ntrain.ema "):
        TrainConfig(best_metric="x", keep=0, ema=2.0)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tasks": (TaskConfig(),)}, r"each of tasks must have a name of its own; got \[''\]"),
        ({"tasks": (TaskConfig("a"), TaskConfig("a"))}, "must have a name of its own"),
        ({"tasks": (TaskConfig("a"), TaskConfig("b.c"))}, "cannot be called 'b.c': a dot"),
        ({"tasks": (TaskConfig("a"), TaskConfig("b", columns=("c",)))}, "'b' must be of the first"),
        (
            {"tasks": (TaskConfig("a"),), "data": DataConfig(labels=("a",))},
            "the tasks name their labels, so leave data.labels out",
        ),
        (
            {"inputs": InputsConfig(views=("a", "b")), "data": DataConfig(image_column="a")},
            "which both name the images; leave one out",
        ),
    ],
)
def test_tasks_and_inputs_that_do_not_go_together_are_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        Config(**sections)


def test_the_best_metric_is_any_metric_of_any_task():
    for name in ("kappa", "defect.mae", "macro_auc"):
        assert TrainConfig(best_metric=name).best_metric == name


def test_tasks_are_written_as_the_command_line_reads_them():
    options = changes.as_options(OTHER, ["tasks"])
    assert options == (
        "--tasks 'name=grade,kind=ordinal,levels=low|high,weight=0.5' "
        "'name=kind,label_smoothing=0.1,class_weights=1.0|2.5'"
    )
    assert changes.changed(Config(), changes.with_values(Config(), {"tasks": OTHER.tasks})) == {
        "tasks"
    }


NOT_FINITE = (float("nan"), float("inf"), -float("inf"), 10**400)


def fields_of_type(*types):
    """Returns each field of each section that takes one of these types, or a tuple of them."""
    sections = (
        ModelConfig, DataConfig, AugmentConfig, OptimConfig, PhaseConfig, GroupConfig,
        TransferConfig, TrainConfig, InputsConfig, TaskConfig,
    )  # fmt: skip
    for section in sections:
        for field, annotation in typing.get_type_hints(section).items():
            kind = field_types.options(annotation)[0]
            if kind in types:
                yield section, field, kind


def test_no_number_of_any_section_is_infinite_or_a_text():
    fields = list(fields_of_type(float, int, tuple[float, float], tuple[float, ...]))
    assert len(fields) > 40
    for section, field, kind in fields:
        for value in (*NOT_FINITE, "1", True):
            wrong = value if kind in (float, int) else (1.0, value)
            if kind is int and value == 10**400:
                continue
            with pytest.raises(ValueError, match=rf"\.{field} must be "):
                section(**{field: wrong})


def test_a_whole_number_is_no_fraction_and_a_switch_no_number():
    for section, field, _ in fields_of_type(int):
        with pytest.raises(ValueError, match=rf"\.{field} must be a whole number.*; got 2\.0"):
            section(**{field: 2.0})
    for section, field, _ in fields_of_type(bool):
        with pytest.raises(ValueError, match=rf"\.{field} must be True or False; got 1"):
            section(**{field: 1})


def test_numpy_lists_and_paths_become_values_of_python():
    train = TrainConfig(epochs=np.int64(3), ema=np.float32(0.5), seed=np.uint32(7))
    assert (type(train.epochs), type(train.ema), type(train.seed)) == (int, float, int)
    augment = AugmentConfig(scale=np.asarray([0.5, 1.0]), erase_area=[0.1, 0.2])
    assert augment == AugmentConfig(scale=(0.5, 1.0), erase_area=(0.1, 0.2))
    config = Config(data=DataConfig(data_dir=Path("sets")), train=train, augment=augment)
    assert configuration.from_json(configuration.to_json(config)) == config


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (Config, {"train": {"epochs": 3}}, "^train must be a TrainConfig; got {'epochs': 3}"),
        (
            TransferConfig,
            {"phases": [{}]},
            "phases must be a tuple, each .* a PhaseConfig",
        ),
        (
            DataConfig,
            {"labels": "kind"},
            r"labels must be a tuple, .*; did you mean \('kind',\)",
        ),
        (
            AugmentConfig,
            {"scale": (0.5,)},
            "scale must be a tuple of 2, each item a number",
        ),
        (ModelConfig, {"name": 3}, "model.name must be text; got 3"),
        (ModelConfig, {"hidden": (0,)}, "model.hidden must be widths of 1 or more"),
    ],
)
def test_values_of_another_kind_are_refused(section, values, message):
    with pytest.raises(ValueError, match=message):
        section(**values)


def test_what_may_change_on_resume_is_a_field_of_the_configuration():
    names = {trees.dotted(path) for path in json_format.flat(Config())}
    assert names >= changes.FREE | changes.PLACES | changes.LENGTH
