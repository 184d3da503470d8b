"""Error analysis of runs of every kind of task: its numbers are those of the report."""

import json

import numpy as np
import pytest
from PIL import Image

import tl_jax
from tl_jax.analysis import classes
from tl_jax.analysis.errors import errors
from tl_jax.cli import main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def found(finished_run, cache):
    return errors(finished_run.workdir, top=4, cache_dir=cache)


def test_the_numbers_are_those_of_the_report(finished_run, found):
    task = found["tasks"]["label"]
    expected = finished_run.report["metrics"]["test"]
    assert found["split"] == "test"
    assert task["metrics"]["accuracy"] == expected["accuracy"]
    assert task["metrics"]["macro_f1"] == expected["macro_f1"]
    assert [each["recall"] for each in task["classes"]] == expected["recall"]
    assert [each["precision"] for each in task["classes"]] == expected["precision"]
    assert sum(pair["count"] for pair in task["confused_pairs"]) == round(
        (1 - expected["accuracy"]) * 14
    )
    totals = {each["name"]: each["count"] for each in task["classes"]}
    for pair in task["confused_pairs"]:
        assert pair["share"] == pytest.approx(pair["count"] / totals[pair["true"]])


def test_largest_losses_are_told_with_their_files(finished_run, found):
    listed = found["tasks"]["label"]["top_losses"]
    predictions = {
        said["name"]: dict(
            tl_jax.predict(
                finished_run.workdir,
                [f"{finished_run.config.data.source.removeprefix('folder:')}/{said['name']}"],
                calibrated=True,
            )[0]
        )
        for said in listed
    }
    losses = [said["loss"] for said in listed]
    assert len(listed) == 4 and losses == sorted(losses, reverse=True)
    for said in listed:
        probabilities = predictions[said["name"]]
        assert said["probability_of_label"] == pytest.approx(probabilities[said["label"]], abs=1e-4)
        assert max(probabilities, key=probabilities.get) == said["predicted"]


def test_neighbours_are_training_images(found):
    for said in found["neighbours"]:
        assert len(said["neighbours"]) == 5
        similarities = [other["similarity"] for other in said["neighbours"]]
        assert similarities == sorted(similarities, reverse=True)
        assert all(other["name"].startswith("train/") for other in said["neighbours"])


def test_an_image_that_was_copied_from_the_training_split_is_found(finished_run, photos, cache):
    copied = Image.open(photos / "train" / "red ones" / "3.png")
    copied.point(lambda value: 0.9 * value + 20).save(photos / "test" / "grüne" / "copy.png")
    result = errors(finished_run.workdir, source=f"folder:{photos}", split="test", cache_dir=cache)
    [pair] = result["duplicates"]
    assert (pair["name"], pair["other_name"]) == ("test/grüne/copy.png", "train/red ones/3.png")


def test_the_command_writes_files_and_says_what_stands_out(finished_run, tmp_path, capsys, cache):
    arguments = ["errors", str(finished_run.workdir), "--to", str(tmp_path), "--top", "3"]
    arguments += ["--slices-by", "label", "--cache-dir", str(cache)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.startswith("test: 14 examples, checkpoint of step ")
    for line in ("  by label:", "    grüne: 7, accuracy ", "  largest losses:", "training split"):
        assert line in out
    written = json.loads((tmp_path / "errors.json").read_text())
    assert {"errors.json", "top_losses.png", "neighbours.png", "map.png"} <= set(written["files"])
    assert {path.name for path in tmp_path.iterdir()} == set(written["files"])
    assert Image.open(tmp_path / "top_losses.png").width > 500


def test_every_kind_of_task_is_told_what_it_has(task_folder, tmp_path, cache):
    result = errors(
        task_folder, split="validation", slices_by=("kind", "weight"), to=tmp_path, cache_dir=cache
    )
    tasks = result["tasks"]
    defined = {
        name: {
            key
            for key in ("confused_pairs", "calibration", "label_issues", "train_label_issues")
            if task[key] is not None
        }
        for name, task in tasks.items()
    }
    assert defined == {
        "kind": {"confused_pairs", "calibration", "label_issues", "train_label_issues"},
        "tags": {"label_issues"},
        "grade": {"confused_pairs", "label_issues", "train_label_issues"},
        "weight": set(),
    }
    assert all(any(note.startswith(f"{name}:") for note in result["notes"]) for name in ("tags",))
    assert sum("weight:" in note for note in result["notes"]) == 3
    evaluated = tl_jax.evaluate(task_folder, split="validation")
    assert tasks["weight"]["metrics"]["mae"] == evaluated["tasks"]["weight"]["mae"]
    assert tasks["grade"]["intervals"]["mae"] == evaluated["intervals"]["grade.mae"]
    parts = {part["name"]: part for part in tasks["grade"]["slices"]["kind"]}
    assert set(parts) == {"missing", "round", "square"}
    assert sum(part["count"] for part in parts.values()) == tasks["grade"]["count"]
    assert parts["round"]["gap_interval"][0] <= parts["round"]["gap"]
    of_weight = tasks["weight"]["slices"]["kind"]
    for part in of_weight:  # The gap is to all others, of which the slice is none.
        others = [each for each in of_weight if each is not part]
        mean = np.average([o["error"] for o in others], weights=[o["count"] for o in others])
        assert part["gap"] == pytest.approx(part["error"] - mean)
    assert max(abs(part["gap"]) for part in of_weight) > 0
    assert sum("bias" in each for each in tasks["weight"]["classes"]) == len(
        tasks["weight"]["classes"]
    )
    assert (tmp_path / "top_losses-weight.png").exists()


def test_labels_of_the_data_that_the_run_does_not_learn_are_left_out(tmp_path, cache):
    config = tl_jax.Config(
        tl_jax.ModelConfig("simple_cnn", weights="random"),
        tl_jax.DataConfig("elpv", image_size=16, shots=8, workers=0),
        train=tl_jax.TrainConfig(epochs=1),
    )
    tl_jax.fit(config, tmp_path / "run")
    result = errors(tmp_path / "run", slices_by=("cell_type",), cache_dir=cache)
    assert list(result["tasks"]) == ["label"]
    assert [row["name"] for row in result["tasks"]["label"]["slices"]["cell_type"]] == [
        "mono",
        "poly",
    ]
    assert result["tasks"]["label"]["train_label_issues"] is not None


def test_the_training_split_itself_is_said_to_flatter(finished_run, cache):
    result = errors(finished_run.workdir, split="train", cache_dir=cache)
    assert any("flatter" in note for note in result["notes"])
    assert result["duplicates"] is None and result["neighbours"] is None
    assert result["tasks"]["label"]["train_label_issues"]["checked"] == 26


def test_slices_may_be_given_by_value(finished_run, cache):
    values = ["dusk" if i % 3 else "dawn" for i in range(14)]
    result = errors(finished_run.workdir, slices_by={"light": values}, cache_dir=cache)
    parts = result["tasks"]["label"]["slices"]["light"]
    assert {part["name"]: part["count"] for part in parts} == {"dawn": 5, "dusk": 9}
    whole = result["tasks"]["label"]["metrics"]["accuracy"]
    weighted = sum(part["count"] * part["metrics"]["accuracy"] for part in parts) / 14
    assert weighted == pytest.approx(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slices_by": ("colour",)}, "no column 'colour'"),
        ({"slices_by": {"light": ["dusk"]}}, "got 1 values of the slices 'light'"),
        ({"show": (14,)}, "places 0 to 13"),
        ({"top": 0}, "top"),
        ({"probe_on": "end"}, "expected one of run, start"),
    ],
)
def test_what_cannot_be_told_is_refused(finished_run, cache, options, message):
    with pytest.raises(ValueError, match=message):
        errors(finished_run.workdir, cache_dir=cache, **options)


def test_quartiles_keep_equal_numbers_together():
    values = np.array([1.0, 1, 1, 1, 2, 3, np.nan])
    found = classes.quartiles(values)
    assert {name: int(chosen.sum()) for name, chosen in found.items()} == {"1 to 1": 4, "2 to 3": 2}
    assert sum(chosen.astype(int) for chosen in found.values()).tolist() == [1] * 6 + [0]
