"""Tests of the pictures of a run: they open, and show something."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tl_jax.objectives.reliability import reliability
from tl_jax.run import plots
from tl_jax.training.lr_finder import LrCurve

pytestmark = [pytest.mark.slow, pytest.mark.draws]

RECORDS = [
    {"split": split, "epoch": epoch, "loss": 1 / epoch, "accuracy": 1 - 0.5 / epoch}
    for epoch in (1, 2, 3)
    for split in ("train", "validation")
]


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def blues(image: np.ndarray) -> int:
    """Counts the pixels of full blue: cells of a share of one, and the top of the colour bar."""
    return int((np.abs(image - [8, 48, 107]).max(-1) < 12).sum())


def test_learning_curves_show_their_curves(tmp_path):
    path = tmp_path / "curves.png"
    plots.learning_curves(RECORDS, path, title="resnet18 on photos", phase_ends=[1])
    with_curves = pixels(path)
    colours = {tuple(colour) for colour in with_curves.reshape(-1, 3)}
    assert {(31, 119, 180), (255, 127, 14)} <= colours  # the first two of matplotlib's cycle
    plots.learning_curves(RECORDS[:2], path, title="resnet18 on photos")
    assert (pixels(path) != with_curves).any()


def test_the_end_of_a_phase_is_marked(tmp_path):
    for name, ends in (("with", [2]), ("without", [])):
        plots.learning_curves(RECORDS, tmp_path / f"{name}.png", title="", phase_ends=ends)
    assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()


def test_reliability_is_drawn_with_the_examples_of_its_bins(tmp_path):
    def drawn(*diagrams) -> np.ndarray:
        path = tmp_path / "reliability.png"
        panels = {f"panel {i}": each.as_json() for i, each in enumerate(diagrams)}
        plots.reliability_diagram(panels, path, title="$test")
        return pixels(path)

    confidence = np.linspace(0.5, 1, 40)
    sure = reliability(confidence, np.ones(40, bool))
    wrong = reliability(confidence, np.zeros(40, bool))
    is_blue = {}
    for name, diagram in (("sure", sure), ("wrong", wrong)):
        is_blue[name] = int((drawn(diagram) == [31, 119, 180]).all(-1).sum())
    assert is_blue["sure"] > 10 * is_blue["wrong"]  # The bars are the accuracy.
    one, two = drawn(sure), drawn(sure, wrong)
    assert two.shape[1] > 1.5 * one.shape[1]
    fewer = reliability(confidence[::2], np.ones(20, bool))
    assert (drawn(fewer) != one).any()
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert drawn(empty).shape == one.shape


def test_many_points_are_drawn(tmp_path):
    records = [{"split": "train", "epoch": i, "loss": 1.0, "accuracy": 0.5} for i in range(1, 400)]
    plots.learning_curves(records, tmp_path / "curves.png", title="long")
    assert pixels(tmp_path / "curves.png").std() > 5


def test_a_confusion_matrix_shows_its_cells(tmp_path):
    for name, confusion in (("right", [[9, 0], [0, 9]]), ("wrong", [[0, 9], [9, 0]])):
        path = tmp_path / f"{name}.png"
        plots.confusion_matrix(np.array(confusion), ["defect", "sound"], path, title="test")
    one, other = pixels(tmp_path / "right.png"), pixels(tmp_path / "wrong.png")
    assert min(blues(one), blues(other)) > 1000
    assert (one != other).any()


def test_a_confusion_matrix_of_many_classes_is_drawn(tmp_path):
    names = [f"class {i}" for i in range(60)]
    plots.confusion_matrix(np.eye(60, dtype=int), names, tmp_path / "many.png", title="test")
    assert blues(pixels(tmp_path / "many.png")) > 1000


def test_a_class_without_examples_is_an_empty_row(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a division by zero would warn
        plots.confusion_matrix(np.array([[3, 0], [0, 0]]), ["a", "b"], tmp_path / "c.png", title="")
    assert blues(pixels(tmp_path / "c.png")) > 1000


@pytest.mark.filterwarnings("error")  # a warning for each letter that the font lacks
def test_names_in_any_script_are_drawn(tmp_path):
    names = ["猫", "собака", "$50_bills$", "chat_à_poil", "قط"]
    plots.confusion_matrix(np.eye(5, dtype=int), names, tmp_path / "c.png", title="猫 $and$ dogs_2")
    plots.learning_curves(RECORDS, tmp_path / "l.png", title="猫_$x_$")
    assert pixels(tmp_path / "c.png").std() > 5


@pytest.mark.parametrize("count", [2, 200])
def test_long_names_leave_room_for_the_matrix(count, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    names = [f"{i}\n" + "a" * 300 for i in range(count)]
    confusion = np.eye(count, dtype=int)
    plots.confusion_matrix(confusion, names, tmp_path / "c.png", title="t" * 300)
    axes = drawn[0].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert 2 <= len(labels) <= 40 and len(set(labels)) == len(labels)
    assert max(map(len, labels)) < 32 and not any("\n" in label for label in labels)
    assert len(axes.get_title()) < 80


def test_one_epoch_is_drawn_as_points_at_whole_epochs(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plots.learning_curves(RECORDS[:2], tmp_path / "curves.png", title="one")
    axes = drawn[0].axes[0]
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    assert axes.get_xlim()[0] == 0
    assert all(float(tick).is_integer() for tick in axes.get_xticks())


def test_names_with_signs_of_formulas_are_drawn_as_they_are(tmp_path):
    names = ["$", "$5", "a$b$", "$\\frac{$", "_hidden", "x^2_i", ""]
    plots.confusion_matrix(np.eye(7, dtype=int), names, tmp_path / "c.png", title="$\\frac{$")
    plots.learning_curves(RECORDS, tmp_path / "l.png", title="$\\frac{$")
    assert (tmp_path / "l.png").stat().st_size > 1000


# ---- the curve of the learning-rate finder


def lr_curve(losses: np.ndarray) -> LrCurve:
    return LrCurve(np.geomspace(1e-6, 1, len(losses)), losses, losses, diverged=True)


def test_the_curve_of_a_learning_rate_shows_loss_and_suggestions(tmp_path):
    exponent = np.linspace(-6, 0, 100)
    losses = 1 / (1 + np.exp(4 * (exponent + 3))) + np.exp(6 * (exponent + 0.5))
    curve = lr_curve(losses)
    assert curve.steepest is not None and curve.minimum_over_ten is not None
    plots.learning_rate_curve(curve, tmp_path / "curve.png", title="$resnet18_on photos")
    colours = {tuple(colour) for colour in pixels(tmp_path / "curve.png").reshape(-1, 3)}
    assert (31, 119, 180) in colours  # the smoothed loss
    # The lines of the suggestions are thin, and so paler than matplotlib's red and green.
    assert any(r > 200 and g < 180 and b < 180 for r, g, b in colours)
    assert any(g > 150 and r < 180 and b < 180 and g - b > 40 for r, g, b in colours)


@pytest.mark.parametrize("losses", [np.linspace(1, 3, 20), np.ones(1)])
def test_a_curve_that_suggests_nothing_is_drawn(tmp_path, losses):
    plots.learning_rate_curve(lr_curve(losses), tmp_path / "curve.png", title="")
    assert pixels(tmp_path / "curve.png").std() > 5


def test_the_rates_are_written_as_numbers(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots.Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    plots.learning_rate_curve(lr_curve(np.linspace(2, 1, 30)), tmp_path / "curve.png", title="")
    labels = [label.get_text() for label in drawn[0].axes[0].get_xticklabels(which="both")]
    assert {"1e-06", "1e-03", "1e+00"} <= set(labels)
    assert not any("$" in label for label in labels)
