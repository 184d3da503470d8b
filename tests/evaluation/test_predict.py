"""Runs of every kind of task and input predict: in Python, on the command line, into files."""

import csv
import importlib
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tests.support import objects, runs
from tl_jax.cli import main
from tl_jax.data.images import pixel_limit
from tl_jax.data.preprocess import evaluation_input
from tl_jax.data.sources.open import open_source
from tl_jax.data.views import Views
from tl_jax.evaluation.predict import Predictor, predict
from tl_jax.evaluation.predictions import Prediction
from tl_jax.run import data
from tl_jax.run.folder import load_run, write_run

pytestmark = pytest.mark.slow
batches = importlib.import_module("tl_jax.evaluation.prediction_batches")
command = importlib.import_module("tl_jax.cli.prediction")
prediction_inputs = importlib.import_module("tl_jax.evaluation.prediction_inputs")

KINDS = tuple(objects.TASKS)
CHOSEN = {"kind": {"temperature": 3.0}, "tags": {"thresholds": [0.01, 0.99]}}
# Images of a call: so all calls of a network share a program.
COUNT = 4
COLUMNS = ("age", "origin", "words", "numbers")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return objects.write(tmp_path_factory.mktemp("objects"))


@pytest.fixture(scope="module")
def image_run(table, shared_weights, tmp_path_factory) -> Path:
    """A run of four tasks on one image."""
    config = objects.make_config(table, shared_weights, KINDS)
    folder = tmp_path_factory.mktemp("runs") / "image"
    return runs.write_untrained(config, folder, calibration=CHOSEN)


@pytest.fixture(scope="module")
def views_run(table, shared_weights, tmp_path_factory) -> Path:
    """A run of two tasks on two views, whose order matters."""
    options = {**objects.INPUTS["views"], "view_fusion": "concatenate"}
    config = objects.make_config(table, shared_weights, ("ordinal", "multi_class"), **options)
    folder = tmp_path_factory.mktemp("runs") / "views"
    return runs.write_untrained(config, folder, calibration=CHOSEN)


@pytest.fixture(scope="module")
def all_run(table, shared_weights, tmp_path_factory) -> Path:
    """A run of four tasks on two views and columns of every kind, with attention."""
    options = {**objects.INPUTS["all"], "view_fusion": "attention", "pooling": "attention"}
    config = objects.make_config(table, shared_weights, KINDS, **options)
    folder = tmp_path_factory.mktemp("runs") / "all"
    return runs.write_untrained(config, folder, calibration=CHOSEN)


@pytest.fixture(autouse=True)
def networks(tiny_networks):
    pass


@pytest.fixture
def photos(table, tmp_path) -> Path:
    """Four images in two folders, and a file that is none."""
    for place in range(COUNT):
        folder = tmp_path / "photos" / f"{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(table.parent / f"validation{place}front.png", folder / f"{place}.png")
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def unlabelled(table: Path, **changes) -> Path:
    """Writes the rows of the validation split without their labels."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    kept = [
        {key: row[key] for key in ("front", "side", *COLUMNS)} | changes
        for row in rows
        if row["split"] == "validation"
    ]
    path = table.parent / "new.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    return path


def assert_same(one: list[Prediction], other: list[Prediction], **tolerance) -> None:
    """Asserts that predictions say the same, whatever their images are called."""
    assert len(one) == len(other) > 0
    for first, second in zip(one, other, strict=True):
        assert first.error is second.error is None
        assert first.tasks.keys() == second.tasks.keys()
        for name, said in first.tasks.items():
            as_said = second.tasks[name]
            assert said.kind == as_said.kind
            if said.kind == "regression":
                assert said.predicted == pytest.approx(as_said.predicted, rel=1e-4)
                continue
            assert said.predicted == as_said.predicted
            expected = pytest.approx(dict(as_said.probabilities), rel=1e-3, abs=1e-6)
            assert dict(said.probabilities) == expected


# ---- what is said


def test_what_is_said_is_what_the_objective_reads_from_the_outputs(image_run, table):
    files = sorted(table.parent.glob("validation*front.png"))[:COUNT]
    run = load_run(image_run)
    images = np.stack([prediction_inputs.eval_image(f, run.info.preprocess) for f in files])
    how = run.info.preprocess
    prepared = evaluation_input({"image": images}, how.mean, how.std)
    outputs = jax.jit(run.model.apply)(run.variables, prepared)
    expected = jax.device_get(run.calibrated.predictions(outputs))
    plain = jax.device_get(run.objective.predictions(outputs))
    said = predict(image_run, files)
    assert [each.paths for each in said] == [(str(file),) for file in files]
    names = {task.name: task.class_names for task in run.info.tasks}
    for row, each in enumerate(said):
        assert list(each.tasks) == ["kind", "tags", "grade", "weight"]
        for name in ("kind", "tags", "grade"):
            row_of = expected[name]["probabilities"][row].tolist()
            probabilities = dict(zip(names[name], row_of, strict=True))
            assert dict(each.tasks[name].probabilities) == pytest.approx(probabilities, rel=1e-4)
        for name in ("kind", "grade"):
            assert each.tasks[name].predicted == names[name][expected[name]["predicted"][row]]
        flags = dict(zip(names["tags"], expected["tags"]["predicted"][row], strict=True))
        assert each.tasks["tags"].predicted == tuple(name for name in flags if flags[name])
        assert dict(each.tasks["tags"].thresholds) == {"bright": 0.01, "red": 0.99}
        assert each.tasks["grade"].expected == pytest.approx(expected["grade"]["expected"][row])
        assert each.tasks["weight"].predicted == pytest.approx(expected["weight"]["predicted"][row])
    # The temperature and the thresholds matter here.
    assert np.abs(plain["kind"]["probabilities"] - expected["kind"]["probabilities"]).max() > 0.01
    assert (plain["tags"]["predicted"] != expected["tags"]["predicted"]).any()


def test_a_prediction_is_json(image_run, photos):
    [said, *_] = predict(image_run, [photos])
    read = json.loads(json.dumps(said.as_json()))
    assert read == said.as_json()
    assert read["paths"] == [str(photos / "0" / "0.png")] and read["error"] is None
    assert {name: list(task) for name, task in read["tasks"].items()} == {
        "kind": ["kind", "predicted", "probabilities"],
        "tags": ["kind", "predicted", "probabilities", "thresholds"],
        "grade": ["kind", "predicted", "probabilities", "expected"],
        "weight": ["kind", "predicted"],
    }
    assert list(read["tasks"]["grade"]["probabilities"]) == list(objects.LEVELS)


def test_runs_with_other_thresholds_share_the_network_s_program(image_run, photos, tmp_path):
    predict(image_run, photos)
    compiled = batches._outputs._cache_size()
    run = load_run(image_run)
    other = {"tags": {"thresholds": [0.999999, 1.0]}}
    write_run(tmp_path / "run", run.config, run.info, run.variables, calibration=other)
    assert {each.tasks["tags"].predicted for each in predict(tmp_path / "run", photos)} == {()}
    assert batches._outputs._cache_size() == compiled


def test_flips_are_averaged_of_one_image_and_refused_of_several(image_run, views_run, photos):
    both = Views(flip=True)
    file = photos / "0" / "0.png"
    pixels = prediction_inputs.eval_image(file, load_run(image_run).info.preprocess)
    one, mirrored, *_ = predict(image_run, [pixels, pixels[:, ::-1]] * 2)
    [mean] = predict(image_run, pixels, views=both)
    for name in ("kind", "grade", "tags"):
        for label, value in mean.tasks[name].probabilities.items():
            pair = [each.tasks[name].probabilities[label] for each in (one, mirrored)]
            if name != "kind":  # Averaged before the temperature, whose mean differs.
                assert value == pytest.approx(np.mean(pair), abs=1e-4)
    values = [each.tasks["weight"].predicted for each in (one, mirrored)]
    assert mean.tasks["weight"].predicted == pytest.approx(np.mean(values), rel=1e-4)
    with pytest.raises(ValueError, match="takes several images of each object"):
        Predictor(views_run, views=both)


# ---- what is taken


def test_a_table_without_labels_is_read_with_the_run_s_columns_and_words(all_run, table):
    new = unlabelled(table)
    run = load_run(all_run)
    predictor = Predictor(all_run)
    labelled = data.open_split(run.config, "validation", inputs=run.info.inputs)
    expected = predictor(source=labelled)
    assert_same(predictor(source=f"manifest:{new}"), expected)
    assert_same(predictor(source=f"manifest:{table}", split="val"), expected)
    assert len(predictor.stream(source=f"manifest:{table}")) == 33
    assert expected[3].paths[1] == "" and expected[3].paths[0].endswith("validation3front.png")
    strange = unlabelled(table, origin="nowhere", words="unseen", age=None)
    stream = predictor.stream(source=f"manifest:{strange}")
    said = " ".join(stream.notes)
    assert "values of 'origin' are not in the training split" in said
    assert "9 of 9 words are not in the vocabulary" in said
    assert [each.error for each in stream] == [None] * 9


def test_what_a_run_cannot_take_is_refused_by_name(all_run, views_run, image_run, table, photos):
    with pytest.raises(ValueError, match=r"takes numeric, categorical, tokens, vector beside"):
        predict(all_run, photos)
    with pytest.raises(ValueError, match="no column 'age'"):
        new = table.parent / "bare.csv"
        new.write_text("front,side\nvalidation0front.png,validation0side.png\n")
        predict(all_run, source=f"manifest:{new}")
    with pytest.raises(ValueError, match="no column of splits"):
        predict(views_run, source=f"manifest:{new}", split="test")
    with pytest.raises(ValueError, match="expected images, or a source"):
        predict(image_run)
    with pytest.raises(ValueError, match="got a split or columns with images"):
        predict(image_run, photos, split="test")
    with pytest.raises(ValueError, match="inputs of .* are not those"):
        predict(all_run, source=open_source("digits", "train[:5]"))
    with pytest.raises(ValueError, match="top=3 for a network whose predictions hold all"):
        predict(image_run, photos, top=3)


def test_the_images_of_an_object_are_a_list_or_a_folder(views_run, table, tmp_path):
    front, side = (table.parent / f"validation1{view}.png" for view in ("front", "side"))
    predictor = Predictor(views_run)
    new = tmp_path / "new.csv"
    new.write_text(f"front,side\n{front},{side}\n{front},\n{side},{front}\n")
    both, alone, swapped = predictor(source=f"manifest:{new}")
    assert both.tasks["grade"].probabilities != swapped.tasks["grade"].probabilities
    for name, views in (("a", (front, side)), ("b", (front,))):
        folder = tmp_path / "objects" / name
        folder.mkdir(parents=True)
        for view in views:
            shutil.copy(view, folder / f"{view.stem.removeprefix('validation1')}.png")
    assert_same(predictor([[front, side], [str(front)], [side, front]]), [both, alone, swapped])
    pixels = np.asarray(Image.open(side))
    said = predictor([tmp_path / "objects", [pixels, front], [None, side]])
    assert_same(said[:3], [both, alone, swapped])
    assert [Path(path).name for path in said[0].paths] == ["front.png", "side.png"]
    assert said[3].paths == ("", str(side))
    # Names are the places of the views; without them the order is.
    named = [tmp_path / "objects" / "a" / f"{view}.png" for view in ("side", "front")]
    assert_same(predictor([named] * COUNT), [both] * COUNT)
    with pytest.raises(ValueError, match="got 3 images of an object; expected at most 2"):
        predictor([[front, side, front]])
    with pytest.raises(TypeError, match="give a list of images, or a folder, for each object"):
        predictor(np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(FileNotFoundError, match=r"front\.png is a file; the network takes up to 2"):
        predictor([front])


def test_a_stream_names_what_is_bad_and_goes_on(image_run, photos):
    (photos / "0" / "2.png").write_bytes(b"no image")
    (photos / "1" / "1.png").unlink()
    given = [photos / "gone.png", photos]
    with pytest.raises(FileNotFoundError, match=r"there is no file .*gone\.png"):
        predict(image_run, given)
    skipped = predict(image_run, given, on_corrupt="skip")
    stream = Predictor(image_run).stream(given)
    assert len(stream) == COUNT and list(stream) == skipped
    names = [Path(each.paths[0]).name for each in skipped]
    assert names == ["gone.png", "0.png", "2.png", "3.png"]
    assert [bool(each.error) for each in skipped] == [True, False, True, False]
    assert "2.png" in skipped[2].error and skipped[2].tasks == {}
    assert stream.notes == (f"passed over in {photos}: 1 .txt",)
    with pytest.raises(ValueError, match=r"cannot decode image .*2\.png"):
        predict(image_run, photos)


def test_what_is_bad_in_a_source_is_called_as_the_source_does(image_run, photos):
    (photos / "0" / "2.png").write_bytes(b"no image")
    new = photos / "new.csv"
    new.write_text("front\n0/0.png\n0/2.png\ngone.png\n1/1.png\n")
    predictor = Predictor(image_run)
    said = list(predictor.stream(source=f"manifest:{new}", image_column="front"))
    assert [each.paths for each in said] == [
        (f"{photos}/{name}",) for name in ("0/0.png", "0/2.png", "gone.png", "1/1.png")
    ]
    assert [bool(each.error) for each in said] == [False, True, True, False]
    assert "2.png" in said[1].error and "gone.png" in said[2].error
    plain = list(predictor.stream(source="digits", split="test[:4]"))
    assert [each.paths for each in plain] == [(f"example {i} of digits",) for i in range(COUNT)]


def test_a_wrong_limit_on_pixels_is_one_error_and_not_a_fault_of_every_image(
    image_run, photos, monkeypatch, capsys
):
    made_before = Predictor(image_run)
    monkeypatch.setenv(pixel_limit.VARIABLE, "many")
    for call in (
        lambda: Predictor(image_run),
        lambda: predict(image_run, photos, on_corrupt="skip"),
        lambda: made_before(photos, on_corrupt="skip"),
        lambda: next(iter(made_before.stream(photos))),
    ):
        with pytest.raises(ValueError, match="^got TL_JAX_MAX_PIXELS=many; expected the most pix"):
            call()
    assert main(["predict", str(image_run), str(photos)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: got TL_JAX_MAX_PIXELS=many; expected the most pixels")


def test_a_long_stream_reads_no_more_than_a_batch_ahead(image_run, photos, monkeypatch):
    monkeypatch.setattr(batches, "_BATCH_SIZE", COUNT)
    read = []
    original = prediction_inputs.eval_image
    monkeypatch.setattr(
        prediction_inputs, "eval_image", lambda *args: read.append(0) or original(*args)
    )
    many = iter(Predictor(image_run).stream([photos / "0" / "0.png"] * 40))
    next(many)
    assert len(read) <= 3 * COUNT
    assert len(list(many)) == 39 and len(read) == 40


def test_the_weights_of_attention_are_returned_for_each_example(all_run, image_run, table):
    found = Predictor(all_run).attention(source=f"manifest:{unlabelled(table)}")
    assert len(found) == 9
    scales = {f"neck.space.{stage}.{scale}" for stage in ("layer1", "layer2") for scale in (0, 1)}
    assert found[0].keys() == {"neck.views"} | scales
    both, alone = found[0]["neck.views"], found[3]["neck.views"]
    assert both.shape == alone.shape == (2, 4)  # Views and heads.
    assert both.min() > 0 and both[0].tolist() != both[1].tolist()
    np.testing.assert_allclose(both.sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(alone, [[1] * 4, [0] * 4], atol=1e-6)
    large, small = (found[0][f"neck.space.layer2.{scale}"] for scale in (0, 1))
    assert large.shape[::2] == small.shape[::2] == (2, 4)
    assert large.shape[1] == 4 * small.shape[1]
    np.testing.assert_allclose(large.sum(1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="no pooling or fusion of the network is attention"):
        Predictor(image_run).attention(table.parent / "validation1front.png")


# ---- a single label


def test_a_single_label_keeps_its_lists_and_is_calibrated_on_request(finished_run, shared_photos):
    run, folder = finished_run.workdir, shared_photos / "test"
    files = sorted(folder.glob("*/*.png"))
    plain = predict(run, files, top=2)
    assert predict(run, folder, top=2) == plain
    [(_, chosen)] = finished_run.report["calibration"].items()
    for one, other in zip(plain, predict(run, files, top=2, calibrated=True), strict=True):
        logits = np.log([value for _, value in one]) / chosen["temperature"]
        assert [name for name, _ in one] == [name for name, _ in other]
        expected = np.exp(logits) / np.exp(logits).sum()
        assert [value for _, value in other] == pytest.approx(expected, rel=1e-3)
    given = [*files[:-1], folder / "gone.png"]
    assert predict(run, given, top=2, on_corrupt="skip") == [*plain[:-1], []]
    said = list(Predictor(run).stream(files))
    assert [each.tasks["label"].predicted for each in said] == [names[0][0] for names in plain]


# ---- the command


def test_the_command_prints_each_task(image_run, photos, capsys):
    said, *_ = predict(image_run, photos)
    assert main(["predict", str(image_run), str(photos)]) == 0
    out = capsys.readouterr().out
    assert out.count(str(photos)) == COUNT
    lines = out.partition(f"{photos}/0/2.png")[0].splitlines()
    assert lines[0] == str(photos / "0" / "0.png")
    kind, tags = said.tasks["kind"], said.tasks["tags"]
    assert lines[1] == f"  kind: {kind.predicted}"
    assert lines[2] == f"    {kind.probabilities[kind.predicted]:7.2%}  {kind.predicted}"
    assert f"  tags: {', '.join(tags.predicted) or 'none'}" in lines
    for name, value in tags.probabilities.items():
        below = f"  (below its threshold of {tags.thresholds[name]:.1%})"
        line = f"    {value:7.2%}  {name}{'' if name in tags.predicted else below}"
        assert line in lines
    place = lines.index(f"  grade: {said.tasks['grade'].predicted}")
    assert [line.split()[-1] for line in lines[place + 1 : place + 4]] == list(objects.LEVELS)
    assert lines[-1] == f"  weight: {said.tasks['weight'].predicted:.6g}"


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
def test_the_command_writes_files_and_counts_what_is_bad(
    suffix, image_run, photos, tmp_path, capsys
):
    (photos / "1" / "1.png").write_bytes(b"no image")
    (photos / "1" / "3.png").unlink()
    file = tmp_path / f"said{suffix}"
    assert main(["predict", str(image_run), str(photos), "gone.png", "--to", str(file)]) == 1
    out, err = capsys.readouterr()
    assert out == f"wrote 4 predictions to {file}\n"
    assert "error: cannot decode image" in err and "error: there is no file gone.png" in err
    assert err.endswith("error: 2 of 4 could not be read; they are named above\n")
    expected = predict(image_run, [photos, "gone.png"], on_corrupt="skip")
    if suffix == ".json":
        assert json.loads(file.read_text()) == [each.as_json() for each in expected]
    elif suffix == ".jsonl":
        lines = file.read_text().splitlines()
        assert [json.loads(line) for line in lines] == [each.as_json() for each in expected]
    else:
        assert_csv(file, expected)
    assert not list(tmp_path.glob("*.part"))


def assert_csv(file: Path, expected: list[Prediction]) -> None:
    """Asserts that a table holds predictions, and is a manifest with them as labels."""
    rows = list(csv.DictReader(file.open(newline="")))
    assert list(rows[0]) == [
        "path", "kind", "kind.round", "kind.square", "tags", "tags.bright", "tags.red",
        "grade", "grade.low", "grade.middle", "grade.high", "weight", "error",
    ]  # fmt: skip
    for row, each in zip(rows, expected, strict=True):
        assert row["path"] == each.paths[0] and row["error"] == (each.error or "")
        if each.error is None:
            assert float(row["grade.low"]) == each.tasks["grade"].probabilities["low"]
            assert float(row["weight"]) == each.tasks["weight"].predicted
    good = file.with_name("good.csv")
    good.write_text("".join(x for x in file.read_text().splitlines(True) if "no " not in x))
    kinds = {"numbers": ("weight",), "ordered": {"grade": objects.LEVELS}}
    source = open_source(f"manifest:{good}", "all", labels=("grade", "tags", "weight"), **kinds)
    kept = [each for each in expected if each.error is None]
    grades = [objects.LEVELS.index(each.tasks["grade"].predicted) for each in kept]
    assert source.labels().tolist() == grades


def test_of_many_images_it_is_said_how_many_are_done(
    image_run, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "_MANY", COUNT - 1)
    monkeypatch.setattr(command, "_SECONDS_BETWEEN_LINES", -1)
    assert main(["predict", str(image_run), str(photos), "--to", f"{tmp_path}/said.csv"]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "predicted" in line]
    assert lines == [f"predicted {done} of {COUNT}" for done in range(1, COUNT + 1)]


def test_a_file_that_was_there_is_kept_where_writing_fails(
    image_run, photos, tmp_path, monkeypatch
):
    file = tmp_path / "said.csv"
    file.write_text("before")
    monkeypatch.setattr(batches.Batches, "predictions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["predict", str(image_run), str(photos), "--to", str(file)])
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["said.csv"]


def test_the_command_takes_objects_and_tables(views_run, all_run, table, tmp_path, capsys):
    front, side = (str(table.parent / f"validation1{view}.png") for view in ("front", "side"))
    assert main(["predict", str(views_run), "--object", front, side]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{front} {side}" and lines[1].startswith("  grade: ")
    new = unlabelled(table, age=None)
    assert main(["predict", str(all_run), "--source", f"manifest:{new}"]) == 0
    out, err = capsys.readouterr()
    assert out.count("  weight: ") == 9
    assert "note: 9 of 9 numbers of 'age' are missing" in err
    assert main(["predict", str(views_run), front, side]) == 1
    assert capsys.readouterr().err.count("is a file; the network takes up to 2 images") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "a.png", "--to", "said.txt"], "expected a name that ends in .csv, .jsonl"),
        (["nowhere", "a.png", "--source", "elpv"], "at least one image file or folder"),
        (["nowhere", "a.png", "--to", "said.csv"], "there is no file a.png"),
    ],
)
def test_what_is_wrong_is_said_before_a_network_is_read(arguments, message, capsys):
    assert main(["predict", *arguments]) == 1
    assert message in capsys.readouterr().err
