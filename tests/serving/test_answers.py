"""What is said of a picture: as `Predictor` and `Explainer` say it, for every kind of task."""

import base64
import io
import json
import logging
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import tl_jax
from tests.support import objects, runs
from tl_jax.explanations import overlay
from tl_jax.models import layers
from tl_jax.run import folder
from tl_jax.serving.answers import Answers

pytestmark = pytest.mark.slow
KINDS = tuple(objects.TASKS)


@pytest.fixture(autouse=True)
def networks(tiny_networks):
    with layers.convolution_form("general"):
        yield


@pytest.fixture(scope="module")
def make_run(object_table, shared_weights, tmp_path_factory):
    def make(*kinds, **inputs) -> Path:
        config = objects.make_config(object_table, shared_weights, kinds, **inputs)
        return runs.write_untrained(config, tmp_path_factory.mktemp("runs") / "run")

    return make


@pytest.fixture(scope="module")
def tasks_run(make_run) -> Path:
    return make_run(*KINDS)


@pytest.fixture(scope="module")
def shared_answers(tasks_run) -> Answers:
    with runs.tiny_networks(), layers.convolution_form("general"):
        return Answers(tasks_run)


@pytest.fixture
def answers(shared_answers) -> Answers:
    return shared_answers


@pytest.fixture
def photo(object_table) -> Path:
    return object_table.parent / "validation1front.png"


def pixels(text: str) -> np.ndarray:
    """Returns the pixels of a picture in an answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_the_page_is_told_what_there_is(answers, tasks_run):
    told = answers.network
    assert told["name"] == str(tasks_run) and told["method"] == "grad_cam"
    assert [(task["name"], task["kind"]) for task in told["tasks"]] == [
        (objects.TASKS[kind].name, kind) for kind in KINDS
    ]
    assert told["tasks"][2]["classes"] == list(objects.LEVELS) and not told["tasks"][3]["classes"]
    names = [method["name"] for method in told["methods"]]
    # Its maps are averaged, and there is no attention to be shown.
    assert names[0] == "grad_cam" and "occlusion" in names and "attention" not in names
    json.dumps(told)


def test_every_kind_of_task_is_told_as_it_is_predicted(answers, tasks_run, photo):
    [said] = tl_jax.predict(tasks_run, photo)
    told = {task["kind"]: task for task in answers(photo.read_bytes())["tasks"]}
    assert list(told) == list(KINDS)
    for kind, task in told.items():
        expected = said.tasks[task["name"]]
        if kind == "regression":
            assert task["rows"] == [] and task["result"] == f"{expected.predicted:.6g}"
            continue
        names = list(expected.probabilities)
        for row in task["rows"]:
            assert names[row["index"]] == row["name"]
            assert row["probability"] == pytest.approx(expected.probabilities[row["name"]])
        predicted = [row["name"] for row in task["rows"] if row["is_predicted"]]
        shares = [row["probability"] for row in task["rows"]]
        if kind == "multi_label":
            assert set(predicted) == set(expected.predicted)
            assert {row["name"]: row["threshold"] for row in task["rows"]} == expected.thresholds
        else:
            assert predicted == [expected.predicted] == [task["result"]]
            assert {row["threshold"] for row in task["rows"]} == {None}
        if kind == "multi_class":
            assert shares == sorted(shares, reverse=True)
            assert task["note"] == "It names one of its 2 classes, whatever the picture shows."
        if kind == "ordinal":
            assert [row["name"] for row in task["rows"]] == list(objects.LEVELS)
            assert f"{expected.expected:.2f}" in task["note"]


@pytest.mark.parametrize(
    ("task", "target"), [(None, None), ("kind", 1), ("tags", 0), ("grade", 2), ("weight", None)]
)
def test_what_is_chosen_is_explained(answers, tasks_run, photo, task, target):
    told = answers(photo.read_bytes(), task=task, target=target)
    [found] = tl_jax.explain(tasks_run, photo, task=task, target=target)
    explained = told["explained"]
    assert (explained["task"], explained["target"]) == (found.task, found.target)
    assert explained["text"] == found.text and explained["method"] == "Grad-CAM"
    [tiles] = overlay.tiles(found)
    np.testing.assert_array_equal(pixels(told["image"]), tiles[""])
    np.testing.assert_array_equal(pixels(told["overlay"]), tiles["grad_cam"])


def test_the_method_is_chosen_and_its_colours_are_told(answers, photo):
    picture = photo.read_bytes()
    cam, occlusion = answers(picture), answers(picture, method="occlusion")
    assert cam["overlay"] != occlusion["overlay"]
    assert cam["tasks"] == occlusion["tasks"]
    assert "yellow" in cam["explained"]["reading"]
    assert occlusion["explained"]["reading"] == "red speaks for it, blue against it"
    black = io.BytesIO()
    Image.new("L", (20, 20)).save(black, "PNG")
    # The mean colour hides nothing of itself.
    assert answers(black.getvalue(), method="occlusion")["image"] != occlusion["image"]


def digits_answers(folder: Path, side: int, method: str) -> Answers:
    """Returns those of a run of ten classes."""
    config = tl_jax.Config(
        model=tl_jax.ModelConfig("resnet18", weights="random"),
        data=tl_jax.DataConfig("digits", shots=2, image_size=side),
    )
    return Answers(runs.write_untrained(config, folder), method=method)


def test_of_many_classes_the_most_probable_are_told(tmp_path, photo):
    answers = digits_answers(tmp_path / "digits", 16, "saliency")
    told = answers(photo.read_bytes())
    [task] = told["tasks"]
    shares = [row["probability"] for row in task["rows"]]
    assert len(shares) == 5 and shares == sorted(shares, reverse=True)
    assert task["rows"][0]["name"] == task["result"] == told["explained"]["target"]
    assert told["explained"]["method"] == "saliency"
    assert answers(photo.read_bytes(), target=9)["explained"]["target"] == "9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "gradcam"}, "did you mean 'grad_cam'"),
        ({"task": "kid"}, "did you mean 'kind'"),
        ({"target": 2}, "their places, 0 to 1"),
        ({"task": "weight", "target": 0}, "is a number"),
        ({"method": "attention"}, "does not pool its maps by attention"),
    ],
)
def test_questions_that_mean_nothing_are_refused(answers, photo, options, message):
    with pytest.raises(ValueError, match=message):
        answers(photo.read_bytes(), **options)


def test_what_is_no_picture_is_named(answers, photo):
    for data in (b"", b"hello", photo.read_bytes()[:80]):
        with pytest.raises(ValueError, match=r"cannot decode image notes\.txt: \w"):
            answers(data, name="notes.txt")
    large = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(large, "PNG")
    with pytest.raises(
        ValueError, match=r"declares 10000 x 9000 = 90000000 pixels.*decompression bomb"
    ):
        answers(large.getvalue())
    assert answers(photo.read_bytes())["tasks"]


def test_one_picture_is_computed_at_a_time(answers, photo, monkeypatch):
    at_once, most, explainer = 0, 0, answers._explainer
    gate = threading.Barrier(2)

    class Slow:
        stages, tasks, predictor = explainer.stages, explainer.tasks, explainer.predictor

        def __call__(self, *args, **options):
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            threading.Event().wait(0.1)
            at_once -= 1
            return explainer(*args, **options)

    monkeypatch.setattr(answers, "_explainer", Slow())
    picture, found = photo.read_bytes(), []

    def ask() -> None:
        gate.wait(30)
        found.append(answers(picture))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1 and found[0] == found[1]


def test_attention_is_offered_where_the_pooling_has_it(make_run, photo):
    answers = Answers(make_run("multi_class", pooling="attention"), method="attention")
    assert "attention" in [method["name"] for method in answers.network["methods"]]
    explained = answers(photo.read_bytes())["explained"]
    assert explained["reading"].endswith("the pooling looks there, whatever the class")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("views", "takes 2 images of each object.*use predict and explain, with --object"),
        ("columns", "takes age, origin, words, numbers beside the image.*--source manifest"),
    ],
)
def test_networks_of_more_than_a_picture_are_refused(make_run, inputs, message):
    run = make_run("multi_class", **objects.INPUTS[inputs])
    with pytest.raises(ValueError, match=message):
        Answers(run)


def test_methods_that_are_not_for_the_network_are_refused_at_the_start(tasks_run, monkeypatch):
    with pytest.raises(ValueError, match="does not pool its maps by attention"):
        Answers(tasks_run, method="attention")
    monkeypatch.setattr(folder, "load_run", lambda _: pytest.fail("the run was read"))
    with pytest.raises(ValueError, match="did you mean 'grad_cam'"):
        Answers(tasks_run, method="gradcam")


def test_warming_up_compiles_what_answers_need(tmp_path, photo, monkeypatch):
    answers = digits_answers(tmp_path / "digits", 20, "grad_cam")
    answers.warm_up()
    compiled = []
    with jax.log_compiles(), monkeypatch.context() as patch:
        patch.setattr(logging.Logger, "handle", lambda _, record: compiled.append(record))
        answers(photo.read_bytes())
        answers(photo.read_bytes(), target=1)
        assert compiled == []
        answers(photo.read_bytes(), method="saliency")
        assert any("Compiling" in record.getMessage() for record in compiled)
