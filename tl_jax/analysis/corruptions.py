"""Common corruptions of images at severities 1 to 5, on pixels as they are before normalising.

They are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations" (2019), arXiv:1903.12261, with the parameters that their ImageNet-C
states for images of 224 pixels. Lengths in pixels (radii of blurs) scale with the image, so that a
severity looks alike at any size. Glass and zoom blur, snow, frost and elastic distortion are left
out. Each is computed here from NumPy and Pillow, with noise of its own for each example.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

_SIDE = 224  # Of the images that the lengths are stated for.
SEVERITIES = (1, 2, 3, 4, 5)

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def corrupt(
    image: np.ndarray, name: str, severity: int, *, seed: Sequence[int] = (0,)
) -> np.ndarray:
    """Returns a corrupted image.

    Args:
      image: uint8 [H, W, C].
      name: one of `NAMES`.
      severity: 1 to 5.
      seed: of the noise, such as (seed, index of the example); the same gives the same pixels.

    Returns:
      uint8 of the same shape.

    Raises:
      ValueError: if the name or the severity is unknown.

    Examples:
      >>> gray = np.full((32, 32, 3), 128, np.uint8)
      >>> int(corrupt(gray, "brightness", 2).max()), int(corrupt(gray, "contrast", 5).max())
      (179, 128)
    """
    if name not in CORRUPTIONS or severity not in SEVERITIES:
        raise ValueError(
            f"got the corruption {name!r} at severity {severity}; expected one of "
            f"{', '.join(CORRUPTIONS)}, at 1 to 5"
        )
    number = list(CORRUPTIONS).index(name)
    rng = np.random.default_rng([*seed, number, severity])
    found = CORRUPTIONS[name](image, severity - 1, rng)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _gaussian_noise(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    scale = (0.08, 0.12, 0.18, 0.26, 0.38)[place]
    return image + 255 * scale * rng.standard_normal(image.shape)


def _shot_noise(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    photons = (60, 25, 12, 5, 3)[place]
    return 255 * rng.poisson(image / 255 * photons) / photons


def _impulse_noise(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[place]
    drawn = rng.random(image.shape)
    return np.where(drawn < share / 2, 0, np.where(drawn < share, 255, image))


def _defocus_blur(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    del rng
    radius, softness = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[place]
    scale = _scale(image)
    return _convolved(image, _disk(radius * scale, softness * scale))


def _motion_blur(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[place]
    scale = _scale(image)
    return _convolved(image, _line(radius * scale, sigma * scale, rng.uniform(-45, 45)))


def _gaussian_blur(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    del rng
    sigma = (1, 2, 3, 4, 6)[place] * _scale(image)
    reach = np.arange(-np.ceil(3 * sigma), np.ceil(3 * sigma) + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    return _convolved(image, np.outer(weights, weights))


def _fog(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    strength, roughness = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[place]
    values, largest = image / 255, image.max() / 255
    fog = _plasma(image.shape[:2], roughness, rng)[..., None]
    return 255 * np.clip((values + strength * fog) * largest / (largest + strength), 0, 1)


def _brightness(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    """Raises the value of each pixel in HSV: all its channels by the same factor."""
    del rng
    value = image.max(-1, keepdims=True) / 255
    raised = np.clip(value + (0.1, 0.2, 0.3, 0.4, 0.5)[place], 0, 1)
    # Black has no colour of its own, and becomes gray.
    return np.where(value > 0, image * raised / np.maximum(value, 1e-9), 255 * raised)


def _contrast(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    del rng
    mean = image.mean((0, 1), keepdims=True)
    return (image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[place] + mean


def _pixelate(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    del rng
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[place]
    return _resampled(image, share, Image.Resampling.BOX, Image.Resampling.NEAREST)


def _resolution(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    """Shrinks the image and enlarges it again, as a camera of a lower resolution would."""
    del rng
    share = (0.75, 0.5, 0.375, 0.25, 0.125)[place]
    return _resampled(image, share, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)


def _jpeg(image: np.ndarray, place: int, rng: np.random.Generator) -> np.ndarray:
    del rng
    stream = io.BytesIO()
    _pillow(image).save(stream, "JPEG", quality=(25, 18, 15, 10, 7)[place])
    return np.asarray(Image.open(stream)).reshape(image.shape)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "motion_blur": _motion_blur,
    "gaussian_blur": _gaussian_blur,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
    "resolution": _resolution,
}
NAMES = tuple(CORRUPTIONS)


def _scale(image: np.ndarray) -> float:
    """Returns how large an image is, beside those that the lengths are stated for."""
    return min(image.shape[:2]) / _SIDE


def _pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def _resampled(
    image: np.ndarray, share: float, down: Image.Resampling, up: Image.Resampling
) -> np.ndarray:
    whole = _pillow(image)
    small = (max(1, int(whole.width * share)), max(1, int(whole.height * share)))
    return np.asarray(whole.resize(small, down).resize(whole.size, up)).reshape(image.shape)


def _disk(radius: float, softness: float) -> np.ndarray:
    """Returns a disk of ones whose edge is softened by a Gaussian of this standard deviation.

    It is drawn in a finer grid, so that radii below a pixel blur less than those of one pixel.
    """
    fine, side = 8, 2 * int(np.ceil(radius + 3 * softness)) + 1
    places = (np.arange(side * fine) + 0.5) / fine - side / 2
    distance = np.hypot(places[:, None], places[None])
    disk = Image.fromarray((255.0 * (distance <= radius)).astype(np.uint8))
    soft = np.asarray(disk.filter(ImageFilter.GaussianBlur(softness * fine)), np.float64)
    return soft.reshape(side, fine, side, fine).sum((1, 3))


def _line(radius: float, sigma: float, degrees: float) -> np.ndarray:
    """Returns a line from the middle, whose weights fall off as a Gaussian: a shaken camera."""
    reach = int(np.ceil(2 * radius))
    side = 2 * reach + 1
    kernel, angle = np.zeros((side, side)), np.deg2rad(degrees)
    for at in np.linspace(0, 2 * radius, 8 * reach + 1):
        row, column = reach - at * np.sin(angle), reach + at * np.cos(angle)
        top, left = int(np.floor(row)), int(np.floor(column))
        for y, x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= y < side and 0 <= x < side:
                share = (1 - abs(row - y)) * (1 - abs(column - x))
                kernel[y, x] += share * np.exp(-(at**2) / (2 * max(sigma, 1e-6) ** 2))
    return kernel


def _convolved(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns weighted means of the neighbours of each pixel; outside the image is reflected."""
    kernel = kernel / kernel.sum()
    rows, columns = (side // 2 for side in kernel.shape)
    padding = ((rows, rows), (columns, columns), (0, 0))
    padded = np.pad(image.astype(np.float64), padding, mode="symmetric")
    shape = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, shape)[..., None]
    found = np.fft.irfft2(spectrum, shape, axes=(0, 1))
    return found[2 * rows :, 2 * columns :]


def _plasma(shape: tuple[int, int], roughness: float, rng: np.random.Generator) -> np.ndarray:
    """Returns clouds from 0 to 1: noise on ever finer grids, each weaker by the same factor.

    The paper's are of the diamond-square algorithm, of the same kind.
    """
    side = max(shape)
    clouds, weight = np.zeros((side, side)), 1.0
    cells = 4
    while cells <= side:
        noise = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
        clouds += weight * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
        cells, weight = 2 * cells, weight / roughness
    clouds -= clouds.min()
    return clouds[: shape[0], : shape[1]] / max(clouds.max(), 1e-9)
