"""What a network can mean: checks of its fields, and of the images that it is given."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from tl_jax import arguments
from tl_jax.models.layers import Dtype, as_shapes

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_RGB, _RGBA = 3, 4
# Every architecture takes images of the first side, in pixels; those that subsample by averages,
# whose maps must be even, take multiples of the second.
_LARGE_ENOUGH, _FITS_EVERYWHERE = 96, 32
# Set in a thread that looks for the smallest image, where an empty map is an answer.
_SEARCH = threading.local()


class _EmptyMapError(ValueError):
    """Nothing is left of an image in the last map."""


def check_dtype(value: Dtype) -> None:
    """Raises unless a field is a type that networks compute in."""
    try:
        name = jnp.dtype(value).name if value is not None else "None"
    except TypeError:
        name = repr(value)
    if name not in _DTYPES:
        raise ValueError(
            f"dtype is {name}, and networks compute in one of {', '.join(_DTYPES)}; for integer "
            "weights convert the variables after training"
            if name.startswith(("int", "uint"))
            else f"dtype is {name}; networks compute in one of {', '.join(_DTYPES)}"
        )
    if name == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise ValueError(
            "dtype is float64, which jax computes in float32 unless it is told otherwise; call "
            "jax.config.update('jax_enable_x64', True) first, or use float32"
        )


def check_images(images: Any, channels: int) -> None:
    """Raises unless a network of `channels` can take these images.

    Only shape and type are looked at, which are known under `jit` too, so the check costs nothing
    there. The values are not: images of floats must be normalised as the weights expect.

    Raises:
      TypeError: if they are not an array, or not of floats.
      ValueError: if their shape is not [batch, height, width, channels].
    """
    if not isinstance(images, jax.Array | np.ndarray):
        advice = (
            "tl_jax.preprocess makes one of files and pictures, numpy.stack of a list of arrays"
        )
        if hasattr(images, "detach"):
            advice = "numpy.asarray(images.permute(0, 2, 3, 1)) makes one of a batch in torch"
        raise TypeError(
            f"the network takes an array of images [batch, height, width, {channels}], but got "
            f"{arguments.kind(images)}; {advice}"
        )
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(
            f"the network takes images [batch, height, width, {channels}], but got shape "
            f"{images.shape}; {_shape_advice(images.shape, channels)}"
        )
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"the network takes normalised images of floats, but got {images.dtype}; "
            "tl_jax.preprocess resizes and normalises pixels as the weights expect, or write "
            "(images / 255 - mean) / std with those of tl_jax.pretrained_config(name)"
        )
    if not images.shape[0]:
        raise ValueError(f"the batch holds no image: its shape is {images.shape}")


def check_map(network: nn.Module, images: Sequence[int], last_map: Sequence[int]) -> None:
    """Raises if nothing is left of the images in a network's last map.

    Args:
      network: with the field `in_channels`.
      images: shape of the images.
      last_map: shape of the map, [batch, height, width, channels].

    Raises:
      ValueError: naming the smallest image that the network takes.
    """
    if 0 not in last_map[1:3]:
        return
    if getattr(_SEARCH, "active", False):
        raise _EmptyMapError
    # In a thread of its own, because contexts of Flax that may be open here are of one thread.
    with ThreadPoolExecutor(1) as thread:
        side = thread.submit(_smallest_side, network.clone()).result()
    raise ValueError(
        f"images of {images[1]}x{images[2]} pixels are too small for this network, whose last map "
        f"would be empty: it takes images of at least {side}x{side}; resize them, as "
        "tl_jax.preprocess does"
    )


def _smallest_side(network: nn.Module) -> int:
    """Returns the side of the smallest square image that a network takes, in pixels."""
    _SEARCH.active = True
    key = jax.eval_shape(jax.random.key, 0)
    too_small, fits = 0, _LARGE_ENOUGH
    while fits - too_small > 1:
        side = (too_small + fits) // 2
        image = jax.ShapeDtypeStruct((2, side, side, network.in_channels), jnp.float32)
        try:
            with as_shapes():
                jax.eval_shape(lambda *args: network.init(*args), key, image)
            fits = side
        except _EmptyMapError:
            too_small = side
        except ValueError:  # Maps that do not add up; those of such an image do in all networks.
            return _FITS_EVERYWHERE
    return fits


def _shape_advice(shape: tuple[int, ...], channels: int) -> str:
    """Returns how to bring an array of another shape to [batch, height, width, channels]."""
    if len(shape) == 4 and shape[1] == channels:
        return "its channels come first, as torch has them: use jnp.moveaxis(images, 1, -1)"
    if len(shape) == 3 and shape[-1] == channels:
        return "it is one image without a batch: use images[None]"
    if len(shape) == 3 and shape[0] == channels:
        return (
            "it is one image, its channels first, without a batch: use "
            "jnp.moveaxis(images, 0, -1)[None]"
        )
    if len(shape) == 3 and channels == 1:
        return "the axis of the channel is missing: use images[..., None]"
    if len(shape) == 2:
        return "it is one gray image: use images[None, :, :, None], and a network of in_channels=1"
    if len(shape) == 4 and (shape[-1], channels) == (1, _RGB):
        return (
            "repeat the gray channel with jnp.repeat(images, 3, axis=-1), or create the network "
            "with in_channels=1"
        )
    if len(shape) == 4 and (shape[-1], channels) == (_RGBA, _RGB):
        return (
            "leave the fourth channel out with images[..., :3], or create the network with "
            "in_channels=4"
        )
    if len(shape) == 4:
        return f"create the network with in_channels={shape[-1]} for these"
    return "tl_jax.preprocess makes such an array of files and pictures"
