"""Mixup and CutMix: mix pairs of a batch, images and targets in the same shares."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from tl_jax.config import AugmentConfig
from tl_jax.data.source import Inputs

Targets = TypeVar("Targets")
MixFn = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]

# Key of CutMix's draws, a child of the batch's key that `jax.random.loggamma` does not use.
_CUT = 2


def make_mix_fn(options: AugmentConfig) -> MixFn | None:
    """Returns `mix_fn(key, images, targets) -> (images, targets)`, or None if mixing is off.

    Examples:
      >>> mix_fn = make_mix_fn(AugmentConfig(mixup=0.2, mix_probability=0.5))
      >>> make_mix_fn(AugmentConfig()) is None
      True
    """
    if not (options.mixup or options.cutmix):
        return None
    return functools.partial(
        mix,
        mixup=options.mixup,
        cutmix=options.cutmix,
        switch=options.mix_switch,
        probability=options.mix_probability,
    )


def check_inputs(options: AugmentConfig, inputs: Inputs) -> None:
    """Checks that what an example holds can be mixed, if mixing is on: a single image.

    Between two names or texts there is nothing, and views of two objects need not be the same.

    Raises:
      ValueError: if mixing is on and an example holds more than one image.

    Examples:
      >>> check_inputs(AugmentConfig(mixup=0.2), Inputs())
    """
    if (options.mixup or options.cutmix) and not inputs.is_one_image:
        held = [f"{inputs.views} views"] * bool(inputs.views) + list(inputs.keys)
        raise ValueError(
            f"got augment.mixup={options.mixup:g} and augment.cutmix={options.cutmix:g} for "
            f"examples with {', '.join(held)}; only single images are mixed: set both to 0"
        )


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: Targets,
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
    probability: float = 1.0,
) -> tuple[jax.Array, Targets]:
    """Mixes each image and its targets with another of the batch.

    mixup (arXiv:1710.09412) adds the two images, CutMix (arXiv:1905.04899) pastes a box of one
    into the other. As in timm by default, one draw serves the whole batch. The partners are
    neighbours, examples 2 i and 2 i + 1: a batch is in random order already, and where a device has
    an even number of its examples none leaves its device. The last image of an odd batch stays as
    it is. A target's share is exactly that of its image's pixels.

    Args:
      key: random key of the batch.
      images: [B, H, W, C], normalised.
      targets: float [B, classes], or a tree of such arrays, one per task: one-hot labels, or 1 and
        0 for each label of a multi-label task. A negative target is unknown, and so is its mixture.
        It makes no difference whether labels are smoothed before or after the mixing
        (`tl_jax.objectives.losses.cross_entropy`).
      mixup: alpha of mixup's Beta(alpha, alpha). Larger values draw more equal shares; 1 draws them
        uniformly; 0: no mixup.
      cutmix: the same for CutMix.
      switch: probability of CutMix rather than mixup, if both are on.
      probability: probability that a batch is mixed at all.

    Returns:
      Images and targets of the same shapes and types.

    Raises:
      ValueError: if an alpha is negative, a probability is outside [0, 1], or the targets are not
        one row of floats per image.

    Examples:
      >>> images, targets = jnp.ones((2, 8, 8, 3)), {"label": jnp.eye(2)}
      >>> images, targets = mix(jax.random.key(0), images, targets, mixup=0.2, cutmix=1.0)
    """
    if not (mixup >= 0 and cutmix >= 0):
        raise ValueError(f"got mixup={mixup} and cutmix={cutmix}; expected 0 (off) or more")
    if not (0 <= switch <= 1 and 0 <= probability <= 1):
        raise ValueError(
            f"got switch={switch} and probability={probability}; expected both within [0, 1]"
        )
    for target in jax.tree.leaves(targets):
        is_floating = jnp.issubdtype(target.dtype, jnp.floating)
        if target.ndim != 2 or len(target) != len(images) or not is_floating:
            raise ValueError(
                f"got targets {target.dtype}{list(target.shape)} for {len(images)} images; "
                "expected a float for each image and class: jax.nn.one_hot(labels, classes)"
            )
    if not (mixup or cutmix) or probability == 0:
        return images, targets
    weight, share = _draw_weights(
        key,
        (images.shape[1], images.shape[2]),
        mixup=mixup,
        cutmix=cutmix,
        switch=switch,
        probability=probability,
    )

    def mix_targets(target: jax.Array) -> jax.Array:
        other = _partners(target)
        is_unknown = ((target < 0) & (share > 0)) | ((other < 0) & (share < 1))
        return jnp.where(is_unknown, jnp.asarray(-1, target.dtype), _blend(target, share))

    return _blend(images, weight), jax.tree.map(mix_targets, targets)


def _draw_weights(
    key: jax.Array,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    switch: float,
    probability: float,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of an image's own pixels, a scalar or [H, W, 1], and its mean."""
    cut_draw, mixed_draw, *place = jax.random.uniform(jax.random.fold_in(key, _CUT), (4,))
    is_cut = cut_draw < (switch if mixup else 1.0) if cutmix else False
    alpha = jnp.where(is_cut, cutmix, mixup) if mixup and cutmix else mixup or cutmix
    # A beta draw, as one gamma draw over the sum of two; `jax.random.beta` compiles more slowly.
    one, other = jax.random.loggamma(key, alpha, (2,))
    share = jax.nn.sigmoid(one - other)
    if probability < 1:
        share = jnp.where(mixed_draw < probability, share, 1.0)
    if not cutmix:
        return share, share
    box = _box_mask(share, size, place)
    outside = 1 - box.sum() / box.size
    return jnp.where(is_cut, 1.0 - box, share)[..., None], jnp.where(is_cut, outside, share)


def _box_mask(share: jax.Array, size: tuple[int, int], place: list[jax.Array]) -> jax.Array:
    """Returns 1 inside a box of 1 - share of the area, cut off at the edges, else 0: [H, W].

    Source: `rand_bbox` of the authors' code, as in timm/data/mixup.py.
    """

    def covered(count: int, draw: jax.Array) -> jax.Array:
        length = jnp.floor(count * jnp.sqrt(1 - share))
        middle = jnp.minimum(jnp.floor(draw * count), count - 1)
        first = middle - jnp.floor(length / 2)
        return (jnp.arange(count) >= first) & (jnp.arange(count) < first + length)

    rows, columns = (covered(count, draw) for count, draw in zip(size, place, strict=True))
    return (rows[:, None] & columns).astype(jnp.float32)


def _blend(x: jax.Array, weight: jax.Array) -> jax.Array:
    """Returns each example times the weight, plus its partner times the rest."""
    return (weight * x + (1 - weight) * _partners(x)).astype(x.dtype)


def _partners(x: jax.Array) -> jax.Array:
    """Returns the partner of each example: its neighbour, or itself at the end of an odd batch."""
    count = len(x) // 2
    pairs = x[: 2 * count].reshape(count, 2, *x.shape[1:])
    swapped = pairs[:, ::-1].reshape(2 * count, *x.shape[1:])
    return swapped if len(x) == 2 * count else jnp.concatenate([swapped, x[2 * count :]])
