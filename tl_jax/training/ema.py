"""A moving average of the trained parameters, kept in the optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class EmaState(NamedTuple):
    """The state of `with_ema`.

    Attributes:
      inner: state of the wrapped optimizer.
      steps: number of steps done, int32 scalar.
      average: the averaged parameters, a tree like that of the optimized parameters.
    """

    inner: Any
    steps: jax.Array
    average: Any


def with_ema(
    tx: optax.GradientTransformation, decay: float, *, warmup: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Wraps an optimizer so that its state keeps a moving average of the parameters.

    After each step `average = d * average + (1 - d) * params`, with the parameters that the step
    ends with. The average starts at the initial parameters, so it needs no bias correction.
    Training itself is unchanged. The wrapper must be the outermost one, because it applies the
    updates that it returns.

    Only the optimized parameters are averaged; frozen ones do not change. BatchNorm's running
    statistics are not parameters: evaluate the average with the run's statistics, or with
    statistics that are estimated anew.

    Args:
      tx: the optimizer.
      decay: weight d of the past, in [0, 1); 0.999 averages over about 1,000 steps.
      warmup: limit d to (1 + n) / (10 + n) after n steps, so that the start is forgotten
        sooner (as TensorFlow's `ExponentialMovingAverage` does with `num_updates`).

    Raises:
      ValueError: if `decay` is outside [0, 1).

    Examples:
      >>> tx = with_ema(optax.sgd(1.0), 0.75)
      >>> params = {"w": jnp.array([0.0])}
      >>> updates, opt_state = tx.update({"w": jnp.array([-4.0])}, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [4.0]
      >>> averaged_params(opt_state)["w"].tolist()
      [1.0]
    """
    if not 0 <= decay < 1:
        raise ValueError(f"got decay={decay}; expected a number in [0, 1), such as 0.999")
    inner = optax.with_extra_args_support(tx)

    def init(params: Any) -> EmaState:
        # A copy: a step that donates its state may not be given the same buffer twice.
        average = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
        return EmaState(inner.init(params), jnp.zeros((), jnp.int32), average)

    def update(
        updates: Any, state: EmaState, params: Any = None, **extra_args: Any
    ) -> tuple[Any, EmaState]:
        if params is None:
            raise ValueError("with_ema needs the parameters: call update(grads, state, params)")
        updates, inner_state = inner.update(updates, state.inner, params, **extra_args)
        steps = state.steps.astype(jnp.float32)
        d = jnp.minimum(decay, (1 + steps) / (10 + steps)) if warmup else decay
        average = jax.tree.map(
            lambda past, new: (d * past + (1 - d) * new).astype(past.dtype),
            state.average,
            optax.apply_updates(params, updates),
        )
        return updates, EmaState(inner_state, state.steps + 1, average)

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(opt_state: Any) -> Any:
    """Returns the averaged parameters from the state of an optimizer wrapped by `with_ema`.

    Their tree is that of the trained parameters: merge them with the frozen ones,
    `trees.merge(averaged_params(state.opt_state), frozen)`, to apply the network.

    Raises:
      ValueError: if the state holds no average, or more than one.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, EmaState))
    averages = [node.average for node in nodes if isinstance(node, EmaState)]
    if len(averages) != 1:
        raise ValueError(
            f"the optimizer's state holds {len(averages)} moving averages, expected one; make the "
            "optimizer with with_ema(tx, decay)"
        )
    return averages[0]
