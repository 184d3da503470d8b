"""What augmentation and stretching cost on the device, in float32 products of two precisions."""

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from experiments.benchmarks.gpu.case import Case, Scale


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the seconds of a batch: crops and flips, a policy on top, stretching."""
    import jax
    from jax import lax

    from tl_jax.config import AugmentConfig
    from tl_jax.data.augment import geometry

    del case
    batch, side = (4, 32) if scale.tiny else (256, 224)
    yield {"batch_size": batch, "image_size": side}
    policy = AugmentConfig(policy="randaugment")
    yield {"crop and flip": _time(scale, *_augmentation(AugmentConfig(), batch, side))}
    yield {"crop, flip and RandAugment": _time(scale, *_augmentation(policy, batch, side))}
    with mock.patch.object(geometry, "_RESIZE_PRECISION", lax.Precision.HIGHEST):
        exact = _time(scale, *_augmentation(AugmentConfig(), batch, side))
    yield {"crop and flip, highest precision": exact}
    yield {"stretch": _time(scale, *_stretching(batch, side))}
    yield {"peak_bytes": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")}


def _augmentation(
    options: Any, batch: int, side: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import jax
    import jax.numpy as jnp

    from tl_jax.data.augment.augment import make_augment_fn
    from tl_jax.data.preprocess import Preprocess

    augment_fn = make_augment_fn(options, Preprocess(size=(side, side)))
    key = jax.random.key(0)
    canvas = 8 * side // 7
    images = jax.random.randint(key, (batch, canvas, canvas, 3), 0, 256).astype(jnp.uint8)
    sizes = jnp.tile(jnp.asarray([[375, 500]]), (batch, 1))
    return augment_fn, (key, {"image": images, "size": sizes})


def _stretching(batch: int, side: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    import functools

    import jax
    import jax.numpy as jnp

    from tl_jax.data.loading.stretch import stretch

    longest = 500 * side // 224
    height = 3 * longest // 4
    packed = jax.random.randint(
        jax.random.key(0), (batch, 3 * longest * (height + 1)), 0, 256
    ).astype(jnp.uint8)
    shapes = jnp.tile(jnp.asarray([[height, longest]]), (batch, 1))
    function = functools.partial(stretch, side=longest, canvas=8 * side // 7)
    return function, (packed, shapes, shapes.astype(jnp.float32))


def _time(scale: Scale, function: Callable[..., Any], args: tuple[Any, ...]) -> dict[str, float]:
    import jax

    from experiments.benchmarks import timing

    compiled = jax.jit(function).lower(*args).compile()

    def run(steps: int) -> None:
        for _ in range(steps):
            result = compiled(*args)
        jax.block_until_ready(result)

    run(scale.warmups)
    seconds = [timing.sample(run, scale.steps).wall for _ in range(scale.blocks)]
    return timing.spread(seconds)
