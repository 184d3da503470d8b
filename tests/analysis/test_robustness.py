"""Corruptions, gaps and scores of foreign images; and robustness of runs of every kind of task."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import special

import tl_jax
from tl_jax.analysis import corruptions, gaps, outliers
from tl_jax.analysis.robustness import robustness
from tl_jax.cli import main
from tl_jax.data.preprocess import eval_image, normalize
from tl_jax.data.sources.open import open_source


def picture(side: int = 64) -> np.ndarray:
    """Returns an image of soft shapes and of fine grain."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(60, 190, (8, 8, 3), np.uint8))
    soft = np.asarray(shapes.resize((side, side), Image.Resampling.BICUBIC))
    return np.clip(soft + rng.normal(0, 15, soft.shape), 0, 255).astype(np.uint8)


# ---- corruptions


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_a_severity_is_worse_than_the_one_before(name):
    image = picture(224).astype(np.float64)
    distances = [
        np.mean(
            [
                (corruptions.corrupt(picture(224), name, severity, seed=(k,)) - image) ** 2
                for k in range(3)
            ]
        )
        for severity in corruptions.SEVERITIES
    ]
    if name == "fog":  # The roughness of its clouds changes too; the last is as dense at least.
        assert distances[-1] > distances[0]
    else:
        assert distances == sorted(distances)
    assert distances[0] > 0.5


@pytest.mark.parametrize("name", corruptions.NAMES)
def test_the_same_seed_gives_the_same_pixels(name):
    image = picture()
    first, again, other = (
        corruptions.corrupt(image, name, 3, seed=seed) for seed in ((0, 1), (0, 1), (0, 2))
    )
    assert (first == again).all() and first.dtype == np.uint8 and first.shape == image.shape
    is_random = name in ("gaussian_noise", "shot_noise", "impulse_noise", "motion_blur", "fog")
    assert (first != other).any() == is_random


def test_noise_has_the_stated_strength():
    gray = np.full((200, 200, 3), 128, np.uint8)
    noisy = corruptions.corrupt(gray, "gaussian_noise", 1).astype(np.float64)
    assert noisy.std() / 255 == pytest.approx(0.08, rel=0.02)
    impulses = corruptions.corrupt(gray, "impulse_noise", 5)
    assert (impulses != 128).mean() == pytest.approx(0.27, rel=0.02)
    shots = corruptions.corrupt(gray, "shot_noise", 1).astype(np.float64)
    assert shots.std() / 255 == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.02)


def test_blurs_keep_what_is_even_and_scale_with_the_image():
    even = np.full((32, 48, 3), 77, np.uint8)
    for name in ("defocus_blur", "motion_blur", "gaussian_blur"):
        assert (corruptions.corrupt(even, name, 5) == 77).all()
    # A point of a large image spreads over as many times more pixels.
    spreads = []
    for side in (224, 448):
        point = np.zeros((side, side, 1), np.uint8)
        point[side // 2, side // 2] = 255
        spreads.append(np.sqrt((corruptions.corrupt(point, "defocus_blur", 1) > 0).sum()))
    assert spreads[1] / spreads[0] == pytest.approx(2, rel=0.2)


def test_a_gaussian_blur_has_the_stated_width_at_any_size():
    for side in (112, 224):
        point = np.zeros((side, side, 1), np.uint8)
        point[side // 2, side // 2] = 255
        spread = corruptions.CORRUPTIONS["gaussian_blur"](point, 1, np.random.default_rng(0))
        places = np.arange(side) - side // 2
        width = np.sqrt((spread[..., 0].sum(0) * places**2).sum() / spread.sum())
        assert width == pytest.approx(2 * side / 224, rel=0.05)


def test_contrast_keeps_the_mean_colour():
    image = picture() // np.array([1, 2, 3], np.uint8)
    faded = corruptions.corrupt(image, "contrast", 5)
    np.testing.assert_allclose(faded.mean((0, 1)), image.mean((0, 1)), atol=0.5)
    assert faded.std((0, 1)) == pytest.approx(0.05 * image.std((0, 1)), abs=0.5)


def test_gray_images_and_unknown_names():
    gray = picture()[..., :1]
    assert all(corruptions.corrupt(gray, n, 2).shape == gray.shape for n in corruptions.NAMES)
    for name, severity in (("snow", 1), ("fog", 6)):
        with pytest.raises(ValueError, match="expected one of gaussian_noise"):
            corruptions.corrupt(gray, name, severity)


# ---- numbers


def test_gaps_and_mean_corruption_errors_are_those_of_their_formulas():
    rng = np.random.default_rng(0)
    clean, other_clean = (rng.random(200) < share for share in (0.1, 0.2))
    ours = {name: [(rng.random(200) < 0.2 + 0.1 * s) * 1.0 for s in range(3)] for name in "ab"}
    theirs = {name: [(rng.random(200) < 0.3 + 0.1 * s) * 1.0 for s in range(3)] for name in "ab"}
    clean, other_clean = clean * 1.0, other_clean * 1.0
    clean[7] = np.nan  # Without a label.
    other_clean[7] = np.nan
    found = gaps.measure(clean, ours, (1, 2, 3))
    known = ~np.isnan(clean)
    gap = ours["b"][2][known].mean() - clean[known].mean()
    last = found["corruptions"]["b"][2]
    assert (last["severity"], last["gap"]) == (3, pytest.approx(gap))
    assert last["gap_interval"][0] < gap < last["gap_interval"][1]

    def total(errors, minus=0.0):
        return sum(each[known].mean() - minus for each in errors)

    relative = gaps.relative(clean, ours, other_clean, theirs)
    ratios = [total(ours[name]) / total(theirs[name]) for name in "ab"]
    assert relative["mce"] == pytest.approx(np.mean(ratios))
    assert list(relative["by_corruption"].values()) == pytest.approx(ratios)
    base, other = clean[known].mean(), other_clean[known].mean()
    ratios = [total(ours[name], base) / total(theirs[name], other) for name in "ab"]
    assert relative["relative_mce"] == pytest.approx(np.mean(ratios))


def test_a_gap_is_of_the_same_examples_in_each_draw():
    """Chance in the choice of the examples moves both alike: a gap of 0 is 0 in every draw."""
    wrong = (np.random.default_rng(0).random(50) < 0.5).astype(float)
    found = gaps.measure(wrong, {"fog": [wrong]}, (1,))
    assert found["corruptions"]["fog"][0]["gap_interval"] == [0, 0]
    assert found["mean_gap_interval"] == [0, 0] and found["clean"]["interval"][0] < wrong.mean()


def test_scores_of_logits_and_neighbours_are_those_of_their_formulas():
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(20, 4))
    found = outliers.of_logits(logits)
    assert found["energy"] == pytest.approx(special.logsumexp(logits, axis=1))
    assert found["maximum_softmax"] == pytest.approx(special.softmax(logits, axis=1).max(1))
    train, features = rng.normal(size=(40, 6)), rng.normal(size=(15, 6))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (features, train)]
    distances = np.sort(np.linalg.norm(units[0][:, None] - units[1][None], axis=-1), axis=1)
    closeness = outliers.of_features(features, train, None)["neighbours"]
    assert -closeness == pytest.approx(distances[:, outliers.NEIGHBOUR - 1], abs=1e-5)


def test_scores_equal_those_of_scikit_learn():
    from sklearn.covariance import LedoitWolf
    from sklearn.metrics import roc_auc_score, roc_curve

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60)
    train = rng.normal(size=(60, 20)) + 2 * labels[:, None] * (np.arange(20) == 0)
    inside, outside = rng.normal(size=(30, 20)), rng.normal(size=(25, 20)) + 1
    scores = outliers.of_features(np.concatenate([inside, outside]), train, labels)
    means = np.stack([train[labels == c].mean(0) for c in range(3)])
    fitted = LedoitWolf(assume_centered=True).fit(train - means[labels])
    assert outliers.shrunk_covariance(train - means[labels]) == pytest.approx(fitted.covariance_)
    expected = [
        min((row - mean) @ fitted.precision_ @ (row - mean) for mean in means)
        for row in np.concatenate([inside, outside])
    ]
    assert -scores["mahalanobis"] == pytest.approx(expected)
    is_inside = np.arange(55) < 30
    for values in scores.values():
        told = outliers.separation(values[is_inside], values[~is_inside])
        assert told["auroc"] == pytest.approx(roc_auc_score(is_inside, values))
        fpr, tpr, _ = roc_curve(is_inside, values, drop_intermediate=False)
        assert told["fpr_at_95_tpr"] == pytest.approx(fpr[np.argmax(tpr >= 0.95)])
        assert told["auroc_interval"][0] <= told["auroc"] <= told["auroc_interval"][1]


# ---- runs


@pytest.mark.slow
def test_a_run_is_measured_and_compared(finished_run, tmp_path, capsys):
    run = str(finished_run.workdir)
    arguments = ["robustness", run, "--to", str(tmp_path), "--corruptions", "gaussian_noise", "fog"]
    arguments += ["--severities", "1", "5", "--baseline", run, "--foreign", "digits:test"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    written = json.loads((tmp_path / "robustness.json").read_text())
    task = written["tasks"]["label"]
    clean = 1 - finished_run.report["metrics"]["test"]["accuracy"]
    assert task["clean"]["error"] == pytest.approx(clean)
    assert {name: [e["severity"] for e in of] for name, of in task["corruptions"].items()} == {
        "gaussian_noise": [1, 5],
        "fog": [1, 5],
    }
    assert task["relative"]["mce"] in (1.0, None)  # Of a run beside itself, if it errs at all.
    assert set(written["foreign"]["digits:test"]["scores"]) == {
        "maximum_softmax", "energy", "mahalanobis", "neighbours",
    }  # fmt: skip
    assert "foreign images of digits:test: 450" in out
    assert Image.open(tmp_path / "robustness.png").width > 500


@pytest.mark.slow
def test_errors_are_those_of_images_that_were_corrupted_by_hand(finished_run):
    """Noise after the crop and before normalisation, seeded by the place of the example."""
    found = robustness(finished_run.workdir, corruptions=["impulse_noise"], severities=[3], seed=4)
    run = tl_jax.load_run(finished_run.workdir)
    transform = run.info.preprocess
    examples = open_source(finished_run.config.data.source, "test")
    pixels = [eval_image(examples[i]["image"], transform) for i in range(len(examples))]
    noisy = [
        corruptions.corrupt(image, "impulse_noise", 3, seed=(4, index, 0))
        for index, image in enumerate(pixels)
    ]
    images = normalize(np.stack(noisy), transform.mean, transform.std)
    logits = jax.jit(run.model.apply)(run.variables, images)
    wrong = np.argmax(logits, 1) != examples.labels()
    measured = found["tasks"]["label"]["corruptions"]["impulse_noise"][0]["error"]
    assert measured == pytest.approx(np.mean(wrong))


@pytest.mark.slow
def test_every_kind_of_task_has_an_error(task_folder):
    found = robustness(
        task_folder, split="validation", corruptions=["brightness"], severities=[2],
        foreign=["digits:test"], most=6,
    )  # fmt: skip
    assert found["count"] == found["foreign"]["digits:test"]["count"] == 6
    assert {name: task["meaning"] for name, task in found["tasks"].items()} == {
        "kind": gaps.MEANING["multi_class"],
        "tags": gaps.MEANING["multi_label"],
        "grade": gaps.MEANING["ordinal"],
        "weight": gaps.MEANING["regression"],
    }
    assert set(found["foreign"]["digits:test"]["scores"]) == {"mahalanobis", "neighbours"}
    assert any("scores of features alone" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"corruptions": ["snow"]}, "the corruption 'snow'"),
        ({"severities": [0]}, "severities from 1 to 5"),
        ({"most": 0}, "most"),
    ],
)
def test_unknown_corruptions_are_refused_before_anything_is_read(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        robustness(tmp_path / "no run", **options)
