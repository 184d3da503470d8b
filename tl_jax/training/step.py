"""The training step and the evaluation step: pure functions of state and batch."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from tl_jax import trees
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.objectives import losses
from tl_jax.objectives.objective import WEIGHT, Objective
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.training.state import TrainState
from tl_jax.transfer import freeze

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
AugmentFn = Callable[[jax.Array, Batch], Any]
MixFn = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]
OutputsFn = Callable[[trees.Tree, Batch], Any]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
EvalStep = Callable[[trees.Tree, Batch], Metrics]
# Of the trained parameters; the new running statistics; loss and metrics.
Gradients = tuple[trees.Tree, trees.Tree, Metrics]
# Of trained and frozen parameters, running statistics, `Examples` and a key for dropout.
GradientFn = Callable[[trees.Tree, trees.Tree, trees.Tree, Any, jax.Array], Gradients]


class Examples(NamedTuple):
    """What gradients are computed of, in arrays of B rows.

    Attributes:
      inputs: of the network.
      labels: the batch, in which labels may be mixed: of the loss.
      measured: the batch as it came: of the metrics.
    """

    inputs: Any
    labels: Batch
    measured: Batch

    def without_images(self) -> "Examples":
        """Returns the examples without the images that `inputs` were made of."""
        labels, measured = (
            {name: x for name, x in batch.items() if name != "image"}
            for batch in (self.labels, self.measured)
        )
        return Examples(self.inputs, labels, measured)


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
    log_grad_norm: bool = True,
    objective: Objective | None = None,
    accumulate: int = 1,
    rematerialise: Collection[str] = (),
    around: Callable[[GradientFn], GradientFn] | None = None,
    reduce: Callable[[Any], Any] | None = None,
    skip_not_finite: bool = False,
) -> TrainStep:
    """Returns one step of training, to be compiled with `jax.jit`.

    The gradient is taken with respect to the trained parameters alone, so the backward pass does
    no work below the first of them. Frozen layers are in evaluation mode.

    Args:
      model: the network.
      tx: optimizer of the trained parameters of `plan`.
      plan: labels of `tl_jax.transfer.freeze`.
      augment_fn: `augment_fn(key, batch)` -> the network's input, float [B, H, W, channels] or a
        dict: augmentation and normalisation.
      seed_key: the run's random key; a step uses `fold_in(seed_key, step)`.
      label_smoothing: see `tl_jax.objectives.losses.cross_entropy`; without `objective`.
      mix_fn: `mix_fn(key, images, targets) -> (images, targets)` with targets of
        `Objective.targets` (mixup, CutMix); None mixes nothing.
      fixed_statistics: labels whose BatchNorm layers keep their running statistics
        (`freeze.apply_batch_norm_policies`).
      log_grad_norm: whether the metrics hold the norm of the gradient. It reads every gradient once
        more; where the optimizer clips by this norm the compiler computes it once for both.
      objective: loss and metrics; None for the cross-entropy of one class per example, whose
        `batch["label"]` is int [B].
      accumulate: slices that a batch is computed in, one after the other; it divides B. Their
        gradients and metrics are averaged before the update, so memory is that of a slice. A slice
        holds every `accumulate`-th example. BatchNorm that is trained with "update" sees the
        statistics of a slice and moves its running ones with each; where labels are missing, the
        loss of a slice is the mean over its own labelled examples (weights of examples change
        nothing: a loss is divided by the number of examples, not by their weights).
      rematerialise: dotted names of modules that the backward pass computes again, so that nothing
        inside them is kept (`layers.rematerialising`).
      around: wraps the function of the gradients, such as `sharding.by_device`.
      reduce: applied to gradients, running statistics, loss and metrics before norm and clipping,
        such as an average over devices (`pmap`).
      skip_not_finite: leave parameters, statistics and optimizer as they are where the loss or a
        gradient is not finite; the step counts, and the metrics hold "skipped", 0 or 1.

    Returns:
      `step(state, batch) -> (state, metrics)` with the scalars "loss", those of
      `Objective.batch_metrics` ("accuracy" of classes), of several tasks "TASK.loss" of each, and,
      if asked for, "grad_norm" (of the trained parameters, before clipping).

    Raises:
      ValueError: if both `label_smoothing` and `objective` are given.
    """
    objective_of = _objective_of(objective, label_smoothing)
    gradient_fn = _make_gradient_fn(
        model, objective_of, freeze.interceptor(plan, fixed_statistics), rematerialise
    )
    gradient_fn = _accumulating(gradient_fn, accumulate)
    gradient_fn = gradient_fn if around is None else around(gradient_fn)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(seed_key, state.step)
        augment_key, dropout_key = jax.random.split(step_key)
        examples = Examples(augment_fn(augment_key, batch), batch, batch)
        trained, frozen = freeze.split(plan, state.params)
        if mix_fn is not None:
            # `split` above took children 0 and 1 of the step's key. With child 2 for mixing, all
            # other random numbers are the same as without mixing.
            mix_key = jax.random.fold_in(step_key, 2)
            targets = _targets(objective or SingleLabel(model.num_classes), batch)
            inputs, mixed = mix_fn(mix_key, examples.inputs, targets)
            examples = Examples(inputs, {**batch, **mixed}, batch)
        found = gradient_fn(trained, frozen, state.batch_stats, examples, dropout_key)
        grads, batch_stats, metrics = found if reduce is None else reduce(found)
        updates, opt_state = tx.update(grads, state.opt_state, trained)
        new_state = TrainState(
            step=state.step + 1,
            params=trees.merge(optax.apply_updates(trained, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        norm = {"grad_norm": optax.tree.norm(grads)} if log_grad_norm else {}
        if not skip_not_finite:
            return new_state, {**metrics, **norm}
        is_finite = _is_finite((metrics["loss"], grads))
        kept = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), new_state, state)
        skipped = 1.0 - is_finite.astype(jnp.float32)
        return kept.replace(step=new_state.step), {**metrics, **norm, "skipped": skipped}

    return step


def _make_gradient_fn(
    model: Model,
    objective_of: Callable[[Any], Objective],
    interceptor: layers.Interceptor,
    rematerialise: Collection[str],
) -> GradientFn:
    """Returns the function of the gradients, the new statistics and the metrics of a batch."""
    interceptors = [layers.rematerialising(rematerialise)] if rematerialise else []

    def gradient_fn(
        trained: trees.Tree,
        frozen: trees.Tree,
        batch_stats: trees.Tree,
        examples: Examples,
        dropout_key: jax.Array,
    ) -> Gradients:
        def loss_fn(trained: trees.Tree) -> tuple[jax.Array, tuple[Any, Metrics, trees.Tree]]:
            with contextlib.ExitStack() as contexts:
                for each in (*interceptors, interceptor):
                    contexts.enter_context(nn.intercept_methods(each))
                outputs, updates = layers.folded(model.apply)(
                    {"params": trees.merge(trained, frozen), "batch_stats": batch_stats},
                    examples.inputs,
                    train=True,
                    mutable=["batch_stats"],
                    rngs={"dropout": dropout_key},
                )
            loss, parts = objective_of(outputs).loss(outputs, examples.labels)
            return loss, (outputs, parts, updates.get("batch_stats", {}))

        (loss, (outputs, parts, new_stats)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            trained
        )
        measured = objective_of(outputs).batch_metrics(outputs, examples.measured)
        by_task = {f"{task}.loss": part for task, part in parts.items()}
        return grads, new_stats, {"loss": loss, **by_task, **measured}

    return gradient_fn


def _accumulating(gradient_fn: GradientFn, slices: int) -> GradientFn:
    """Returns the function of a whole batch that calls that of its slices one after the other."""
    if slices == 1:
        return gradient_fn

    def cut(x: jax.Array) -> jax.Array:
        # Every device has a part of each slice: the batch is divided over the devices in order.
        return jnp.moveaxis(x.reshape(len(x) // slices, slices, *x.shape[1:]), 1, 0)

    def accumulated(
        trained: trees.Tree,
        frozen: trees.Tree,
        batch_stats: trees.Tree,
        examples: Examples,
        dropout_key: jax.Array,
    ) -> Gradients:
        def of_slice(
            carried: tuple[trees.Tree, Any], each: tuple[jax.Array, Examples]
        ) -> tuple[tuple[trees.Tree, Any], None]:
            batch_stats, sums = carried
            key = jax.random.fold_in(dropout_key, each[0])
            grads, batch_stats, metrics = gradient_fn(trained, frozen, batch_stats, each[1], key)
            return (batch_stats, jax.tree.map(jnp.add, sums, (grads, metrics))), None

        parts = jax.tree.map(cut, examples.without_images())
        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(gradient_fn, trained, frozen, batch_stats, first, dropout_key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (shapes[0], shapes[2]))
        (batch_stats, sums), _ = jax.lax.scan(
            of_slice, (batch_stats, zeros), (jnp.arange(slices), parts)
        )
        grads, metrics = jax.tree.map(lambda x: x / slices, sums)
        return grads, batch_stats, metrics

    return accumulated


def _is_finite(tree: Any) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def _targets(objective: Objective, batch: Batch) -> dict[str, jax.Array]:
    """Returns the labels in the form that can be mixed.

    Raises:
      ValueError: if the examples have weights.
    """
    if WEIGHT in batch:
        raise ValueError(
            f"got mix_fn and a batch with {WEIGHT!r}; expected one of them: a mixture of two "
            "examples has no weight of its own"
        )
    return objective.targets(batch)


def _objective_of(
    objective: Objective | None, label_smoothing: float
) -> Callable[[Any], Objective]:
    """Returns a function of the outputs that returns the objective, or that of single labels."""
    if objective is not None and label_smoothing:
        raise ValueError(
            f"got label_smoothing={label_smoothing} and an objective, which has its own; give the "
            "smoothing to the objective"
        )
    return lambda outputs: (
        objective or SingleLabel(outputs.shape[-1], label_smoothing=label_smoothing)
    )


def make_eval_step(logits_fn: Callable[[trees.Tree, jax.Array], jax.Array]) -> EvalStep:
    """Returns one step of evaluation, to be compiled with `jax.jit`.

    Args:
      logits_fn: variables and the batch's images [B, ...] -> logits [B, C].

    Returns:
      `step(variables, batch) -> results`: "loss", the summed loss of the examples where
      `batch["mask"]` is True, in nats, by example "label" and "predicted", int32 [B], and
      "num_classes", C. The label is -1 where the mask is False. `tl_jax.objectives.metrics.count`
      counts them on the host: a matrix of classes by classes would take 437 MB of a device at
      10,450 classes.
    """

    def step(variables: trees.Tree, batch: Batch) -> Metrics:
        logits, mask = logits_fn(variables, batch["image"]), batch["mask"]
        loss = losses.example_cross_entropy(logits, batch["label"])
        return {
            "loss": jnp.where(mask, loss, 0.0).sum(),
            "label": jnp.where(mask, batch["label"], -1).astype(jnp.int32),
            "predicted": jnp.argmax(logits, -1).astype(jnp.int32),
            "num_classes": jnp.int32(logits.shape[-1]),
        }

    return step


def make_statistics_step(outputs_fn: OutputsFn, objective: Objective | None = None) -> EvalStep:
    """Returns one step of evaluation by an objective, to be compiled with `jax.jit`.

    Args:
      outputs_fn: variables and a batch -> the network's outputs.
      objective: what is measured; None for one class per example.

    Returns:
      `step(variables, batch) -> Objective.statistics`: what its metrics need of the batch, by
      example; rows where `batch["mask"]` is False do not count.
    """

    def step(variables: trees.Tree, batch: Batch) -> Metrics:
        outputs = outputs_fn(variables, batch)
        return (objective or SingleLabel(outputs.shape[-1])).statistics(outputs, batch)

    return step
