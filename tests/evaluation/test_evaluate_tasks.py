"""Evaluation of runs of any tasks and inputs: as the report says, on other data, and in words."""

import json

import jax
import numpy as np
import pytest

import tl_jax
from tl_jax.cli import main
from tl_jax.data.views import Views
from tl_jax.evaluation.evaluate import evaluate
from tl_jax.run.folder import load_run

pytestmark = pytest.mark.slow


def part_of(found, expected):
    """Returns what a result has under the keys of metrics, those of tasks too."""
    kept = {name: found[name] for name in expected if name != "tasks"}
    if "tasks" in expected:
        kept["tasks"] = {
            name: part_of(found["tasks"][name], task) for name, task in expected["tasks"].items()
        }
    return kept


def test_a_run_of_several_tasks_is_evaluated_as_its_report_says(task_run):
    report = json.loads((task_run.workdir / "report.json").read_text())
    found = {split: evaluate(task_run.workdir, split=split) for split in ("validation", "train")}
    for split, result in found.items():
        assert part_of(result, report["metrics"][split]) == report["metrics"][split]
        assert result["calibration"] == report["calibration"]
    assert found["train"]["calibrated_metrics"] == report["calibrated_metrics"]["train"]
    assert found["validation"]["calibrated_metrics"] == {}
    kinds = {name: task["kind"] for name, task in found["train"]["tasks"].items()}
    assert kinds == {
        "kind": "multi_class", "tags": "multi_label", "grade": "ordinal", "weight": "regression",
    }  # fmt: skip
    # A default, and the interval of the report.
    assert found["train"]["intervals"] == report["intervals"]["metrics"]


def test_the_command_says_of_each_task_what_matters(task_run, capsys):
    assert main(["evaluate", str(task_run.workdir)]) == 0
    out = capsys.readouterr().out
    metrics = task_run.report["metrics"]["train"]["tasks"]
    calibrated = task_run.report["calibrated_metrics"]["train"]["tasks"]
    assert out.startswith("train: 24 images, checkpoint of step ")
    order = [line.partition(":")[0] for line in out.splitlines() if not line.startswith(" ")]
    assert order == ["train", "kind", "tags", "grade", "weight"]
    for line in (
        "kind: 23 with a label",
        f"  accuracy           {metrics['kind']['accuracy']:.4f}  (95%: ",
        f"  mAP                {metrics['tags']['mean_average_precision']:.4f}",
        f"(with the chosen thresholds: {calibrated['tags']['macro_f1']:.4f})",
        f"  quadratic kappa    {metrics['grade']['quadratic_kappa']:.4f}  (95%: ",
        f"  MAE                {metrics['weight']['mae']:.4f}  (95%: ",
        "  bright: recall ",
    ):
        assert line in out


@pytest.fixture
def other_table(object_table, tmp_path):
    """A table of the validation split alone, without weights, in which a kind is a new one."""
    rows = [json.loads(line) for line in object_table.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "validation"]
    for row in rows:
        del row["weight"], row["split"]
        row |= {
            view: f"{object_table.parent}/{row[view]}" for view in ("front", "side") if row[view]
        }
    rows[0]["kind"] = "oval"
    table = tmp_path / "other.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def test_other_data_may_lack_tasks_and_have_other_classes(task_run, other_table):
    source = {"source": f"manifest:{other_table}", "labels": ["kind", "grade"]}
    source["image_column"] = "front"
    with pytest.raises(ValueError, match=r"(?s)not trained on:.*kind: 'oval' \(1\)"):
        evaluate(task_run.workdir, **source)
    found = evaluate(task_run.workdir, unknown_classes="skip", **source)
    own = evaluate(task_run.workdir, split="validation")
    counts = {name: task["count"] for name, task in found["tasks"].items()}
    assert counts == {"kind": 7, "tags": 0, "grade": 8, "weight": 0}
    mae = own["tasks"]["grade"]["mae"]
    assert found["tasks"]["grade"]["mae"] == pytest.approx(mae, rel=1e-5)
    assert found["tasks"]["tags"]["absent_classes"] == ["bright", "red"]
    assert found["split"] == "all" and found["calibrated_metrics"]["count"] == 9
    with pytest.raises(ValueError, match="did not learn 'grad'; did you mean 'grade'"):
        evaluate(task_run.workdir, source=source["source"], labels=["grad"])


def test_one_task_has_its_metrics_and_its_column_under_any_name(
    make_task_run, tiny_networks, other_table
):
    run = make_task_run("ordinal")
    own = evaluate(run, split="validation")
    assert own["kind"] == "ordinal" and own["class_names"] == ["low", "middle", "high"]
    assert "tasks" not in own and own["calibration"] == own["calibrated_metrics"] == {}
    text = other_table.read_text().replace('"grade"', '"quality"')
    other_table.write_text(text)
    other = {"source": f"manifest:{other_table}", "image_column": "front"}
    found = evaluate(run, labels=["quality"], **other)
    assert found["quadratic_kappa"] == pytest.approx(own["quadratic_kappa"])
    assert found["count"] == own["count"] == 8


def test_levels_of_a_folder_are_matched_by_name(
    make_task_run, tiny_networks, object_table, tmp_path
):
    rows = [json.loads(line) for line in object_table.read_text().splitlines()]
    for row in rows:
        if row["split"] == "validation" and row["grade"] in ("low", "high"):
            place = tmp_path / "set" / row["grade"] / row["front"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((object_table.parent / row["front"]).read_bytes())
    found = evaluate(make_task_run("ordinal"), source=f"folder:{tmp_path / 'set'}")
    assert found["absent_classes"] == ["middle"] and found["count"] == 5
    assert [sum(row) for row in found["confusion"]] == [3, 0, 2]


def test_views_and_columns_of_other_data_are_the_runs(
    make_task_run, tiny_networks, other_table, shared_photos
):
    run = make_task_run("regression", "multi_label", inputs="all")
    own = evaluate(run, split="validation")
    assert own["inputs"] == ["views", "numeric", "categorical", "tokens", "vector"]
    other_table.write_text(other_table.read_text().replace('"side"', '"profile"'))
    other = {"source": f"manifest:{other_table}", "image_column": ["front", "profile"]}
    found = evaluate(run, labels=["tags"], **other)
    assert found["tasks"]["tags"]["loss"] == pytest.approx(own["tasks"]["tags"]["loss"], rel=1e-4)
    assert found["tasks"]["weight"]["count"] == 0
    with pytest.raises(ValueError, match=r"takes the columns 'front', 'side', 'age', .*manifest:"):
        evaluate(run, source=f"folder:{shared_photos}", split="test")
    with pytest.raises(ValueError, match="takes up to 2 images of each example"):
        evaluate(run, views=Views(flip=True))


def test_numbers_are_averaged_over_flipped_images(make_task_run, tiny_networks, object_table):
    run = make_task_run("regression")
    found = evaluate(run, split="validation", views=Views(flip=True))
    rows = [json.loads(line) for line in object_table.read_text().splitlines()]
    rows = [r for r in rows if r["split"] == "validation" and r["weight"] is not None]
    trained = load_run(run)
    files = [object_table.parent / row["front"] for row in rows]
    images = tl_jax.preprocess(files, trained.info.preprocess)
    apply = jax.jit(trained.model.apply)
    outputs = [apply(trained.variables, x) for x in (images, images[:, :, ::-1])]
    predicted = [trained.objective.predictions(each)["predicted"] for each in outputs]
    errors = np.mean(predicted, axis=0) - [row["weight"] for row in rows]
    assert found["mae"] == pytest.approx(np.abs(errors).mean(), rel=1e-4)


@pytest.mark.full
def test_flipped_images_beside_columns_are_averaged(make_task_run, tiny_networks):
    run = make_task_run("ordinal", "regression", inputs="columns")
    both, one = (evaluate(run, split="validation", views=Views(flip=f)) for f in (True, False))
    assert both["tasks"]["weight"]["mae"] != one["tasks"]["weight"]["mae"]
    for task in ("grade", "weight"):
        assert both["tasks"][task]["count"] == one["tasks"][task]["count"]


def test_views_of_an_object_are_refused_for_a_run_of_one_image(task_run):
    with pytest.raises(ValueError, match="one image of each example; name one column"):
        evaluate(task_run.workdir, image_column=["front", "side"])
    with pytest.raises(ValueError, match="got a group of rows for a run that takes one image"):
        evaluate(task_run.workdir, group="kind")
