"""The comparison of tasks: its runs, its rows and their tables, on runs that are made up."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from experiments import tasks, tasks_methods, tasks_report, tasks_run
from experiments.strategies_run import Job, Run
from tl_jax import config as configuration
from tl_jax.config import Config, DataConfig, InputsConfig, TaskConfig

COMPARISONS = {each.name: each for each in tasks_methods.comparisons()}


def row(method, seed, accuracy, name="multi_view", log_loss=0.5):
    test = {"accuracy": accuracy, "log_loss": log_loss, "count": 500}
    return {"set": name, "method": method, "seed": seed, "test": test}


def rows_of(differences, name="multi_view"):
    counterpart, recipe = COMPARISONS[name].methods[:2]
    return [
        each
        for seed, difference in enumerate(differences)
        for each in (
            row(counterpart.name, seed, 0.5 + 0.1 * seed, name),
            row(recipe.name, seed, 0.5 + 0.1 * seed + difference, name),
        )
    ]


@pytest.mark.parametrize("comparison", COMPARISONS.values(), ids=lambda each: each.name)
def test_the_methods_of_a_comparison_differ_and_share_what_is_not_compared(comparison):
    configs = [comparison.config(method, 2) for method in comparison.methods]
    without_alone = [
        config
        for config, method in zip(configs, comparison.methods, strict=True)
        if method.name != tasks_methods.ALONE
    ]
    assert len(set(without_alone)) == len(without_alone)
    for config in configs:
        assert configuration.from_json(configuration.to_json(config)) == config
        assert config.train.seed == 2 and config.data.test_split == "test"
        assert config.data.source == configs[0].data.source
        for section in ("model", "augment", "optim", "transfer"):
            assert getattr(config, section) == getattr(configs[0], section)
        assert config.train.epochs == configs[0].train.epochs
    if comparison.is_composed:
        assert f"/{comparison.name}-2/" in configs[0].data.source


def test_counterparts_have_less_and_recipes_are_those_of_configs():
    from configs import combined

    comparison = COMPARISONS["combined"]
    counterpart, recipe = (comparison.config(each, 0) for each in comparison.methods[:2])
    assert recipe == combined.get_config()
    assert counterpart.inputs == InputsConfig() and counterpart.data.image_column == "photo1"
    assert counterpart.tasks == recipe.tasks


def test_counterparts_and_recipes_are_run_first():
    names = ("multi_view", "multi_label")
    chosen = [dataclasses.replace(COMPARISONS[name], seeds=2) for name in names]
    names = [f"{run.set}/{run.method}" for run in tasks.wanted_runs(chosen)]
    pairs = ["multi_view/one_view", "multi_view/average"] * 2
    assert names[:8] == pairs + ["multi_label/average", "multi_label/stages_max"] * 2
    assert len(names) == len(set(names)) * 2


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        # The seeds differ by more than the methods do: only the paired differences tell.
        ((0.10, 0.11, 0.12), "better"),
        ((-0.10, -0.11, -0.12), "worse"),
        ((0.10, -0.05, 0.02), "same"),
        ((0.3,), "same"),  # One run says nothing of the spread.
    ],
)
def test_a_verdict_is_that_of_paired_differences(differences, expected):
    summary = tasks_report.summarize(tasks_methods.comparisons(), rows_of(differences))
    (comparison,) = summary["comparisons"]
    found = comparison["methods"][1]["differences"]["accuracy"]
    assert found == pytest.approx(differences)
    assert tasks_report.verdict(found, "accuracy") == expected
    text = tasks_report.markdown(summary["comparisons"]) + tasks_report.legend(summary)
    assert (f"**{np.mean(differences):+.3f} ± " in text) == (expected != "same")
    better, same, worse = (int(expected == each) for each in ("better", "same", "worse"))
    counts = (
        f"{better} are better than their counterparts (first rows), {same} the same and {worse}"
    )
    assert counts in text


def test_a_lower_loss_is_better():
    assert tasks_report.verdict([-0.2, -0.21, -0.22], "log_loss") == "better"
    assert tasks_report.verdict([-0.2, -0.21, -0.22], "number.mae") == "better"


def test_result_is_written_as_three_files_and_into_the_page(tmp_path):
    rows = rows_of((0.10, 0.11, 0.12))
    rows.append(row(tasks_methods.ALONE, 0, 0.4, "multi_modal_columns"))
    del rows[-1]["test"]["log_loss"]  # Which a classifier on columns has not.
    rows.append(row("nothing", 0, 0.7, tasks_methods.IMBALANCE))
    rows[-1]["test"] |= {"balanced_accuracy": 0.6}
    page = tmp_path / "page.md"
    markers = (*tasks_report.MARKERS, *tasks_report.IMBALANCE_MARKERS)
    page.write_text("before\n{}\nold\n{}\nbetween\n{}\nold\n{}\nafter\n".format(*markers))
    summary = tasks_report.summarize(tasks_methods.comparisons(), rows)
    summary["failures"] = {"combined-all-0.003-0": "FloatingPointError: nan"}
    tasks_report.write(summary, tmp_path, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "| one view | 0.600 ± 0.248 | 0.500 ± 0.000 |  |" in text
    assert "| three views, average | 0.710 ± 0.273 | 0.500 ± 0.000 | **+0.110 ± 0.025** |" in text
    assert "| columns alone, boosted trees | 0.400 |  |  |" in text
    assert "multi_view/max (0 of 3)" in text and "`combined-all-0.003-0`: Floating" in text
    assert json.loads((tmp_path / "tasks.json").read_text())["comparisons"][0]["name"]
    with Image.open(tmp_path / "tasks.png") as picture:
        assert picture.width > 800


def test_the_committed_page_takes_the_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(tasks.DOCS.read_text())
    summary = tasks_report.summarize(tasks_methods.comparisons(), rows_of((0.1, 0.2)))
    tasks_report.write(summary, tmp_path, page)
    assert "| one view | 0.550" in page.read_text()


def test_numbers_of_tasks_are_found_by_task_and_those_of_one_task_by_both_names():
    metrics = {"accuracy": 0.5, "kappa": None, "confusion": [[1]], "count": 8}
    one = Config(tasks=(TaskConfig("grade"),))
    assert tasks_run.numbers(metrics, one) == {
        "accuracy": 0.5,
        "kappa": None,
        "count": 8,
        "grade.accuracy": 0.5,
        "grade.kappa": None,
    }
    two = Config(tasks=(TaskConfig("grade"), TaskConfig("kind")))
    several = {"loss": 0.1, "count": 8, "tasks": {"grade": metrics, "kind": {"mae": 1.0}}}
    found = tasks_run.numbers(several, two)
    assert found["grade.accuracy"] == 0.5 and found["kind.mae"] == 1.0 and "accuracy" not in found


def test_words_keep_what_tokens_say():
    tokens = np.array([[2, 1, 3, 0], [0, 0, 0, 0]])
    assert tasks_run.words_of(tokens) == ["w2 w1 w3", ""]


def test_columns_alone_are_learned_without_the_images(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "blank.png")
    lines = ["split,image,height,kind"]
    for split, count in (("train", 60), ("validation", 4), ("test", 20)):
        lines += [f"{split},blank-{split}-{i}.png,{i % 2 * 10},{'ab'[i % 2]}" for i in range(count)]
    for line in lines[1:]:
        (tmp_path / line.split(",")[1]).write_bytes((tmp_path / "blank.png").read_bytes())
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    config = Config(
        data=DataConfig(f"manifest:{tmp_path / 'manifest.csv'}", test_split="test"),
        tasks=(TaskConfig("kind"),),
        inputs=InputsConfig(numeric=("height",)),
    )
    assert tasks_run.columns_alone(config) == {"accuracy": 1.0, "count": 20}


def test_a_run_that_fails_leaves_its_reason_in_the_log(tmp_path):
    config = Config(data=DataConfig(f"manifest:{tmp_path / 'none.csv'}"), tasks=(TaskConfig("x"),))
    run = Run("multi_view", "average", 1e-3, 0, config)
    paths = (tmp_path / name for name in ("run.task", "run.row", "run.log", "run", "compiled"))
    job = Job(run, *paths)
    assert tasks_run.perform(job) == 1 and not job.row.exists()
    assert "none.csv" in job.log.read_text().splitlines()[-1]


def test_runs_are_made_once_and_the_report_makes_none(tmp_path, monkeypatch, capsys):
    launched = []

    def launch(self, job):
        launched.append(job.run.name)
        test = dict.fromkeys(COMPARISONS[job.run.set].metrics, 0.5 + 0.1 * job.run.seed)
        job.row.write_text(json.dumps({"test": test | {"count": 9}}))
        return 0

    monkeypatch.setattr(tasks_run.Workers, "launch", launch)
    monkeypatch.setattr(tasks, "write_sets", lambda *arguments: None)
    folders = ["--results", str(tmp_path / "results"), "--workdir", str(tmp_path / "work")]
    tasks.main([*folders, "--report"])
    assert launched == [] and "multi_view/average (0 of 3)" in capsys.readouterr().out
    tasks.main([*folders, "--only", "multi_view", "--seeds", "2"])
    assert len(launched) == 2 * len(COMPARISONS["multi_view"].methods)
    assert "| one view | 0.550" in capsys.readouterr().out
    tasks.main([*folders, "--only", "multi_view", "--seeds", "2"])
    assert len(launched) == 2 * len(COMPARISONS["multi_view"].methods)


def test_a_method_keeps_the_rest_of_its_recipe():
    config = COMPARISONS["multi_view"].methods[1].config
    changed = tasks_methods.with_inputs(config, view_fusion="max")
    assert dataclasses.replace(changed, inputs=config.inputs) == config
    assert tasks_methods.one_image(config, "view1").inputs == InputsConfig()
