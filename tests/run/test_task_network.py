"""The network of several tasks or inputs: every option reaches it, and the plain case stays."""

import dataclasses

import pytest

from tests.support.runs import change
from tl_jax.config import Config, InputsConfig, ModelConfig, TaskConfig, TransferConfig
from tl_jax.data.source import Categories, Inputs, Task
from tl_jax.heads.encoders import CategoricalEncoder, NumericEncoder, TokenEncoder, VectorEncoder
from tl_jax.heads.poolings import Pooling
from tl_jax.heads.task_network import TaskHead, TaskNetwork
from tl_jax.models.network import Network
from tl_jax.run.model import build_model, stage_names
from tl_jax.run.task_network import ExampleFacts

KIND = Task("kind", ("a", "b", "c"))
GRADE = Task("grade", ("low", "high"), ordered=True)
WEIGHT = Task("weight", ())
COLUMNS = Inputs(
    numeric=("age",),
    categorical=(Categories("sex", ("f", "m")),),
    vocabulary=("x", "y"),
    max_tokens=4,
    vector=5,
)
MODEL = ModelConfig("resnet18", hidden=(8,), head_dropout=0.3)


def built(*tasks: Task, inputs: Inputs | None = None, config: Config | None = None, **fields):
    facts = ExampleFacts(tasks, inputs or Inputs(), (1.0,), (2.0,))
    config = config or Config(model=MODEL)
    config = dataclasses.replace(config, inputs=InputsConfig(**fields))
    return build_model(config, len(tasks[0].class_names), examples=facts)


@pytest.mark.parametrize(
    ("task", "outputs"),
    [(KIND, 3), (dataclasses.replace(KIND, multi_label=True), 3), (WEIGHT, 1)],
)
def test_one_task_of_one_image_is_a_network_of_the_registry(task, outputs):
    model = built(task)
    assert isinstance(model, Network) and model.num_classes == outputs
    assert built(KIND) == build_model(Config(model=MODEL), 3)


def test_the_options_of_a_single_task_reach_its_head():
    task = TaskConfig("kind", head="mlp", hidden=(4,), dropout=0.5)
    model = built(KIND, config=Config(model=MODEL, tasks=(task,)))
    assert (model.head.hidden, model.head.dropout) == ((4,), 0.5)


def test_levels_share_a_weight_vector_and_corn_needs_none():
    assert built(GRADE).tasks == (TaskHead("", 1, "coral", (8,), 0.3),)
    corn = Config(model=MODEL, tasks=(TaskConfig("grade", loss="corn"),))
    assert isinstance(built(GRADE, config=corn), Network)


def test_each_task_has_a_head():
    tasks = (
        TaskConfig("kind", head="mlp", hidden=(4, 2)),
        TaskConfig("grade"),
        TaskConfig("weight", dropout=0.0),
    )
    model = built(KIND, GRADE, WEIGHT, config=Config(model=MODEL, tasks=tasks))
    assert model.tasks == (
        TaskHead("kind", 3, "mlp", (4, 2), 0.3),
        TaskHead("grade", 1, "coral", (8,), 0.3),
        TaskHead("weight", 1, "linear", (8,), 0.0),
    )
    assert model.backbone.global_pool == "" and model.weighting == "fixed"
    assert stage_names(Config(model=MODEL), model)[0] == "backbone.act1"


def test_weighting_and_initial_values_reach_the_network():
    config = change(Config(model=MODEL), "train", task_weighting="learned")
    config = change(config, "transfer", head_init="small")
    model = built(KIND, WEIGHT, config=config)
    assert model.weighting == "learned" and model.tasks[1].kernel_init == "small"
    assert model.backbone.global_pool == "avg"  # What is below the classifier is kept.


def test_the_options_of_the_inputs_reach_the_network():
    inputs = dataclasses.replace(COLUMNS, views=3)
    model = built(
        KIND,
        inputs=inputs,
        scales=(1.0, 0.5),
        stages=("layer1", "layer4"),
        pooling="attention",
        scale_fusion="gru",
        view_fusion="concatenate",
        attention_heads=2,
        recurrent_width=7,
        join="gated_sum",
        width=6,
        category_width=3,
        modality_dropout=0.25,
    )
    assert isinstance(model, TaskNetwork)
    assert (model.views, model.scales, model.stages) == (3, (1.0, 0.5), ("layer1", "layer4"))
    neck = model.neck
    assert neck.pooling == Pooling("attention", 2)
    assert neck.scale_fusion == Pooling("gru", 2, 7)
    assert neck.view_fusion == Pooling("concatenate", 2)
    assert (neck.join, neck.modality_dropout) == ("gated_sum", 0.25)
    assert neck.numeric == NumericEncoder((1.0,), (2.0,), (6,))
    assert neck.categorical == CategoricalEncoder((2,), 3)
    assert neck.tokens == TokenEncoder(2, 4, 6, 6)
    assert neck.vector == VectorEncoder(5, 6)
    assert model.tasks[0].name == ""  # One task: its logits are the output.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"scales": (1.0, 0.5), "view_fusion": "gru"},
            "inputs.view_fusion 'gru' .* with views",
        ),
        ({"pooling": "gem", "scale_fusion": "max"}, "inputs.scale_fusion 'max' .* two scales"),
        ({"pooling": "gem", "join": "gated_sum"}, "inputs.join 'gated_sum' .* columns beside"),
        ({"pooling": "gem", "modality_dropout": 0.5}, "inputs.modality_dropout 0.5 .* columns"),
        ({"view_fusion": "gru"}, "inputs.view_fusion 'gru' .* with views, of which there are none"),
    ],
)
def test_options_for_inputs_that_are_not_there_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        built(KIND, **fields)


@pytest.mark.parametrize("transfer", [{"classifier": "load"}, {"head_init": "class_means"}])
def test_a_start_by_classes_is_of_one_class_each(transfer):
    config = Config(model=MODEL, transfer=TransferConfig(**transfer))
    for tasks in ((KIND, WEIGHT), (WEIGHT,), (GRADE,)):
        with pytest.raises(ValueError, match="are for a network of one image with one class each"):
            built(*tasks, config=config)


def test_coral_needs_a_linear_head():
    config = Config(model=MODEL, tasks=(TaskConfig("grade", loss="coral", head="mlp"),))
    with pytest.raises(ValueError, match="'coral' of 'grade' needs a linear head"):
        built(GRADE, config=config)
