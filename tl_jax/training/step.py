"""The training step and the evaluation step: pure functions of state and batch."""

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from tl_jax import trees
from tl_jax.models.model import Model
from tl_jax.objectives import losses, metrics
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
AugmentFn = Callable[[jax.Array, Batch], jax.Array]
MixFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[trees.Tree, Batch], Metrics]


def make_train_step(
    model: Model,
    tx: optax.GradientTransformation,
    plan: trees.Tree,
    *,
    augment_fn: AugmentFn,
    seed_key: jax.Array,
    label_smoothing: float = 0.0,
    mix_fn: MixFn | None = None,
    fixed_statistics: Collection[str] = (),
) -> TrainStep:
    """Returns one step of training, to be compiled with `jax.jit`.

    The gradient is taken with respect to the trained parameters alone, so the backward pass does
    no work below the first of them. Frozen layers are in evaluation mode.

    Args:
      model: the network.
      tx: optimizer of the trained parameters of `plan`.
      plan: labels of `tl_jax.transfer.freeze`.
      augment_fn: `augment_fn(key, batch)` -> the network's input, float [B, H, W, channels]:
        augmentation and normalisation.
      seed_key: the run's random key; a step uses `fold_in(seed_key, step)`.
      label_smoothing: see `tl_jax.objectives.losses.cross_entropy`.
      mix_fn: `mix_fn(key, images, targets) -> (images, targets)` with one-hot targets (mixup,
        CutMix); None mixes nothing.
      fixed_statistics: labels whose BatchNorm layers keep their running statistics
        (`freeze.apply_batch_norm_policies`).

    Returns:
      `step(state, batch) -> (state, metrics)` with the scalars "loss", "accuracy" and "grad_norm"
      (of the trained parameters, before clipping). `batch["label"]` is int [B].
    """
    interceptor = freeze.interceptor(plan, fixed_statistics)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(seed_key, state.step)
        augment_key, dropout_key = jax.random.split(step_key)
        images, targets = augment_fn(augment_key, batch), batch["label"]
        trained, frozen = freeze.split(plan, state.params)
        if mix_fn is not None:
            # `split` above took children 0 and 1 of the step's key. With child 2 for mixing, all
            # other random numbers are the same as without mixing.
            mix_key = jax.random.fold_in(step_key, 2)
            images, targets = mix_fn(mix_key, images, jax.nn.one_hot(targets, model.num_classes))

        def loss_fn(trained: trees.Tree) -> tuple[jax.Array, tuple[jax.Array, trees.Tree]]:
            with nn.intercept_methods(interceptor):
                logits, updates = model.apply(
                    {"params": trees.merge(trained, frozen), "batch_stats": state.batch_stats},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
            loss = losses.cross_entropy(logits, targets, label_smoothing=label_smoothing)
            return loss, (logits, updates.get("batch_stats", {}))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(trained)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        new_state = TrainState(
            step=state.step + 1,
            params=trees.merge(optax.apply_updates(trained, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new_state, {
            "loss": loss,
            "accuracy": (jnp.argmax(logits, -1) == batch["label"]).mean(),
            "grad_norm": optax.tree.norm(grads),
        }

    return step


def make_eval_step(logits_fn: Callable[[trees.Tree, jax.Array], jax.Array]) -> EvalStep:
    """Returns one step of evaluation, to be compiled with `jax.jit`.

    Args:
      logits_fn: variables and the batch's images [B, ...] -> logits [B, C].

    Returns:
      `step(variables, batch) -> sums` over the examples where `batch["mask"]` is True: "loss"
      (sum, nats) and "confusion" (int [C, C], true by predicted class).
    """

    def step(variables: trees.Tree, batch: Batch) -> Metrics:
        logits = logits_fn(variables, batch["image"])
        loss = losses.example_cross_entropy(logits, batch["label"])
        return {
            "loss": jnp.where(batch["mask"], loss, 0.0).sum(),
            "confusion": metrics.confusion_matrix(logits, batch["label"], batch["mask"]),
        }

    return step
