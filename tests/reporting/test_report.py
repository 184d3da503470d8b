"""The page on a run, or on several: its numbers, what it says where data are gone, its commands."""

import base64
import io
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tl_jax
from tl_jax.cli import main, options, training
from tl_jax.config import Config
from tl_jax.explanations import overlay
from tl_jax.reporting.tables import figure

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page holds: its text by line, its tables, pictures and addresses."""

    def __init__(self, file: str | Path) -> None:
        super().__init__()
        self.html = Path(file).read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[str] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self.in_cell = False
        self.feed(self.html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        if tag == "img":
            self.pictures.append(given["alt"] or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.in_cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    def row(self, name: str) -> list[str]:
        """Returns the cells of the first row of a name."""
        return next(row[1:] for row in self.rows if row and row[0] == name)


def write(runs, tmp_path, **options) -> Page:
    report = tl_jax.report(runs, to=tmp_path / "page.html", **options)
    return Page(report["files"][0])


def beside(file: Path) -> dict:
    """Returns what a page adds to the reports of its runs."""
    return json.loads(file.with_name(f"{file.stem}-page.json").read_text())


@pytest.fixture
def page(pages):
    return Page(pages["one"])


def test_the_numbers_are_those_of_the_report(finished_run, page):
    metrics = finished_run.report["metrics"]["test"]
    low, high = metrics["accuracy_interval"]
    first = f"{figure(metrics['accuracy'])} {figure(low)} to {figure(high)}"
    assert page.row("accuracy")[0] == first
    low, high = finished_run.report["intervals"]["metrics"]["macro_f1"]
    assert page.row("macro F1")[0].endswith(f"{figure(low)} to {figure(high)}")
    temperature = finished_run.report["calibration"]["label"]["temperature"]
    assert ["metric", "test (14)", f"test, temperature {temperature:.3g}", "val (10)"] in page.rows
    assert page.row("log loss")[2] == figure(finished_run.report["metrics"]["val"]["log_loss"])
    confusion = finished_run.report["confusion"]["test"]
    assert [page.row("grüne"), page.row("red ones")] == [[str(n) for n in row] for row in confusion]


def test_what_was_trained_is_said(finished_run, page):
    assert page.row("Network") == ["resnet18, 18,994 parameters, images 32x32, float32"]
    assert page.row("Examples") == ["26 train, 10 val, 14 test"]
    assert page.row("Learned") == ["label: one class of 2 (grüne 13, red ones 13)"]
    trained = finished_run.report["trained_parameters"]
    assert page.row("Phases")[0].startswith(f"epochs 1 to 2: head ({trained['head']:,} parameters")
    assert page.row("Epochs") == ["4 of 4"]
    assert page.row("optim.name") == ["adamw", "adam"]
    assert page.row("Device")[0].startswith("cpu")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d \S+", page.row("Begun")[0])


def test_the_gallery_shows_the_largest_losses_with_explanations(finished_run, pages, page):
    listed = beside(pages["one"])["runs"][0]["gallery"]["label"]
    assert len(listed) == 2 and len(page.pictures) == 4
    losses = [said["loss"] for said in listed]
    assert losses == sorted(losses, reverse=True)
    for said, image, why in zip(listed, page.pictures[::2], page.pictures[1::2], strict=True):
        assert image == f"{said['name']}, labelled {said['label']}"
        assert said["name"] in why and f"speaks for {said['predicted']}" in why
        predicted = tl_jax.predict(
            finished_run.workdir,
            [f"{finished_run.config.data.source.removeprefix('folder:')}/{said['name']}"],
        )
        assert predicted[0][0][0] == said["predicted"]


def test_the_pictures_are_those_of_the_examples(finished_run, tmp_path):
    root = Path(finished_run.config.data.source.removeprefix("folder:"))
    page = write(finished_run.workdir, tmp_path, gallery=6)
    listed = beside(tmp_path / "page.html")["runs"][0]["gallery"]["label"]
    places = [said["index"] for said in listed]
    assert places != sorted(places)  # The order of losses is not that of the split.
    explained = tl_jax.explain(finished_run.workdir, [root / said["name"] for said in listed])
    drawn = [address for address in page.addresses if address.startswith("data:image/png")]
    for each, image, why in zip(explained, drawn[::2], drawn[1::2], strict=True):
        [tile] = overlay.tiles(each)
        np.testing.assert_array_equal(pixels_of(image), tile[""])
        np.testing.assert_allclose(pixels_of(why), tile["grad_cam"], atol=2)


def pixels_of(address: str) -> np.ndarray:
    content = base64.b64decode(address.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content))).astype(int)


def test_the_report_of_the_run_stays_as_it_is(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.workdir, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = tl_jax.report(folder, gallery=0)
    assert told["files"] == [str(folder / "report.html"), str(folder / "report-page.json")]
    assert all(path.read_bytes() == content for path, content in before.items())
    assert json.loads(Path(told["files"][1]).read_text()) == told
    assert told["runs"][0]["report"] == str(folder / "report.json")
    # The same command may go on in the folder: the page is no file of another owner.
    assert tl_jax.fit(finished_run.config, folder) == finished_run.report


def test_runs_are_compared_on_the_examples_that_they_share(finished_run, other_run, pages):
    told = beside(pages["several"])
    [found] = told["differences"]
    accuracy = [run.report["metrics"]["test"]["accuracy"] for run in (finished_run, other_run)]
    assert found["metrics"]["accuracy"]["difference"] == accuracy[1] - accuracy[0]
    low, high = found["metrics"]["accuracy"]["interval"]
    assert low <= accuracy[1] - accuracy[0] <= high and low < high
    assert told["options"] == {"optim.learning_rate": {"finished": 0.01, "other": 1e-05}}
    page = Page(pages["several"])
    assert page.row("optim.learning_rate") == ["0.01", "1e-05"]
    assert [cell.split()[0] for cell in page.row("accuracy")] == list(map(figure, accuracy))
    assert page.row("other, accuracy")[0] == figure(accuracy[1] - accuracy[0], sign=True)
    assert "finished, val" in page.text and "other, val" in page.text


def test_the_interval_is_that_of_paired_draws(finished_run, other_run, pages):
    """With NumPy: each draw takes the same examples for both."""
    folder = Path(finished_run.config.data.source.removeprefix("folder:")) / "test"
    files = sorted(folder.rglob("*.png"))
    right = [
        np.array([said[0][0] for said in tl_jax.predict(run.workdir, files)])
        == np.array([file.parent.name for file in files])
        for run in (finished_run, other_run)
    ]
    gain = right[1].astype(float) - right[0]
    draws = np.random.default_rng(3).integers(0, len(gain), (20_000, len(gain)))
    expected = np.quantile(gain[draws].mean(1), [0.025, 0.975])
    interval = beside(pages["several"])["differences"][0]["metrics"]["accuracy"]["interval"]
    np.testing.assert_allclose(interval, expected, atol=1.5 / len(gain))


def test_why_runs_are_not_compared_is_said(finished_run, task_run, tmp_path):
    runs = [finished_run.workdir, task_run.workdir]
    told = tl_jax.report(runs, to=tmp_path / "page.html", gallery=0, predict=False)
    [found] = told["differences"]
    assert found["metrics"] == {} and "learned other tasks" in found["reason"]
    assert found["reason"] in Page(tmp_path / "page.html").text


def test_every_kind_of_task_has_what_is_defined_for_it(task_run, pages):
    page = Page(pages["tasks"])
    metrics = task_run.report["metrics"]["train"]["tasks"]
    assert page.row("quadratic kappa")[0].startswith(figure(metrics["grade"]["quadratic_kappa"]))
    assert page.row("R2")[0].startswith(figure(metrics["weight"]["r2"]))
    assert page.row("exact match")[0].startswith(figure(metrics["tags"]["exact_match"]))
    assert "train, thresholds of the classes" in page.text
    captions = re.findall(r"<caption[^>]*>(.*?)</caption>", page.html)
    for task in ("kind", "tags", "grade", "weight"):
        assert f"Metrics of {task}, number of examples in brackets" in captions
        assert f"Largest losses of {task}" in page.text
    tasks = ("kind", "tags", "grade", "weight")
    assert [t for t in tasks if f"Confusion of {t}" in page.html] == ["kind", "grade"]
    assert [t for t in tasks if f"Calibration of {t}" in page.html] == ["kind"]
    assert [t for t in tasks if f"Classes of {t} on train" in captions] == ["kind", "tags", "grade"]
    assert len(page.pictures) == 4 * 2 * 2


def test_names_are_never_read_as_markup(pages):
    page = Page(pages["hostile"])
    assert "script" not in page.tags and "i" not in page.tags and "u" not in page.tags
    assert all(alternative for alternative in page.pictures)
    assert "<script>alert(1)</script>" in page.text  # As text.
    assert "x" not in page.addresses


@pytest.mark.parametrize("name", ["one", "several", "tasks", "hostile"])
def test_the_page_fetches_nothing(pages, name):
    page = Page(pages[name])
    fetched = [address for address in page.addresses if not address.startswith(("#", "data:"))]
    assert fetched == []
    assert "url(" not in page.html and "@import" not in page.html


def test_a_run_whose_data_are_gone_is_told_without_its_gallery(finished_run, photos, tmp_path):
    folder = shutil.copytree(finished_run.workdir, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text())
    config["data"]["source"] = f"folder:{photos}"
    (folder / "config.json").write_text(json.dumps(config))
    assert write(folder, tmp_path, gallery=1).pictures  # The same set at another place.
    pixels = np.zeros((40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(next((photos / "test").rglob("*.png")))
    page = write(folder, tmp_path, gallery=1)
    assert not page.pictures
    assert "There is no gallery of errors: the examples of test are not those any more" in page.text
    shutil.rmtree(photos)
    page = write(folder, tmp_path, gallery=1)
    assert not page.pictures and f"There is no gallery of errors: no folder {photos}" in page.text
    assert page.row("accuracy")[0].startswith(
        figure(finished_run.report["metrics"]["test"]["accuracy"])
    )


def test_a_run_without_a_report_is_told_as_far_as_it_goes(finished_run, tmp_path):
    folder = shutil.copytree(finished_run.workdir, tmp_path / "run")
    (folder / "report.json").unlink()
    page = write(folder, tmp_path)
    assert page.row("Epochs") == ["4 of 4 recorded; the run has no report"]
    assert "No run has a report yet" in page.text and "polyline" in page.tags
    (folder / "metrics.jsonl").unlink()
    page = write(folder, tmp_path)
    assert "Nothing is recorded" in page.text and "polyline" not in page.tags


def test_a_report_of_an_earlier_version_is_told(rewritten, tmp_path):
    folder = rewritten({"label_statistics": [], "digests": {}}, {"intervals": {}})
    written = json.loads((folder / "report.json").read_text())
    for key in ("intervals", "device", "calibration", "calibrated_metrics", "tasks"):
        del written[key]
    (folder / "report.json").write_text(json.dumps(written))
    page = write(folder, tmp_path, gallery=1)
    assert page.row("macro F1")[0] == figure(written["metrics"]["test"]["macro_f1"])
    assert "an earlier version trained the run" in page.text


def test_a_large_confusion_is_drawn(rewritten, tmp_path):
    names = [f"class {index}" for index in range(30)]
    confusion = np.diag(np.full(30, 9)) + np.eye(30, k=1, dtype=int)
    by_class = {name: [0.5] * 30 for name in ("recall", "precision", "f1")}
    metrics = {"test": {"count": 299, "accuracy": 0.9, **by_class}}
    report = {"confusion": {"test": confusion.tolist()}, "metrics": metrics}
    info = {"class_names": names, "tasks": [], "label_statistics": []}
    folder = rewritten(info, report | {"calibrated_metrics": {}})
    page = write(folder, tmp_path, predict=False)
    assert page.tags.count("rect") == 1 + 30 + 29
    assert page.row("class 0 as class 1") == ["1", "10.0% 1.8% to 40.4%"]
    assert "Classes of label on test (30 rows)" in page.text


def test_the_commands_make_the_run_again(task_run, hostile_run):
    for run in (task_run, hostile_run):
        folder, config = run.workdir, run.config
        told = tl_jax.report(folder, to=folder.parent / "page.html", gallery=0)
        typed = {each["what"]: each["command"] for each in told["runs"][0]["commands"]}
        _, _, command = typed["Train it without its folder"].partition("\n")
        words = shlex.split(command.replace("\\\n", " "))
        assert words[:5] == ["python", "-m", "tl_jax", "train", "defaults.json"]
        read = options.read(training.train, words[4:], {"config": Config()})
        assert read["config"] == config
        assert shlex.split(typed["Measure it"])[4] == str(folder)


def test_the_command_names_what_it_wrote(finished_run, tmp_path, capsys):
    to = tmp_path / "new" / "page.html"
    assert main(["report", str(finished_run.workdir), "--to", str(to), "--gallery", "0"]) == 0
    out = capsys.readouterr().out
    assert str(finished_run.workdir / "report.json") in out
    assert str(to) in out and str(to.with_name("page-page.json")) in out
    assert to.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected the folder of one run"),
        (["RUN", "RUN"], "each once"),
        (["nowhere"], "nowhere holds no run"),
        (["RUN", "--to", "page.pdf"], r"expected a name in .html"),
        (["RUN", "--gallery", "-1"], "gallery is -1"),
    ],
)
def test_misuse_is_refused(finished_run, arguments, message, capsys):
    given = [str(finished_run.workdir) if word == "RUN" else word for word in arguments]
    assert main(["report", *given]) != 0
    assert message in capsys.readouterr().err
