"""Depthwise convolutions of EfficientNet-B0 and ConvNeXt-Tiny one by one, beside torch's."""

import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale, prepare_torch

PEER = "torch"
# Side of the map, side of the kernel, stride and channels.
SHAPES = (
    (112, 3, 1, 32), (112, 3, 2, 96), (56, 3, 1, 144), (56, 5, 2, 144), (28, 5, 1, 240),
    (28, 3, 2, 240), (14, 3, 1, 480), (14, 5, 1, 672), (14, 5, 2, 672), (7, 5, 1, 1152),
    (56, 7, 1, 96), (28, 7, 1, 192), (14, 7, 1, 384), (7, 7, 1, 768),
)  # fmt: skip
TINY_SHAPES = ((7, 7, 1, 8), (8, 3, 2, 8))


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the seconds of a convolution and of its two gradients by form, in bfloat16."""
    del case
    prepare_torch(scale)
    batch = 2 if scale.tiny else 256
    for shape in TINY_SHAPES if scale.tiny else SHAPES:
        forms = {**_ours(shape, batch), **_theirs(shape, batch, scale)}
        seconds: dict[str, dict[str, float]] = {}
        for (kind, form), run in forms.items():
            run(scale.warmups)
            seconds.setdefault(kind, {})[form] = _median(run, scale)
        side, kernel, stride, channels = shape
        yield {f"{side} px, {kernel}x{kernel}/{stride}, {channels} channels": seconds}


def _ours(shape: tuple[int, ...], batch: int) -> dict[tuple[str, str], Callable[[int], None]]:
    import jax
    import jax.numpy as jnp

    from tl_jax.models.layers import gpu_convolution
    from tl_jax.models.layers.general import general_form
    from tl_jax.models.layers.geometry import Geometry
    from tl_jax.models.layers.shifted import shifted_form

    side, kernel, stride, channels = shape
    pads = (kernel // 2, kernel // 2)
    geometry = Geometry((side, side), (kernel, kernel), stride, (pads, pads), channels)
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels), jnp.bfloat16)
    g = jax.random.normal(jax.random.key(1), (batch, *geometry.output, channels), jnp.bfloat16)
    weights = jax.random.normal(jax.random.key(2), (kernel, kernel, 1, channels), jnp.bfloat16)
    runs = {}
    for kind, a, b in (
        ("forward", x, weights), ("input_gradient", g, weights), ("kernel_gradient", x, g),
    ):  # fmt: skip
        forms = {
            "library": general_form(kind, geometry, "default"),
            "shifted": shifted_form(kind, geometry, on_cpu=False),
            "own": gpu_convolution.fastest_form(kind, geometry, a, b, precision="default"),
        }
        for name, function in forms.items():
            if function is not None:
                compiled = jax.jit(function).lower(a, b).compile()
                step = functools.partial(compiled, a, b)
                runs[kind, name] = _repeated(step, jax.block_until_ready)
    return runs


def _repeated(function: Callable[[], Any], wait: Callable[[Any], Any]) -> Callable[[int], None]:
    """Returns `run(steps)`, which calls a function so many times and waits for the last result."""

    def run(steps: int) -> None:
        for _ in range(steps):
            result = function()
        wait(result)

    return run


def _theirs(
    shape: tuple[int, ...], batch: int, scale: Scale
) -> dict[tuple[str, str], Callable[[int], None]]:
    import torch

    side, kernel, stride, channels = shape
    options = {
        "device": "cuda" if scale.device == "gpu" else "cpu",
        "dtype": torch.bfloat16,
    }
    x = torch.randn(batch, channels, side, side, **options)
    x = x.to(memory_format=torch.channels_last)
    weights = torch.randn(channels, 1, kernel, kernel, **options)
    sizes = ([stride] * 2, [kernel // 2] * 2, [1, 1])
    g = torch.randn_like(torch.conv2d(x, weights, None, *sizes, channels))

    def gradient(which: int) -> torch.Tensor:
        mask = [which == index for index in range(3)]
        backward = torch.ops.aten.convolution_backward
        return backward(g, x, weights, None, *sizes, False, [0, 0], channels, mask)[which]

    functions = {
        "forward": lambda: torch.conv2d(x, weights, None, *sizes, channels),
        "input_gradient": lambda: gradient(0),
        "kernel_gradient": lambda: gradient(1),
    }

    return {
        (kind, PEER): _repeated(function, lambda result: result.flatten()[0].item())
        for kind, function in functions.items()
    }


def _median(run: Callable[[int], None], scale: Scale) -> float:
    from experiments.benchmarks import timing

    return statistics.median(timing.sample(run, scale.steps).wall for _ in range(scale.blocks))
