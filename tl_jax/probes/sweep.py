"""Many heads with different rates, decays, seeds and scales, trained at once on shared features.

The heads share one program: `vmap` over the heads, `lax.scan` over the steps. Heads with the same
seed see the same batches, so each batch is read once for all of them and multiplied by their
kernels in one matrix product.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.typing import ArrayLike

from tl_jax.probes.solvers import LinearHead, to_examples

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "cosine"]


@struct.dataclass
class Settings:
    """The settings of the heads of a sweep; each field is an array [H].

    Attributes:
      learning_rate: initial learning rate.
      weight_decay: of the kernel; added to the gradient for SGD, decoupled for AdamW.
      seed: decides the order of the examples and the initial kernel.
      init_scale: the initial kernel is normal with standard deviation init_scale / sqrt(D).
    """

    learning_rate: jax.Array
    weight_decay: jax.Array
    seed: jax.Array
    init_scale: jax.Array

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, indices: slice | Sequence[int] | np.ndarray) -> "Settings":
        """Returns the settings of some of the heads."""
        index = indices if isinstance(indices, slice) else np.asarray(indices)
        return jax.tree.map(lambda leaf: leaf[index], self)


@struct.dataclass
class SweepResult:
    """The heads of a sweep and their metrics on the validation features.

    Attributes:
      settings: those of the call, [H].
      accuracy: on the validation examples, float32 [H].
      loss: mean cross-entropy of the validation examples, nats, float32 [H].
      heads: kernel [H, D, C] and bias [H, C].
    """

    settings: Settings
    accuracy: np.ndarray
    loss: np.ndarray
    heads: LinearHead

    @property
    def best(self) -> int:
        """Index of the head with the highest accuracy; among equals, with the lowest loss.

        A head that diverged ranks after all that did not.
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
    """Returns the settings of all combinations; the rates vary slowest, the scales fastest.

    >>> grid(learning_rates=[0.1, 0.2], seeds=[0, 1]).learning_rate.tolist()
    [0.10000000149011612, 0.10000000149011612, 0.20000000298023224, 0.20000000298023224]
    """
    rows = list(itertools.product(learning_rates, weight_decays, seeds, init_scales))
    if not rows:
        raise ValueError(
            f"got {len(learning_rates)} learning rates, {len(weight_decays)} weight decays, "
            f"{len(seeds)} seeds and {len(init_scales)} scales; expected at least one of each"
        )
    rates, decays, row_seeds, scales = zip(*rows, strict=True)
    return Settings(
        learning_rate=jnp.asarray(rates, jnp.float32),
        weight_decay=jnp.asarray(decays, jnp.float32),
        seed=jnp.asarray(row_seeds, jnp.uint32),
        init_scale=jnp.asarray(scales, jnp.float32),
    )


def sweep(
    settings: Settings,
    train: tuple[ArrayLike, ArrayLike],
    validation: tuple[ArrayLike, ArrayLike],
    *,
    num_classes: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer = "sgd",
    momentum: float = 0.9,
    schedule: Schedule = "cosine",
) -> SweepResult:
    """Trains one linear head for each setting, all in one compiled program.

    Each epoch is a new permutation of the examples by (seed, epoch), cut into full batches; the
    remainder of fewer than `batch_size` examples is skipped in this epoch.

    Args:
      settings: of the heads, such as `grid` returns.
      train: features [N, D] and class indices [N].
      validation: features and class indices of other examples; every one counts once.
      num_classes: number of classes, C.
      epochs: passes over the training features.
      batch_size: examples of a step, at most N.
      optimizer: "sgd" (with momentum) or "adamw".
      momentum: of SGD.
      schedule: of the learning rate: "constant", or "cosine" to zero.

    Raises:
      ValueError: if an option is unknown, or shapes, labels or sizes are invalid.

    Examples:
      >>> x, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
      >>> settings = grid(learning_rates=[0.0, 1.0], seeds=range(2))
      >>> result = sweep(settings, (x, y), (x, y), num_classes=2, epochs=5, batch_size=2)
      >>> result.heads.kernel.shape, float(result.accuracy[result.best])
      ((4, 1, 2), 1.0)
    """
    if optimizer not in ("sgd", "adamw"):
        raise ValueError(f"got optimizer={optimizer!r}; expected 'sgd' or 'adamw'")
    if schedule not in ("constant", "cosine"):
        raise ValueError(f"got schedule={schedule!r}; expected 'constant' or 'cosine'")
    train_examples = to_examples(*train, num_classes=num_classes, split="training")
    validation_examples = to_examples(*validation, num_classes=num_classes, split="validation")
    count = len(train_examples[1])
    if not 1 <= batch_size <= count or epochs < 1:
        raise ValueError(
            f"got batch_size={batch_size} and epochs={epochs}; expected a batch of 1 to {count}, "
            "the training examples, and at least one epoch"
        )
    # Heads with the same seed form a group. Groups must have one size: where seeds have different
    # numbers of heads, each head is a group of its own.
    seeds = np.asarray(settings.seed)
    order = np.argsort(seeds, kind="stable")
    _, sizes = np.unique(seeds, return_counts=True)
    groups = len(sizes) if len(set(sizes.tolist())) == 1 else len(seeds)
    grouped = jax.tree.map(lambda leaf: leaf.reshape(groups, -1), settings[order])
    heads, accuracy, loss = _train_and_evaluate(
        grouped,
        train_examples,
        validation_examples,
        num_classes,
        epochs,
        batch_size,
        optimizer,
        momentum,
        schedule,
    )
    inverse = np.argsort(order)
    heads = jax.tree.map(lambda leaf: leaf[inverse], heads)
    return SweepResult(settings, np.asarray(accuracy)[inverse], np.asarray(loss)[inverse], heads)


def epoch_order(seed: int | jax.Array, epoch: int | jax.Array, count: int) -> jax.Array:
    """Returns the order of the examples, int32 [count], for heads with this seed in this epoch."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 1), epoch)
    return jax.random.permutation(key, count)


_HeadState = tuple[LinearHead, optax.OptState]


@functools.partial(
    jax.jit,
    static_argnames=("num_classes", "epochs", "batch_size", "optimizer", "momentum", "schedule"),
)
def _train_and_evaluate(
    settings: Settings,
    train: tuple[jax.Array, jax.Array],
    validation: tuple[jax.Array, jax.Array],
    num_classes: int,
    epochs: int,
    batch_size: int,
    optimizer: Optimizer,
    momentum: float,
    schedule: Schedule,
) -> tuple[LinearHead, jax.Array, jax.Array]:
    """Takes settings [groups, heads of a seed]; returns heads, accuracies and losses, [H, ...]."""
    features, labels = train
    steps = len(labels) // batch_size

    make_tx = functools.partial(
        _make_tx,
        optimizer=optimizer,
        momentum=momentum,
        schedule=schedule,
        total_steps=epochs * steps,
    )

    def init(setting: Settings) -> tuple[LinearHead, optax.OptState]:
        init_key = jax.random.fold_in(jax.random.key(setting.seed), 0)
        noise = jax.random.normal(init_key, (features.shape[1], num_classes))
        kernel = noise * setting.init_scale / features.shape[1] ** 0.5
        head = LinearHead(kernel.T, jnp.zeros(num_classes))
        return head, make_tx(setting).init(head)

    def train_group(group: Settings) -> LinearHead:
        seed = group.seed[0]

        def train_step(heads: _HeadState, indices: jax.Array) -> tuple[_HeadState, None]:
            batch_features, batch_labels = features[indices], labels[indices]

            def update(
                setting: Settings, head: LinearHead, opt_state: optax.OptState
            ) -> _HeadState:
                grads = jax.grad(_loss_of_transposed)(head, batch_features, batch_labels)
                updates, opt_state = make_tx(setting).update(grads, opt_state, head)
                return optax.apply_updates(head, updates), opt_state

            return jax.vmap(update)(group, *heads), None

        def train_epoch(heads: _HeadState, epoch: jax.Array) -> tuple[_HeadState, None]:
            order = epoch_order(seed, epoch, len(labels))
            batches = order[: steps * batch_size].reshape(steps, batch_size)
            return jax.lax.scan(train_step, heads, batches)[0], None

        (heads, _), _ = jax.lax.scan(train_epoch, jax.vmap(init)(group), jnp.arange(epochs))
        return heads

    heads = jax.vmap(train_group)(settings)
    heads = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), heads)
    heads = LinearHead(heads.kernel.swapaxes(1, 2), heads.bias)
    # One head after the other: the logits of all heads might not fit in memory.
    accuracy, loss = jax.lax.map(lambda head: _evaluate(head, *validation), heads)
    return heads, accuracy, loss


def _make_tx(
    setting: Settings,
    *,
    optimizer: Optimizer,
    momentum: float,
    schedule: Schedule,
    total_steps: int,
) -> optax.GradientTransformation:
    """Returns the optimizer of one head."""
    if schedule == "cosine":
        factor = optax.cosine_decay_schedule(1.0, total_steps)
    else:
        factor = optax.constant_schedule(1.0)
    # The kernel decays, the bias does not.
    mask: Any = LinearHead(True, False)  # type: ignore[arg-type]  # A mask in place of arrays.
    decay = optax.add_decayed_weights(setting.weight_decay, mask=mask)
    if optimizer == "sgd":
        transforms = [decay, optax.trace(momentum)]
    else:
        transforms = [optax.scale_by_adam(), decay]
    rate = optax.scale_by_learning_rate(lambda step: setting.learning_rate * factor(step))
    return optax.chain(*transforms, rate)


def _evaluate(
    head: LinearHead, features: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns accuracy and loss of a head."""
    return (head(features).argmax(-1) == labels).mean(), _loss(head, features, labels)


def _loss_of_transposed(head: LinearHead, features: jax.Array, labels: jax.Array) -> jax.Array:
    """Returns the loss of a head whose kernel is [C, D].

    Its gradient is then the product with the narrow matrix first, which a CPU computes faster than
    the other way round. The logits are [C, B], so that those of many heads are one product of
    matrices, and the labels one-hot, so that the gradient needs no scatter.
    """
    logits = jnp.einsum("cd,bd->cb", head.kernel, features, precision="highest")
    logits += head.bias[:, None]
    one_hot = jax.nn.one_hot(labels, len(logits), axis=0)
    return optax.softmax_cross_entropy(logits, one_hot, axis=0).mean()


def _loss(head: LinearHead, features: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(head(features), labels).mean()
