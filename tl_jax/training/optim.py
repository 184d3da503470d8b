"""Optimizers and learning rate schedules, by label of a freeze plan, from phase to phase."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

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
      warmup_steps: steps in which the rate rises from zero; must be below `total_steps`.
      boundaries: steps at which "step" multiplies the rate by `factor`.
      factor: see `boundaries`.

    Raises:
      ValueError: if `kind` is unknown, or the warm-up is not shorter than the phase.
    """
    if not 0 <= warmup_steps < max(total_steps, 1):
        raise ValueError(
            f"a warm-up of {warmup_steps} steps does not fit into {total_steps} steps; "
            "shorten it or train longer"
        )
    after = {
        "cosine": lambda: optax.cosine_decay_schedule(peak, max(total_steps - warmup_steps, 1)),
        "step": lambda: optax.piecewise_constant_schedule(
            peak, {step - warmup_steps: factor for step in boundaries}
        ),
        "constant": lambda: optax.constant_schedule(peak),
    }
    if kind not in after:
        raise ValueError(f"unknown schedule {kind!r}; there are {sorted(after)}")
    if not warmup_steps:
        return after[kind]()
    # The rate of step 0 is not zero: a step without effect would be wasted.
    warmup = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)
    return optax.join_schedules([warmup, after[kind]()], [warmup_steps])


def optimizer(
    name: str,
    rates: Mapping[str, optax.ScalarOrSchedule],
    plan: Any,
    *,
    momentum: float = 0.9,
    weight_decay: float | Mapping[str, float] = 0.0,
    l2_sp: Mapping[str, float] | None = None,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns the optimizer of the trained parameters of a plan, each label at its own rate.

    Frozen parameters have no part in it: not in its state, nor in the decay, nor in the norm.

    Args:
      name: "sgd" (with momentum), "adam" or "adamw".
      rates: learning rate by label, for every label of the plan but "frozen".
      plan: labels of `tl_jax.transfer.freeze`.
      momentum: of SGD.
      weight_decay: of kernels only, one for all or by label; decoupled for AdamW, added to the
        gradient otherwise.
      l2_sp: pull toward the parameters at the start, by label, where there is one; added to the
        gradient (`tl_jax.training.regularize.l2_sp`).
      clip_norm: largest global norm of the trained parameters' gradients.

    Raises:
      ValueError: if `name` is unknown, or a label of the plan has no rate.
    """
    labels, _ = freeze.split(plan, plan)
    used = set(traverse_util.flatten_dict(labels).values())
    rateless = used - rates.keys()
    if rateless:
        raise ValueError(f"no learning rate for the label(s) {sorted(rateless)}")
    rules = {}
    for label in sorted(used):
        decay = weight_decay if isinstance(weight_decay, float | int) else weight_decay[label]
        pull = (l2_sp or {}).get(label, 0.0)
        rules[label] = _rule(name, rates[label], momentum=momentum, weight_decay=decay, l2_sp=pull)
    by_label = optax.multi_transform(rules, labels)
    if clip_norm is None:
        return by_label
    return optax.chain(optax.clip_by_global_norm(clip_norm), by_label)


def _rule(
    name: str,
    rate: optax.ScalarOrSchedule,
    *,
    momentum: float,
    weight_decay: float,
    l2_sp: float,
) -> optax.GradientTransformation:
    pull = regularize.l2_sp(l2_sp) if l2_sp else None
    decay = optax.add_decayed_weights(weight_decay, mask=_kernels) if weight_decay else None
    direction = {
        "sgd": [pull, decay, optax.trace(momentum) if momentum else None],
        "adam": [pull, decay, optax.scale_by_adam()],
        "adamw": [pull, optax.scale_by_adam(), decay],
    }
    if name not in direction:
        raise ValueError(f"unknown optimizer {name!r}; there are {sorted(direction)}")
    parts = [part for part in direction[name] if part is not None]
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def carry_over(before: Any, fresh: Any) -> Any:
    """Returns the state in which a new optimizer begins where another one stops.

    Moments, counts and anchors of parameters that both train are taken over, wherever both keep
    the same thing for them; schedules begin anew, and so does what only the new one trains.

    Args:
      before: the state of the optimizer that stops.
      fresh: the first state of the new one; gives the form.
    """
    old = {jax.tree_util.keystr(path): leaf for path, leaf in _leaves(before)}

    def choose(path: Any, leaf: Any) -> Any:
        known = old.get(jax.tree_util.keystr(path))
        if isinstance(leaf, optax.ScaleByScheduleState) or known is None:
            return leaf
        return known if jnp.shape(known) == jnp.shape(leaf) else leaf

    return jax.tree_util.tree_map_with_path(choose, fresh, is_leaf=_is_schedule)


def _leaves(state: Any) -> list[tuple[Any, Any]]:
    found = jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_schedule)
    return [(path, leaf) for path, leaf in found if not _is_schedule(leaf)]


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def _kernels(params: Any) -> Any:
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: path[-1] == "kernel" for path in flat})
