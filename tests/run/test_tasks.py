"""The tasks of a configuration in the data: their columns, kinds, order, and what is refused."""

import dataclasses

import numpy as np
import pytest

from tests.support import objects
from tl_jax.config import Config, DataConfig, InputsConfig, TaskConfig
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.run.data import check_splits, learned_tasks, open_split, open_splits
from tl_jax.run.tasks import as_configured, label_options

IMAGES = np.zeros((4, 8, 8), np.uint8)
LABELS = {"kind": ["cat", "dog", "cat", "dog"], "height": ["1", "3", "2", "2"]}

EVERY = tuple(objects.TASKS.values())


def source():
    return from_arrays(IMAGES, LABELS)


def configured(*tasks, **fields):
    return as_configured(Config(tasks=tasks, **fields), source())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return objects.write(tmp_path_factory.mktemp("objects"))


def test_without_tasks_a_source_is_as_it_is():
    plain = source()
    assert as_configured(Config(), plain) is plain
    assert [task.name for task in learned_tasks(Config(), plain)] == ["kind"]
    several = Config(data=DataConfig(labels=("kind", "height")))
    assert [task.name for task in learned_tasks(several, plain)] == ["kind", "height"]


def test_tasks_choose_order_and_kind():
    found = configured(TaskConfig("height", kind="ordinal"), TaskConfig("kind"))
    assert [(task.name, task.kind) for task in found.tasks] == [
        ("height", "ordinal"),
        ("kind", "multi_class"),
    ]
    assert found.labels().tolist() == [0, 2, 1, 1]
    assert found.task_labels()["kind"].tolist() == [0, 1, 0, 1]
    assert found[1]["label"] == 2 and found[1]["kind"] == 1


def test_levels_are_in_the_order_that_is_given():
    found = configured(TaskConfig("height", levels=("3", "1", "2")))
    assert found.tasks[0].class_names == ("3", "1", "2") and found.tasks[0].ordered
    assert found.labels().tolist() == [1, 0, 2, 2]


def test_a_set_of_one_kind_of_label_takes_any_name():
    one = from_arrays(IMAGES, [0, 1, 0, -1], ["a", "b"])
    found = as_configured(Config(tasks=(TaskConfig("defect"),)), one)
    assert found.tasks[0].name == "defect" and found.labels().tolist() == [0, 1, 0, -1]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (TaskConfig("knd"), "has no labels 'knd'; did you mean 'kind'"),
        (TaskConfig("kind", kind="regression"), "of the kind 'regression', but .* 'multi_class'"),
        (TaskConfig("kind", kind="multi_label"), "of the kind 'multi_label', but the labels"),
        (
            TaskConfig("height", levels=("1", "2")),
            r"are \['1', '2'\], but the labels of",
        ),
    ],
)
def test_tasks_that_the_data_do_not_have_are_refused(task, message):
    with pytest.raises(ValueError, match=message):
        configured(task, TaskConfig("height" if task.name != "height" else "kind"))


def test_what_a_source_does_not_take_is_not_asked_of_it():
    tasks = (TaskConfig("grade", kind="ordinal", levels=("a", "b")),)
    some = label_options(Config(tasks=tasks), takes=lambda option: option == "ordered")
    assert (some.labels, some.ordered) == ((), {"label": ("a", "b")})
    every = label_options(Config(tasks=tasks), takes=lambda option: True)
    assert (every.labels, every.ordered) == (("grade",), {"grade": ("a", "b")})
    assert label_options(Config(tasks=tasks), takes=lambda option: False).ordered == {}


# ---- a table


def opened(table, tasks=EVERY, **inputs):
    data = DataConfig(f"manifest:{table}", image_column=None if "views" in inputs else "front")
    config = Config(data=data, tasks=tasks, inputs=InputsConfig(**inputs))
    return config, open_splits(config)


def test_a_table_has_labels_of_all_kinds_and_all_inputs(table):
    columns = {k: v for k, v in objects.COLUMNS.items() if isinstance(v, tuple)}
    config, splits = opened(table, views=("front", "side"), **columns)
    kinds = [task.kind for task in splits["train"].tasks]
    assert kinds == ["multi_class", "multi_label", "ordinal", "regression"]
    inputs = splits["train"].inputs
    assert (inputs.views, inputs.numeric, inputs.max_tokens, inputs.vector) == (2, ("age",), 3, 3)
    assert splits["validation"].inputs == inputs
    notes = check_splits(config, splits)
    assert "1 of 24 examples of split 'train' have no 'grade'" in notes


def test_text_is_cut_and_rare_words_are_unknown(table):
    _, splits = opened(table, text=("words",), max_words=2, vocabulary=1)
    assert splits["train"].inputs.max_tokens == 2
    assert splits["train"].inputs.vocabulary == ("a",)


def test_columns_of_zeros_and_ones_are_one_task(tmp_path):
    table = objects.write(tmp_path)
    lines = table.read_text().splitlines()
    flags = [f'{line[:-1]}, "old": {i % 2}, "new": {int(i % 3 == 0)}}}' for i, line in
             enumerate(lines)]  # fmt: skip
    table.write_text("\n".join(flags))
    task = TaskConfig("state", kind="multi_label", columns=("old", "new"))
    _, splits = opened(table, tasks=(task, objects.TASKS["regression"]))
    (state, weight) = splits["train"].tasks
    assert (state.name, state.kind, state.class_names) == ("state", "multi_label", ("old", "new"))
    assert splits["train"].labels()[1].tolist() == [1, 0] and weight.name == "weight"


def test_missing_labels_of_a_task_are_masked_and_those_of_a_plain_run_refused(table):
    config, _ = opened(table, tasks=(objects.TASKS["multi_class"],))
    assert (open_split(config, "train").labels() < 0).sum() == 1
    plain = dataclasses.replace(
        config, tasks=(), data=dataclasses.replace(config.data, labels=("kind",))
    )
    with pytest.raises(ValueError, match="1 of 24 examples of split 'train' .* have no 'kind'"):
        open_split(plain, "train")
