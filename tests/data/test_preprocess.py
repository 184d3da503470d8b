"""Evaluation preprocessing: timm's own transform is the reference, pixel by pixel."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments.torch_peer import import_timm
from tl_jax.data.images.fast_jpeg import DecodedImage
from tl_jax.data.preprocess import (
    Preprocess,
    eval_image,
    normalize,
    preprocess,
)
from tl_jax.weights.index import pretrained_config, pretrained_names

timm = import_timm()

# Height and width: odd, tall, wide, smaller than the target on one side or both, a single pixel.
SHAPES = [(97, 131), (301, 77), (64, 512), (225, 224), (20, 300), (31, 17), (1, 1), (300, 300)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def by_timm(image: Image.Image, config: Preprocess) -> np.ndarray:
    transform = timm.data.create_transform(
        input_size=(config.channels, *config.size),
        is_training=False,
        interpolation=config.interpolation,
        mean=config.mean,
        std=config.std,
        crop_pct=config.crop_pct,
        crop_mode=config.crop_mode,
    )
    # timm's data sets read images in mode "L" where the network takes one channel.
    mode = "RGB" if config.channels == 3 else "L"
    return transform(image.convert(mode)).permute(1, 2, 0).numpy()


def assert_equal_to_timm(image: Image.Image, config: Preprocess) -> None:
    # Not one pixel may be another, of 255 levels: what is left is float32's rounding.
    ours = np.asarray(preprocess([image], config))[0]
    np.testing.assert_allclose(ours, by_timm(image, config), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "interpolation", ["bicubic", "bilinear", "nearest", "box", "hamming", "lanczos"]
)
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0, 1.2])
def test_center_crops_are_timms(shape, interpolation, crop_pct):
    config = Preprocess(size=(95, 95), crop_pct=crop_pct, interpolation=interpolation)
    assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


@pytest.mark.parametrize("shape", SHAPES[:-2])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(64, 64), (64, 97)])
def test_every_crop_mode_is_timms(shape, crop_mode, size):
    config = Preprocess(size=size, crop_pct=0.9, crop_mode=crop_mode)
    assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


@pytest.mark.parametrize("shape", SHAPES[:-2])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 1.2])
def test_one_channel_is_timms(shape, crop_mode, crop_pct):
    config = Preprocess(
        size=(64, 97), crop_pct=crop_pct, crop_mode=crop_mode, mean=(0.4,), std=(0.2,)
    )
    assert preprocess([noise(*shape, 3)], config).shape == (1, 64, 97, 1)
    assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


def transforms_of_the_index() -> list[Preprocess]:
    """Returns each way of preprocessing that the weights of the index ask for."""
    return list({Preprocess.of(pretrained_config(name)): None for name in pretrained_names()})


def test_every_transform_of_the_index_is_timms():
    images = [Image.fromarray(noise(*shape, 3)) for shape in [(97, 131), (413, 350)]]
    # One of each kind here; all of them in the full run.
    kinds = {(c.interpolation, c.crop_mode, c.crop_pct): c for c in transforms_of_the_index()}
    assert len(kinds) > 10
    for config in kinds.values():
        small = dataclasses.replace(config, size=(61, 61))
        for image in images:
            assert_equal_to_timm(image, small)


@pytest.mark.full
def test_every_transform_of_the_index_is_timms_at_its_own_size():
    for config in transforms_of_the_index():
        for shape in [(97, 131), (413, 350), (1, 1), (333, 600)]:
            assert_equal_to_timm(Image.fromarray(noise(*shape, 3)), config)


# Transparency is not among them: timm drops it, `decode` lays it over white.
@pytest.mark.parametrize("mode", ["L", "1", "CMYK"])
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


def test_normalize_is_what_it_says():
    images, config = noise(2, 5, 4, 3), Preprocess()
    expected = (images.astype(np.float64) / 255 - config.mean) / config.std
    normalized = normalize(images, config.mean, config.std)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, expected, rtol=0, atol=1e-6)


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


def test_images_of_other_channels_cannot_be_read():
    config = dataclasses.replace(pretrained_config("resnet18"), input_size=(4, 224, 224))
    with pytest.raises(ValueError, match="for images of 4 channels, and images are read as RGB"):
        Preprocess.of(config)


def test_the_canvas_is_the_size_before_the_crop():
    assert Preprocess(size=(224, 224), crop_pct=0.875).canvas == 256
    assert Preprocess(size=(224, 224), crop_pct=1.1).canvas == 224
    assert Preprocess(size=(224, 112), crop_pct=0.875).uncropped() == Preprocess(
        size=(256, 128), crop_pct=1.0
    )


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({}, []),
        (
            {"size": (96, 128)},
            ["96 x 128 pixels, where the weights were trained with 224 x 224 pixels"],
        ),
        (
            {"mean": (0.5, 0.5, 0.5), "crop_pct": 1.0},
            ["the mean 0.5, 0.5, 0.5, where the weights", "a crop of 1 of the side, where the"],
        ),
        ({"std": (1.0, 1.0, 1.0)}, ["the standard deviation 1, 1, 1, where"]),
        ({"interpolation": "bilinear"}, ["bilinear interpolation, where .* with bicubic"]),
        ({"crop_mode": "squash"}, ["the crop mode 'squash', where .* with the crop mode 'center'"]),
    ],
)
def test_departures_from_the_weights_are_named(changes, sentences):
    weights = pretrained_config("resnet50")
    actual = dataclasses.replace(Preprocess.of(weights), **changes).departures(weights)
    assert len(actual) == len(sentences)
    for sentence, pattern in zip(actual, sentences, strict=True):
        assert re.match(pattern, sentence)


@pytest.mark.parametrize(
    "field",
    [
        {"interpolation": "lanzcos"},
        {"crop_mode": "centre"},
        {"crop_pct": 87.5},
        {"size": (0, 9)},
        {"mean": (0.5,)},
        {"value_range": (4095, 0)},
        {"mean": (0.5, 0.5), "std": (1.0, 1.0)},
    ],
)
def test_wrong_values_are_refused(field):
    with pytest.raises(ValueError, match="expected"):
        Preprocess(**field)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (noise(9, 9), (1, 8, 8, 3)),
        (noise(9, 9, 3), (1, 8, 8, 3)),
        (noise(2, 9, 9, 4), (2, 8, 8, 3)),
        (noise(5, 9, 9), (5, 8, 8, 3)),
        (jnp.zeros((9, 9, 3), jnp.uint8), (1, 8, 8, 3)),
        (Image.new("L", (9, 9)), (1, 8, 8, 3)),
        ((noise(9, 9), Image.new("RGB", (5, 4))), (2, 8, 8, 3)),
    ],
)
def test_one_image_is_one_and_several_are_several(images, shape):
    assert preprocess(images, Preprocess(size=(8, 8))).shape == shape


def test_a_path_or_the_bytes_of_a_file_are_one_image(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(9, 9, 3)).save(path)
    for image in (path, str(path), path.read_bytes()):
        assert preprocess(image, Preprocess(size=(8, 8))).shape == (1, 8, 8, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "expected at least one"),
        (noise(3, 9, 9), r"transpose\(1, 2, 0\), or write several gray images as images\[\.\.\.,"),
        (noise(2, 3, 9, 9), r"transpose\(0, 2, 3, 1\)"),
        (noise(9, 9, 5), r"shape \(9, 9, 5\); expected one image"),
        (np.zeros((0, 9, 9, 3), np.uint8), r"shape \(0, 9, 9, 3\); expected"),
        (np.zeros(5, np.uint8), "expected one image"),
        (np.ones((9, 9, 3)), r"values from 1 to 1; .* value_range=\(0, 1\)"),
    ],
)
def test_what_is_no_image_is_named(images, message):
    with pytest.raises(ValueError, match=message):
        preprocess(images, Preprocess(size=(8, 8)))


@pytest.mark.parametrize("images", [5, None, [[1, 2], [3, 4]]])
def test_other_types_are_refused(images):
    with pytest.raises(TypeError, match="expected"):
        preprocess(images, Preprocess(size=(8, 8)))


def test_the_range_of_values_is_part_of_the_transform():
    pixels, config = noise(9, 9, 3), Preprocess(size=(8, 8))
    expected = preprocess(pixels, config)
    ranged = dataclasses.replace(config, value_range=(0, 255))
    np.testing.assert_array_equal(preprocess(pixels.astype(float), ranged), expected)
    np.testing.assert_array_equal(preprocess(pixels, ranged), expected)
    scaled = preprocess(pixels / 255, config, value_range=(0, 1))
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize("shape", [(3, 900, 3), (700, 2, 3)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "box"])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0, 1.2])
def test_long_images_are_timms_and_never_resized_whole(shape, interpolation, crop_pct, monkeypatch):
    config = Preprocess(size=(48, 48), crop_pct=crop_pct, interpolation=interpolation)
    image = Image.fromarray(noise(*shape))
    expected = by_timm(image, config)
    sizes, real = [], Image.Image.resize

    def resize(self, size, *args, **options):
        sizes.append(size)
        return real(self, size, *args, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    ours = np.asarray(preprocess(image, config))[0]
    assert np.max(sizes) <= 60  # The crop, and the rows that the filter reaches.
    levels = np.abs(ours - expected) * 255 * np.asarray(config.std)
    assert levels.max() <= 1.01


def test_an_image_of_one_row_fits_a_border():
    config = Preprocess(size=(32, 32), crop_mode="border")
    assert preprocess(noise(1, 8000, 3), config).shape == (1, 32, 32, 3)


def test_eval_images_are_uint8_of_the_models_size():
    image = eval_image(noise(50, 70), Preprocess(size=(32, 40)))
    assert (image.shape, image.dtype) == ((32, 40, 3), np.uint8)


def test_a_canvas_holds_the_whole_image_stretched():
    ramp = np.broadcast_to(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (50, 400, 3))
    canvas = DecodedImage.in_full(np.ascontiguousarray(ramp)).stretch(64)
    assert (canvas.shape, canvas.dtype) == ((64, 64, 3), np.uint8)
    assert canvas[0, 0, 0] < 4
    assert canvas[-1, -1, 0] > 251
    np.testing.assert_array_equal(canvas[0], canvas[-1])
