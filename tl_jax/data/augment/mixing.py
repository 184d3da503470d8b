"""Mixup and CutMix: images of a batch mixed with one another, and their targets in the same shares.

It needs nothing but JAX.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp

# Of one key, `split` makes children 0, 1, ..., which are also those of `fold_in`.
_CUT = 2

Targets = TypeVar("Targets")


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
    into the other. As in timm by default, one draw serves the whole batch, and the partner of
    example i is example B - 1 - i: a batch is in random order already. The image in the middle of
    an odd batch stays as it is. A target's share is exactly that of its image's pixels.

    Args:
      key: random key of the batch.
      images: [B, H, W, C], normalised.
      targets: [B, classes] of floats, or a tree of such arrays, one a task: one-hot labels, or 1
        and 0 for each label of several; a negative one is not known, nor is then the mixed one.
        Smoothed labels may be mixed, or mixed ones smoothed
        (`tl_jax.objectives.losses.cross_entropy`): it is the same.
      mixup: alpha of mixup's Beta(alpha, alpha); the larger, the more alike the two shares; 0: no
        mixup; 1 draws them uniformly.
      cutmix: the same for CutMix.
      switch: how often CutMix is taken where both are on.
      probability: how often a batch is mixed at all.

    Returns:
      Images and targets of the same shapes and types.

    Raises:
      ValueError: if an alpha is negative, a probability outside [0, 1], or there is not one row of
        floating targets an image.

    Example:
      >>> images, targets = jnp.ones((2, 8, 8, 3)), {"label": jnp.eye(2)}
      >>> images, targets = mix(jax.random.key(0), images, targets, mixup=0.2, cutmix=1.0)
    """
    _check(mixup, cutmix, switch, probability)
    jax.tree.map(lambda target: _check_target(target, images), targets)
    if not (mixup or cutmix) or probability == 0:
        return images, targets
    weight, share = _draw(
        key,
        images.shape[1:3],
        mixup=mixup,
        cutmix=cutmix,
        switch=switch,
        probability=probability,
    )
    mixed = jax.tree.map(lambda target: _mix_targets(target, share), targets)
    return _mix(images, weight), mixed


def _draw(
    key: jax.Array,
    size: tuple[int, int],
    *,
    mixup: float,
    cutmix: float,
    switch: float,
    probability: float,
) -> tuple[jax.Array, jax.Array]:
    """Returns the weight of the own image, of all pixels or [H, W, 1] of each, and its mean."""
    cut_draw, mixed_draw, *place = jax.random.uniform(jax.random.fold_in(key, _CUT), (4,))
    cut = cut_draw < (switch if mixup else 1.0) if cutmix else False
    alpha = jnp.where(cut, cutmix, mixup) if mixup and cutmix else mixup or cutmix
    # A beta, as one gamma's share of two; `jax.random.beta` is slower to compile by half.
    one, other = jax.random.loggamma(key, alpha, (2,))
    share = jax.nn.sigmoid(one - other)
    if probability < 1:
        share = jnp.where(mixed_draw < probability, share, 1.0)
    if not cutmix:
        return share, share
    box = _box(share, size, place)
    kept = 1 - box.sum() / box.size
    return jnp.where(cut, 1.0 - box, share)[..., None], jnp.where(cut, kept, share)


def _box(share: jax.Array, size: tuple[int, int], place: list[jax.Array]) -> jax.Array:
    """Returns where [H, W] a box of 1 - share of the area lies; it is cut off at the edges.

    Source: `rand_bbox` of the authors' code, as in timm/data/mixup.py.
    """

    def line(count: int, draw: jax.Array) -> jax.Array:
        length = jnp.floor(count * jnp.sqrt(1 - share))
        middle = jnp.minimum(jnp.floor(draw * count), count - 1)
        first = middle - jnp.floor(length / 2)
        return (jnp.arange(count) >= first) & (jnp.arange(count) < first + length)

    rows, columns = (line(count, draw) for count, draw in zip(size, place, strict=True))
    return (rows[:, None] & columns).astype(jnp.float32)


def _mix(x: jax.Array, weight: jax.Array) -> jax.Array:
    return (weight * x + (1 - weight) * x[::-1]).astype(x.dtype)


def _mix_targets(target: jax.Array, share: jax.Array) -> jax.Array:
    other = target[::-1]
    unknown = ((target < 0) & (share > 0)) | ((other < 0) & (share < 1))
    return jnp.where(unknown, jnp.asarray(-1, target.dtype), _mix(target, share))


def _check(mixup: float, cutmix: float, switch: float, probability: float) -> None:
    if not (mixup >= 0 and cutmix >= 0):
        raise ValueError(f"got mixup={mixup} and cutmix={cutmix}; expected 0, for none, or more")
    if not (0 <= switch <= 1 and 0 <= probability <= 1):
        raise ValueError(
            f"got switch={switch} and probability={probability}; expected both within [0, 1]"
        )


def _check_target(target: jax.Array, images: jax.Array) -> None:
    floating = jnp.issubdtype(target.dtype, jnp.floating)
    if target.ndim != 2 or len(target) != len(images) or not floating:
        raise ValueError(
            f"got targets {target.dtype}{list(target.shape)} for {len(images)} images; expected "
            "a float for each image and class: jax.nn.one_hot(labels, classes)"
        )
