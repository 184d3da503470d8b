"""Many heads with their own rates, decays, seeds and scales, trained at once on the same features.

The heads share one program: `vmap` over the heads, `lax.scan` over the steps. Heads of one seed see
the same batches, so each batch is read once for all of them and multiplied by their kernels in one
matrix product.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from tl_jax.probes.solvers import LinearHead

Optimizer = Literal["sgd", "adamw"]
Decline = Literal["constant", "cosine"]


@struct.dataclass
class Settings:
    """What distinguishes the heads of a sweep; each field is an array [H].

    Attributes:
      learning_rate: at the beginning.
      weight_decay: of the kernel; added to the gradient for SGD, decoupled for AdamW.
      seed: chooses the order of the examples and the initial kernel.
      init_scale: the kernel starts as normal draws of standard deviation init_scale / sqrt(D).
    """

    learning_rate: jax.Array
    weight_decay: jax.Array
    seed: jax.Array
    init_scale: jax.Array

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, places: slice | Sequence[int] | np.ndarray) -> "Settings":
        """Returns the settings of some of the heads."""
        chosen = places if isinstance(places, slice) else np.asarray(places)
        return jax.tree.map(lambda leaf: leaf[chosen], self)


@struct.dataclass
class SweepResult:
    """The heads of a sweep and what each reaches on the validation features.

    Attributes:
      settings: as given, [H].
      accuracy: share of the validation examples, float32 [H].
      loss: mean cross-entropy of the validation examples, nats, float32 [H].
      heads: kernel [H, D, C] and bias [H, C].
    """

    settings: Settings
    accuracy: np.ndarray
    loss: np.ndarray
    heads: LinearHead

    @property
    def best(self) -> int:
        """Index of the head of the highest accuracy, of these the one of the lowest loss.

        A head that diverged is never chosen before one that did not.
        """
        loss = np.nan_to_num(self.loss, nan=np.inf, posinf=np.inf)
        return int(np.lexsort((loss, -self.accuracy, np.isinf(loss)))[0])

    def head(self, index: int) -> LinearHead:
        """Returns one head."""
        return jax.tree.map(lambda leaf: leaf[index], self.heads)


def grid(
    *,
    learning_rates: Sequence[float],
    weight_decays: Sequence[float] = (0.0,),
    seeds: Sequence[int] = (0,),
    init_scales: Sequence[float] = (0.0,),
) -> Settings:
    """Returns the settings of all combinations; the rates vary slowest, the scales fastest."""
    rows = list(itertools.product(learning_rates, weight_decays, seeds, init_scales))
    if not rows:
        raise ValueError("a sweep needs at least one value of each setting")
    rates, decays, drawn, scales = zip(*rows, strict=True)
    return Settings(
        learning_rate=jnp.asarray(rates, jnp.float32),
        weight_decay=jnp.asarray(decays, jnp.float32),
        seed=jnp.asarray(drawn, jnp.uint32),
        init_scale=jnp.asarray(scales, jnp.float32),
    )


def sweep(
    settings: Settings,
    train: tuple[jax.Array, jax.Array],
    validation: tuple[jax.Array, jax.Array],
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer = "sgd",
    momentum: float = 0.9,
    schedule: Decline = "cosine",
) -> SweepResult:
    """Trains one linear head for each setting, all in one compiled program.

    Each epoch is a new permutation of the examples by (seed, epoch), cut into whole batches; what
    is left over, fewer than `batch_size`, sits out this epoch.

    Args:
      settings: the heads, as of `grid`.
      train: features [N, D] and class indices [N].
      validation: the same, of other examples; every one counts once.
      num_classes: number of classes, C.
      epochs: passes over the training features.
      batch_size: examples of a step, at most N.
      optimizer: "sgd" (with momentum) or "adamw".
      momentum: of SGD.
      schedule: the rate's course: "constant", or "cosine" to zero.

    Raises:
      ValueError: if an option is unknown, or shapes, labels or sizes are unfit.

    Example:
      >>> settings = grid(learning_rates=[0.01, 0.1], seeds=range(5))
      >>> found = sweep(settings, train, held_out, num_classes=10, epochs=20, batch_size=256)
      >>> found.heads.kernel.shape
      (10, 512, 10)
    """
    _check_options(optimizer, schedule)
    train = _checked("training", train, num_classes)
    validation = _checked("validation", validation, num_classes)
    count = len(train[1])
    if not 1 <= batch_size <= count or epochs < 1:
        raise ValueError(
            f"got batch_size={batch_size} and epochs={epochs}; expected a batch of 1 to {count}, "
            "the training examples, and at least one epoch"
        )
    order, groups = _grouped(np.asarray(settings.seed))
    grouped = jax.tree.map(lambda leaf: leaf.reshape(groups, -1), settings[order])
    heads, accuracy, loss = _train_and_measure(
        grouped, train, validation, num_classes, epochs, batch_size, optimizer, momentum, schedule
    )
    back = np.argsort(order)
    heads = jax.tree.map(lambda leaf: leaf[back], heads)
    return SweepResult(settings, np.asarray(accuracy)[back], np.asarray(loss)[back], heads)


def epoch_order(seed: int | jax.Array, epoch: int | jax.Array, count: int) -> jax.Array:
    """Returns the order, int32 [count], in which heads of a seed see the examples in an epoch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, count)


def _grouped(seeds: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the order that puts heads of one seed together, and the number of groups.

    Groups must be of one size; where seeds have different numbers of heads each head is its own.
    """
    order = np.argsort(seeds, kind="stable")
    _, sizes = np.unique(seeds, return_counts=True)
    return order, len(sizes) if len(set(sizes.tolist())) == 1 else len(seeds)


@functools.partial(
    jax.jit,
    static_argnames=("num_classes", "epochs", "batch_size", "optimizer", "momentum", "schedule"),
)
def _train_and_measure(
    settings: Settings,
    train: tuple[jax.Array, jax.Array],
    validation: tuple[jax.Array, jax.Array],
    num_classes: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    momentum: float,
    schedule: Decline,
) -> tuple[LinearHead, jax.Array, jax.Array]:
    """Takes settings [groups, heads of a seed]; returns heads, accuracies and losses, [H, ...]."""
    features, labels = train
    steps = len(labels) // batch_size

    def rule(setting: Settings) -> optax.GradientTransformation:
        total = epochs * steps
        decline = optax.cosine_decay_schedule(1.0, total) if schedule == "cosine" else lambda _: 1.0
        course = lambda step: setting.learning_rate * decline(step)  # noqa: E731
        decay = optax.add_decayed_weights(setting.weight_decay, mask=LinearHead(True, False))
        if optimizer == "sgd":
            parts = [decay, optax.trace(momentum)]
        else:
            parts = [optax.scale_by_adam(), decay]
        return optax.chain(*parts, optax.scale_by_learning_rate(course))

    def start(setting: Settings) -> tuple[LinearHead, optax.OptState]:
        draws = jax.random.normal(_init_key(setting.seed), (features.shape[1], num_classes))
        kernel = draws * setting.init_scale / features.shape[1] ** 0.5
        head = LinearHead(kernel, jnp.zeros(num_classes))
        return head, rule(setting).init(head)

    def train_group(group: Settings) -> LinearHead:
        seed = group.seed[0]

        def advance(carry: tuple, places: jax.Array) -> tuple[tuple, None]:
            inputs, wanted = features[places], labels[places]

            def one(setting: Settings, head: LinearHead, state: optax.OptState) -> tuple:
                grads = jax.grad(_loss)(head, inputs, wanted)
                updates, state = rule(setting).update(grads, state, head)
                return optax.apply_updates(head, updates), state

            return jax.vmap(one)(group, *carry), None

        def epoch(carry: tuple, number: jax.Array) -> tuple[tuple, None]:
            order = epoch_order(seed, number, len(labels))
            batches = order[: steps * batch_size].reshape(steps, batch_size)
            return jax.lax.scan(advance, carry, batches)[0], None

        (heads, _), _ = jax.lax.scan(epoch, jax.vmap(start)(group), jnp.arange(epochs))
        return heads

    heads = jax.vmap(train_group)(settings)
    heads = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), heads)
    # One head after the other: the logits of all at once might not fit.
    accuracy, loss = jax.lax.map(lambda head: _measure(head, *validation), heads)
    return heads, accuracy, loss


def _loss(head: LinearHead, features: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(head(features), labels).mean()


def _measure(
    head: LinearHead, features: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    logits = head(features)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return (logits.argmax(-1) == labels).mean(), loss


def _init_key(seed: jax.Array) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 0)


def _check_options(optimizer: str, schedule: str) -> None:
    if optimizer not in ("sgd", "adamw"):
        raise ValueError(f"got optimizer={optimizer!r}; expected 'sgd' or 'adamw'")
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"got schedule={schedule!r}; expected 'constant' or 'cosine'")


def _checked(
    what: str, pair: tuple[jax.Array, jax.Array], num_classes: int
) -> tuple[jax.Array, jax.Array]:
    """Returns features in float32 and labels in int32, if they are fit."""
    features, labels = jnp.asarray(pair[0], jnp.float32), np.asarray(pair[1])
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"got {what} features {features.shape} and labels {labels.shape}; expected [N, D] and "
            "[N], N at least 1"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"got {what} labels from {labels.min()} to {labels.max()}; expected class indices "
            f"from 0 to {num_classes - 1}"
        )
    return features, jnp.asarray(labels, jnp.int32)
