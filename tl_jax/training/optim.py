"""Optimizers and learning-rate schedules by label of a freeze plan, and their state by phase."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tl_jax import trees
from tl_jax.training import regularize
from tl_jax.transfer import freeze


def schedule(
    kind: str,
    peak: float,
    *,
    total_steps: int,
    warmup_steps: int = 0,
    boundaries: Sequence[int] = (),
    factor: float = 0.1,
) -> optax.Schedule:
    """Returns a learning rate as a function of the step: a linear warm-up, then `kind`.

    Args:
      kind: "cosine" (to zero at `total_steps`), "step" or "constant".
      peak: rate at the end of the warm-up.
      total_steps: length of the phase, warm-up included.
      warmup_steps: steps in which the rate rises; must be below `total_steps`.
      boundaries: steps at which "step" multiplies the rate by `factor`.
      factor: see `boundaries`.

    Raises:
      ValueError: if `kind` is unknown, or the warm-up is not shorter than the phase.

    Examples:
      >>> rate = schedule("cosine", 0.1, total_steps=100, warmup_steps=10)
      >>> [round(float(rate(step)), 3) for step in (0, 9, 55)]
      [0.01, 0.1, 0.05]
    """
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(
            f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps; "
            "shorten it or train longer"
        )
    if kind == "cosine":
        main = optax.cosine_decay_schedule(peak, max(total_steps - warmup_steps, 1))
    elif kind == "step":
        main = optax.piecewise_constant_schedule(
            peak, {step - warmup_steps: factor for step in boundaries}
        )
    elif kind == "constant":
        main = optax.constant_schedule(peak)
    else:
        raise ValueError(f"got schedule {kind!r}; expected 'constant', 'cosine' or 'step'")
    if not warmup_steps:
        return main
    # The rate of step 0 is not zero: a step without effect would be wasted.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)
    return optax.join_schedules([warmup, main], [warmup_steps])


def optimizer(
    name: str,
    rates: Mapping[str, optax.ScalarOrSchedule],
    plan: trees.Tree,
    *,
    momentum: float = 0.9,
    weight_decay: float | Mapping[str, float] = 0.0,
    l2_sp: Mapping[str, float] | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer of the trained parameters of a plan, with a rate for each label.

    Frozen parameters have no optimizer state and no weight decay, and do not count toward the clip
    norm.

    Args:
      name: "sgd" (with momentum), "adam" or "adamw".
      rates: learning rate by label, for every label of the plan but "frozen".
      plan: labels of `tl_jax.transfer.freeze`.
      momentum: of SGD.
      weight_decay: of kernels only, one number for all labels or one for each; decoupled for
        AdamW, added to the gradient otherwise.
      l2_sp: strength of the pull toward the initial parameters, for the labels that have one;
        added to the gradient (`tl_jax.training.regularize.l2_sp`).
      clip_norm: largest global norm of the trained parameters' gradients.

    Raises:
      ValueError: if `name` is unknown, or a label of the plan has no rate.

    Examples:
      >>> plan = {"conv": {"kernel": "frozen"}, "fc": {"kernel": "head"}}
      >>> tx = optimizer("sgd", {"head": 0.1}, plan, clip_norm=1.0)
      >>> opt_state = tx.init({"fc": {"kernel": jnp.ones((2, 3))}})
    """
    labels, _ = freeze.split(plan, plan)
    used = sorted(set(trees.flatten(labels).values()))
    if missing := [label for label in used if label not in rates]:
        raise ValueError(
            f"no learning rate for the label(s) {missing}; got rates of {sorted(rates)}"
        )
    by_label = {
        label: _optimizer_of_label(
            name,
            rates[label],
            momentum=momentum,
            weight_decay=(
                weight_decay[label] if isinstance(weight_decay, Mapping) else weight_decay
            ),
            l2_sp=(l2_sp or {}).get(label, 0.0),
        )
        for label in used
    }
    tx = optax.multi_transform(by_label, labels)
    return tx if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def _optimizer_of_label(
    name: str,
    rate: optax.ScalarOrSchedule,
    *,
    momentum: float,
    weight_decay: float,
    l2_sp: float,
) -> optax.GradientTransformation:
    def is_kernel(params: trees.Tree) -> dict[str, Any]:
        return trees.unflatten({path: path[-1] == "kernel" for path in trees.flatten(params)})

    pull = regularize.l2_sp(l2_sp) if l2_sp else None
    decay = optax.add_decayed_weights(weight_decay, mask=is_kernel) if weight_decay else None
    transformations = {
        "sgd": [pull, decay, optax.trace(momentum) if momentum else None],
        "adam": [pull, decay, optax.scale_by_adam()],
        "adamw": [pull, optax.scale_by_adam(), decay],
    }
    if name not in transformations:
        raise ValueError(f"got optimizer {name!r}; expected one of {sorted(transformations)}")
    chosen = [transform for transform in transformations[name] if transform is not None]
    return optax.chain(*chosen, optax.scale_by_learning_rate(rate))


def carry_over(old_state: optax.OptState, new_state: optax.OptState) -> optax.OptState:
    """Returns the first state of a new optimizer, continued from an earlier one where possible.

    Moments, counts and anchors of parameters that both train are taken from the old state if they
    have the same place and shape in both. Schedules restart, and parameters that only the new
    optimizer trains start afresh.

    Args:
      old_state: the last state of the earlier optimizer.
      new_state: the first state of the new one, as `tx.init` gives it.
    """

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    old_leaves = {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(old_state, is_leaf=is_schedule)
        if not is_schedule(leaf)
    }

    def choose(path: tuple[Any, ...], leaf: Any) -> Any:
        old = old_leaves.get(jax.tree_util.keystr(path))
        if is_schedule(leaf) or old is None or jnp.shape(old) != jnp.shape(leaf):
            return leaf
        return old

    return jax.tree_util.tree_map_with_path(choose, new_state, is_leaf=is_schedule)
