"""The training step and the evaluation step: pure functions of state and batch."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from tl_jax import trees
from tl_jax.objectives import losses, metrics
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

Batch = Mapping[str, jax.Array]
Prepare = Callable[[jax.Array, Batch], jax.Array]
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    model: nn.Module,
    tx: optax.GradientTransformation,
    plan: Any,
    *,
    prepare: Prepare,
    seed_key: jax.Array,
    label_smoothing: float = 0.0,
    mix: Mix | None = None,
    still: Collection[str] = (),
) -> TrainStep:
    """Returns one step of training, to be compiled with `jax.jit`.

    The gradient is taken of the trained parameters alone, so no work is done in the backward
    pass below the first of them; frozen layers stand still.

    Args:
      model: the network.
      tx: optimizer of the trained parameters of `plan`.
      plan: labels of `tl_jax.transfer.freeze`.
      prepare: `prepare(key, batch)` -> the network's input, float [B, H, W, 3]: augmentation and
        normalisation.
      seed_key: the run's random key; a step uses `fold_in(seed_key, step)`.
      label_smoothing: see `tl_jax.objectives.losses.cross_entropy`.
      mix: `mix(key, images, targets) -> (images, targets)` of one-hot targets (mixup, CutMix;
        `tl_jax.data.augment.mixing.mix`); None mixes nothing.
      still: labels whose BatchNorm keeps its running statistics (`freeze.batch_norm`).

    Returns:
      `step(state, batch) -> (state, metrics)` with the scalars "loss", "accuracy" and
      "grad_norm" (of the trained parameters, before clipping). `batch["label"]` is int [B].
    """

    intercept = freeze.standing_still(plan, still)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(seed_key, state.step)
        prepare_key, dropout_key = jax.random.split(step_key)
        images, targets = prepare(prepare_key, batch), batch["label"]
        trained, frozen = freeze.split(plan, state.params)
        if mix is not None:
            # A key of its own, so that the other draws are those of a run without it; children 0
            # and 1 of the step's key are the two above.
            mix_key = jax.random.fold_in(step_key, 2)
            images, targets = mix(mix_key, images, jax.nn.one_hot(targets, model.num_classes))

        def loss_of(trained: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            with nn.intercept_methods(intercept):
                logits, updates = model.apply(
                    {"params": trees.merge(trained, frozen), "batch_stats": state.batch_stats},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
            loss = losses.cross_entropy(logits, targets, label_smoothing=label_smoothing)
            return loss, (logits, updates.get("batch_stats", {}))

        (loss, (logits, batch_stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
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


def make_eval_step(
    logits_of: Callable[[Any, jax.Array], jax.Array],
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns one step of evaluation, to be compiled with `jax.jit`.

    Args:
      logits_of: variables and uint8 images [B, H, W, 3] -> logits [B, C].

    Returns:
      `step(variables, batch) -> sums` over the examples where `batch["mask"]` holds: "loss" (sum,
      nats), "confusion" (int [C, C], true by predicted class).
    """

    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        logits = logits_of(variables, batch["image"])
        loss = losses.example_cross_entropy(logits, batch["label"])
        return {
            "loss": jnp.where(batch["mask"], loss, 0.0).sum(),
            "confusion": metrics.confusion_matrix(logits, batch["label"], batch["mask"]),
        }

    return step
