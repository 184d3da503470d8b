"""Evaluation preprocessing: timm's own transform is the reference, pixel by pixel."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from experiments.torch_peer import import_timm
from tl_jax.data.preprocess import Preprocess, canvas_image, eval_image, preprocess
from tl_jax.weights.index import pretrained_config

timm = import_timm()

# Height and width: odd, tall, wide, smaller than the target on one side or both, a single pixel.
SHAPES = [(97, 131), (301, 77), (64, 512), (225, 224), (20, 300), (31, 17), (1, 1), (300, 300)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def by_timm(image: Image.Image, config: Preprocess) -> np.ndarray:
    transform = timm.data.create_transform(
        input_size=(3, *config.size),
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
    return transform(image.convert("RGB")).permute(1, 2, 0).numpy()


def assert_equal_to_timm(image: Image.Image, config: Preprocess) -> None:
    ours = np.asarray(preprocess([image], config))[0]
    np.testing.assert_allclose(ours, by_timm(image, config), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_center_crops_are_timms(shape, interpolation, crop_pct):
    config = Preprocess(size=(95, 95), crop_pct=crop_pct, interpolation=interpolation)
    assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


@pytest.mark.parametrize("shape", SHAPES[:-2])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (64, 97)])
def test_every_crop_mode_is_timms(shape, crop_mode, size):
    config = Preprocess(size=size, crop_pct=0.9, crop_mode=crop_mode)
    assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_are_converted_as_timm_does(mode):
    image = Image.fromarray(noise(131, 97, 4)).convert(mode)
    assert_equal_to_timm(image, Preprocess(size=(64, 64)))


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "resnet50", "vgg16"])
def test_the_index_gives_the_models_own_preprocessing(name):
    model = timm.create_model(name, pretrained=False)
    theirs = timm.data.resolve_data_config({}, model=model)
    ours = Preprocess.of(pretrained_config(name))
    assert {key: theirs[key] for key in ("crop_pct", "interpolation", "crop_mode")} == {
        key: getattr(ours, key) for key in ("crop_pct", "interpolation", "crop_mode")
    }
    assert (theirs["input_size"][1:], theirs["mean"], theirs["std"]) == (
        ours.size,
        ours.mean,
        ours.std,
    )
    assert_equal_to_timm(Image.fromarray(noise(333, 250, 3)), ours)


def test_paths_pictures_and_arrays_are_the_same_image(tmp_path):
    pixels = noise(50, 70, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(pixels), pixels]
    batch = preprocess(images, Preprocess(size=(32, 40)))
    assert batch.shape == (4, 32, 40, 3)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, np.broadcast_to(batch[:1], batch.shape))


def test_another_input_size_keeps_the_rest():
    config = pretrained_config("tf_efficientnet_lite0")
    whole = Preprocess.of(config)
    assert Preprocess.of(config, input_size=96) == dataclasses.replace(whole, size=(96, 96))
    assert Preprocess.of(config, input_size=(96, 128)).size == (96, 128)
    assert preprocess([noise(9, 9, 3)], config).shape == (1, 224, 224, 3)


def test_the_canvas_is_the_size_before_the_crop():
    assert Preprocess(size=(224, 224), crop_pct=0.875).canvas == 256


@pytest.mark.parametrize(
    "field",
    [{"interpolation": "lanzcos"}, {"crop_mode": "centre"}, {"crop_pct": 1.5}, {"size": (0, 9)}],
)
def test_wrong_values_are_refused(field):
    with pytest.raises(ValueError, match="expected"):
        Preprocess(**field)


@pytest.mark.parametrize("images", [[], "cat.png"])
def test_a_list_of_images_is_asked_for(images):
    with pytest.raises(ValueError, match="expected a list of at least one image"):
        preprocess(images, Preprocess())


def test_eval_images_are_uint8_of_the_models_size():
    image = eval_image(noise(50, 70), Preprocess(size=(32, 40)))
    assert (image.shape, image.dtype) == ((32, 40, 3), np.uint8)


def test_a_canvas_holds_the_whole_image_stretched():
    ramp = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (50, 400, 3))
    canvas = canvas_image(np.ascontiguousarray(ramp), 64)
    assert (canvas.shape, canvas.dtype) == ((64, 64, 3), np.uint8)
    assert canvas[0, 0, 0] < 4
    assert canvas[-1, -1, 0] > 251
    np.testing.assert_array_equal(canvas[0], canvas[-1])
