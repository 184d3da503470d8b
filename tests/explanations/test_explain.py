"""Runs of every kind of task and input are explained: in Python, as commands, as pictures."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import tl_jax
from tests.support import objects, runs
from tl_jax.cli import main
from tl_jax.data.preprocess import eval_image
from tl_jax.explanations import overlay
from tl_jax.explanations.cam import GradCAM
from tl_jax.explanations.check import check
from tl_jax.explanations.explain import Explainer, Explanation
from tl_jax.models import layers

pytestmark = pytest.mark.slow
KINDS = tuple(objects.TASKS)


@pytest.fixture(autouse=True)
def networks(tiny_networks):
    with layers.convolution_form("general"):
        yield


@pytest.fixture(scope="module")
def classes_run(object_table, shared_weights, tmp_path_factory) -> Path:
    """A run of one class of one image."""
    config = objects.make_config(object_table, shared_weights, ("multi_class",))
    return runs.write_untrained(config, tmp_path_factory.mktemp("runs") / "classes")


@pytest.fixture(scope="module")
def attention_run(object_table, shared_weights, tmp_path_factory) -> Path:
    """A run of four tasks of two views at two scales, whose maps are pooled by attention."""
    options = {"views": ("front", "side"), "scales": (1.0, 0.5), "pooling": "attention"}
    config = objects.make_config(object_table, shared_weights, KINDS, **options)
    return runs.write_untrained(config, tmp_path_factory.mktemp("runs") / "attention")


@pytest.fixture
def photo(object_table) -> Path:
    return object_table.parent / "validation0front.png"


def test_the_predicted_class_is_explained_over_the_image_as_the_network_saw_it(classes_run, photo):
    explainer = Explainer(classes_run)
    [[(name, probability)]] = explainer.predictor(photo, top=1)
    [found] = explainer(photo, method=["saliency", "grad_cam"])
    assert (found.task, found.target, found.predicted) == ("kind", name, name)
    assert found.value == pytest.approx(probability, rel=1e-5)
    assert found.text == f"{name} {probability:.1%}"
    assert found.paths == (str(photo),)
    transform = explainer.predictor.network.preprocess
    np.testing.assert_array_equal(found.image, eval_image(photo, transform))
    assert list(found.maps) == ["saliency", "grad_cam"]
    for values in found.maps.values():
        assert values.shape == (16, 16) and values.dtype == np.float32
        assert (values >= 0).all() and values.max() > 0


def test_any_class_and_stage_may_be_explained_and_a_batch_is_as_its_images(classes_run, photo):
    explainer = Explainer(classes_run)
    photos = [photo, photo.with_name("validation1front.png"), photo]
    found = {name: explainer(photos, target=name) for name in ("round", "square")}
    assert {each.target for each in found["square"]} == {"square"}
    first, second = (found[name][0] for name in found)
    assert first.value + second.value == pytest.approx(1, abs=1e-5)
    assert not np.allclose(first.maps["grad_cam"], second.maps["grad_cam"])
    np.testing.assert_array_equal(
        found["round"][0].maps["grad_cam"], found["round"][2].maps["grad_cam"]
    )
    [alone] = explainer(photos[1], target="round")
    np.testing.assert_allclose(
        alone.maps["grad_cam"], found["round"][1].maps["grad_cam"], rtol=1e-4, atol=1e-6
    )
    [early] = explainer(photo, target="round", stage="layer1")
    [by_hand] = explainer(photo, target="round", method=GradCAM("layer1"))
    np.testing.assert_array_equal(early.maps["grad_cam"], by_hand.maps["grad_cam"])
    assert not np.allclose(early.maps["grad_cam"], first.maps["grad_cam"])


@pytest.mark.parametrize(
    "kind",
    [
        # Those of classes and labels are explained elsewhere, of one image or without a network.
        pytest.param(kind, marks=pytest.mark.full) if kind.startswith("multi") else kind
        for kind in KINDS
    ],
)
def test_every_task_of_views_and_scales_is_explained(attention_run, object_table, kind):
    explainer, task = Explainer(attention_run), objects.TASKS[kind].name
    views = [[object_table.parent / f"validation0{view}.png" for view in ("front", "side")]]
    [said] = explainer.predictor(views)
    [found] = explainer(views, task=task)
    assert found.image.shape == (2, 16, 16, 3)
    values = found.maps["grad_cam"]
    assert values.shape == (2, 16, 16) and np.isfinite(values).all()
    of_task = said.tasks[task]
    if kind == "regression":
        assert found.target == found.predicted == ""
        assert found.value == pytest.approx(of_task.predicted, rel=1e-4)
        assert found.text == f"{task} {found.value:.4g}"
    else:
        assert found.value == pytest.approx(of_task.probabilities[found.target], rel=1e-4)
        assert found.target in (of_task.predicted or of_task.probabilities)


def test_attention_is_where_the_pooling_looks(attention_run, object_table):
    explainer = Explainer(attention_run)
    views = [[object_table.parent / "validation1front.png", None]]
    [weights] = explainer.predictor.attention(views)
    [found] = explainer(views, method=["attention", "saliency", "grad_cam"])
    # The maps of layer2 have 2 x 2 places at the whole size, and 1 at half of it.
    fine, coarse = (
        weights[f"neck.space.{scale}"].mean(-1).reshape(2, side, side)
        for scale, side in ((0, 2), (1, 1))
    )
    expected = jax.image.resize((fine + coarse) / 2, (2, 16, 16), "bilinear")
    np.testing.assert_allclose(found.maps["attention"], expected, rtol=1e-4)
    # A view that is missing has no influence.
    assert not found.maps["saliency"][1].any() and not found.maps["grad_cam"][1].any()
    assert found.maps["saliency"][0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "attention"}, "does not pool its maps by attention"),
        ({"stage": "layr1"}, "no module 'layr1'; did you mean 'layer1'"),
        ({"stage": "fc"}, "the output of 'fc' is .*needs a feature map"),
        ({"task": "kid"}, "nothing of 'kid'; did you mean 'kind'"),
        ({"target": "rond"}, "no class 'rond'; did you mean 'round'"),
    ],
)
def test_what_cannot_be_explained_is_refused(classes_run, photo, options, message):
    with pytest.raises(ValueError, match=message):
        tl_jax.explain(classes_run, photo, **options)


def test_the_command_writes_a_picture(classes_run, photo, tmp_path, capsys):
    picture = tmp_path / "why.png"
    arguments = [str(classes_run), str(photo), "--to", str(picture), "--target", "round"]
    assert main(["explain", *arguments, "--methods", "saliency", "--check"]) == 0
    out = capsys.readouterr().out
    assert f"{photo}: round " in out and f"wrote {picture}" in out
    head, row = out.splitlines()[-2:]
    assert head.split() == ["insertion", "deletion", "head", "random", "all", "random"]
    assert row.split()[0] == "saliency" and len(row.split()) == 5
    assert Image.open(picture).size[0] > 2 * 200
    assert main(["explain", str(classes_run), str(photo), "--to", "why.txt"]) == 1
    assert "expected a name in .png" in capsys.readouterr().err
    assert main(["explain", str(classes_run)]) == 1
    assert "needs at least one image" in capsys.readouterr().err
    assert main(["explain", str(classes_run), str(photo), "--methods", "gradcam"]) == 1
    assert "did you mean 'grad_cam'" in capsys.readouterr().err


def test_checks_are_means_over_the_images(classes_run, photo):
    explainer = Explainer(classes_run)
    photos = [photo, photo.with_name("validation1front.png")]
    one, other, both = (
        check(explainer, given, method="saliency", target="round")["saliency"]
        for given in (photos[0], photos[1], photos)
    )
    assert list(both.correlations) == ["head", "layer2", "layer1", "act1"]
    for name in ("insertion", "deletion"):
        values = [vars(each)[name] for each in (one, other, both)]
        assert 0 < values[2] < 1
        assert values[2] == pytest.approx((values[0] + values[1]) / 2, rel=1e-4)
    assert abs(both.correlations["act1"]) < 0.9


def explanation(views: int = 0, channels: int = 3) -> Explanation:
    shape = (*([views] if views else []), 8, 8)
    image = np.full((*shape, channels), 100, np.uint8)
    values = np.zeros(shape, np.float32)
    values[..., :2, :2], values[..., 6:, 6:] = 1, -1
    return Explanation(
        ("a $b$.png",) * max(views, 1), image, {"grad_cam": values, "occlusion": values},
        "kind", "cat $1$", 0.7, "cat $1$",
    )  # fmt: skip


def test_overlays_show_what_speaks_for_and_against():
    [of_view] = overlay.tiles(explanation(channels=1))
    assert {tile.shape for tile in of_view.values()} == {(8, 8, 3)}
    assert (of_view[""] == 100).all()
    red, blue = of_view["occlusion"][0, 0].astype(int), of_view["occlusion"][7, 7].astype(int)
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    cam = of_view["grad_cam"]
    assert (cam[7, 7] == 100).all() and (cam[4, 4] == 100).all()
    assert (cam[0, 0] != 100).any()
    # A map that says nothing leaves the image as it is.
    assert (overlay.blended(explanation().image, np.zeros((8, 8))) == 100).all()


def test_pictures_have_a_row_for_each_view_and_pages(tmp_path):
    written = overlay.draw([explanation(views=3)] * 7, tmp_path / "many.png")
    assert [path.name for path in written] == ["many.png", "many-2.png"]
    first, second = (Image.open(path).size for path in written)
    assert first[0] == second[0] and first[1] > 5 * second[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many-2.png", "many.png"]


def test_the_names_of_classes_may_be_read_as_json(classes_run, photo):
    """The values are plain Python's, as those of predictions are."""
    [found] = tl_jax.explain(classes_run, photo)
    json.dumps([found.task, found.target, found.value, found.predicted, *found.paths])
