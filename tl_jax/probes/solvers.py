"""Classifiers of features, in closed form or to convergence: logistic, ridge, k-NN, class means."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.typing import ArrayLike

from tl_jax.heads import class_means as feature_means
from tl_jax.heads.class_means import check_labelled_features

Metric = Literal["euclidean", "cosine"]

_LBFGS_MEMORY = 20  # More than the usual 10, because features are ill-conditioned; it is cheap.
_REFINEMENTS = 2
_TINY = 1e-12


@struct.dataclass
class LinearHead:
    """A linear classifier: logits = features @ kernel + bias.

    Attributes:
      kernel: float32 [D, C].
      bias: float32 [C].
    """

    kernel: jax.Array
    bias: jax.Array

    def __call__(self, features: ArrayLike) -> jax.Array:
        """Returns the logits [..., C] of features [..., D], in full float32 precision."""
        with jax.default_matmul_precision("highest"):
            return jnp.asarray(features, jnp.float32) @ self.kernel + self.bias


@struct.dataclass
class Convergence:
    """How an iterative solver ended.

    Attributes:
      converged: whether `gradient_norm` reached the tolerance.
      gradient_norm: the largest absolute entry of the objective's gradient at the end.
      objective: value of the objective at the end.
      iterations: number of steps.
    """

    converged: bool
    gradient_norm: float
    objective: float
    iterations: int


def l2_of_sklearn(c: float, *, examples: int, num_classes: int) -> float:
    """Returns the `l2` that has the same optimum as scikit-learn's `LogisticRegression(C=c)`.

    scikit-learn minimises C times the summed cross-entropy plus |W|^2 / 2, so `l2` is 1 / (C N).
    For two classes it fits only the difference of the logits. Its kernel w is split into w/2 and
    -w/2 here, at half the penalty: 2 / (C N).

    >>> l2_of_sklearn(0.5, examples=100, num_classes=10)
    0.02
    """
    return (2.0 if num_classes == 2 else 1.0) / (c * examples)


def logistic_regression(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    l2: float,
    standardize: bool = False,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> tuple[LinearHead, Convergence]:
    """Fits a linear classifier: the minimum of mean cross-entropy (nats) + l2 / 2 * |kernel|^2.

    The bias is not penalised. The features are centred for the solver, which changes only the bias.
    The minimum is found by L-BFGS (Liu & Nocedal, 1989) with a zoom line search, in float32.

    Args:
      features: [N, D].
      labels: class indices, [N]; every class must occur.
      num_classes: number of classes, C.
      l2: strength of the penalty; `l2_of_sklearn` converts scikit-learn's C. At 0 the minimum may
        lie at infinity.
      standardize: penalise the kernel as if every feature had a standard deviation of 1. The
        returned head still takes the features as they are.
      tolerance: largest absolute entry of the gradient at which the iteration ends.
      max_iterations: the iteration also ends after so many steps; `Convergence.converged` is then
        False.

    Returns:
      The head, and how the iteration ended.

    Raises:
      ValueError: if the shapes, the labels or `l2` are invalid.
      FloatingPointError: if the features or the solution are not finite.

    Examples:
      >>> x, y = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 1])
      >>> head, info = logistic_regression(x, y, num_classes=2, l2=1e-3)
      >>> head(x).argmax(-1).tolist(), info.converged
      ([0, 0, 1, 1], True)
    """
    _check_l2(l2)
    x, y = to_examples(features, labels, num_classes=num_classes, every_class=True)
    return _logistic(x, y, l2, tolerance, max_iterations, num_classes, standardize=standardize)


def logistic_regression_each(
    features: ArrayLike,
    targets: ArrayLike,
    *,
    l2: float,
    standardize: bool = False,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> tuple[LinearHead, Convergence]:
    """Fits a yes or no for each class by itself, as `logistic_regression` fits one of the classes.

    The minimum is that of the sum over the classes of the mean binary cross-entropy, plus
    l2 / 2 * |kernel|^2. scikit-learn's `OneVsRestClassifier(LogisticRegression(C))` has the same
    optimum at l2 = 1 / (C N).

    Args:
      features: [N, D].
      targets: 1 for a class that an example has, 0 for one that it does not have, [N, C].
      l2, standardize, tolerance, max_iterations: as in `logistic_regression`.

    Returns:
      The head, whose outputs are the logits of a sigmoid, and how the iteration ended.

    Raises:
      ValueError: if the shapes, the targets or `l2` are invalid.
      FloatingPointError: if the features or the solution are not finite.

    Examples:
      >>> x, y = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([[0, 1], [0, 1], [1, 1], [1, 0]])
      >>> head, info = logistic_regression_each(x, y, l2=1e-3)
      >>> (head(x) > 0).astype(int).tolist()
      [[0, 1], [0, 1], [1, 1], [1, 0]]
    """
    _check_l2(l2)
    x, t = jnp.asarray(features, jnp.float32), np.asarray(targets)
    if x.ndim != 2 or t.ndim != 2 or len(x) != len(t) or not np.isin(t, (0, 1)).all():
        raise ValueError(
            f"got features {x.shape} and targets {t.shape}; expected [N, D] and [N, C] of 0 and 1"
        )
    targets = jnp.asarray(t, jnp.float32)
    return _logistic(x, targets, l2, tolerance, max_iterations, t.shape[1], standardize=standardize)


def ridge(features: ArrayLike, targets: ArrayLike, l2: float) -> LinearHead:
    """Fits a linear map: the minimum of mean |f W + b - t|^2 / 2 + l2 / 2 * |W|^2, in closed form.

    scikit-learn's `Ridge(alpha)` has the same optimum at l2 = alpha / N. The bias is not penalised.
    The solution has two forms, a system over features and one over examples; the smaller one is
    solved, by Cholesky, and iterative refinement removes the rounding of float32.

    Args:
      features: [N, D].
      targets: [N, C] values; for classes `jax.nn.one_hot(labels, C)`.
      l2: strength of the penalty.

    Raises:
      ValueError: if the shapes or `l2` are invalid.
      FloatingPointError: if the system is singular in float32.
    """
    x, t = jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32)
    if x.ndim != 2 or t.ndim != 2 or len(x) != len(t):
        raise ValueError(
            f"got features {x.shape} and targets {t.shape}; expected [N, D] and [N, C]"
        )
    _check_l2(l2)
    head = _ridge(x, t, l2)
    _check_finite(head, "ridge regression", f"the system is singular at l2={l2}; raise l2")
    return head


def knn(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    features: ArrayLike,
    *,
    k: int,
    num_classes: int,
    temperature: float | None = None,
    similarities_at_once: int = 2**24,
) -> jax.Array:
    """Classifies by the k most similar training examples (cosine similarity).

    Args:
      train_features: [N, D].
      train_labels: class indices, [N].
      features: [M, D], to be classified.
      k: number of neighbours, at most N.
      num_classes: number of classes, C.
      temperature: a neighbour's vote is exp(similarity / temperature) (Wu et al., 2018, with
        0.07); None for one vote each.
      similarities_at_once: number of similarities in memory at a time (4 bytes each).

    Returns:
      float32 [M, C], each class's share of the votes; `argmax` is the class.

    Raises:
      ValueError: if the shapes, the labels, `k` or `temperature` are invalid.
    """
    train_x, train_y = to_examples(train_features, train_labels, num_classes=num_classes)
    x = jnp.asarray(features, jnp.float32)
    if x.ndim != 2 or x.shape[1] != train_x.shape[1]:
        raise ValueError(
            f"got features {x.shape} and training features {train_x.shape}; "
            "expected [M, D] and [N, D]"
        )
    if not 1 <= k <= len(train_x):
        raise ValueError(f"got k={k}; expected 1 to {len(train_x)}, the training examples")
    if temperature is not None and temperature <= 0:
        raise ValueError(f"got temperature={temperature}; expected more than 0, or None")
    rows = max(1, min(len(x), similarities_at_once // len(train_x)))
    return _votes(train_x, train_y, x, temperature, k, num_classes, rows)


def class_means(
    features: ArrayLike, labels: ArrayLike, *, num_classes: int, metric: Metric = "euclidean"
) -> LinearHead:
    """Returns the nearest-class-mean classifier as a linear head.

    Args:
      features: [N, D].
      labels: class indices, [N]; every class must occur.
      num_classes: number of classes, C.
      metric: "euclidean", where a logit is -|f - mean|^2 / 2 up to a term that all classes share
        (Mensink et al., 2013); or "cosine", where features are scaled to length 1 before they are
        averaged, and a logit is |f| times the cosine of f and the mean.

    Raises:
      ValueError: if the shapes, the labels or the metric are invalid.
      FloatingPointError: if the features are not finite.
    """
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"got metric={metric!r}; expected 'euclidean' or 'cosine'")
    x = jnp.asarray(features, jnp.float32)
    if metric == "cosine" and x.ndim == 2:
        x = _unit(x)
    means = jnp.asarray(feature_means.class_means(x, labels, num_classes=num_classes), jnp.float32)
    if metric == "cosine":
        head = LinearHead(kernel=_unit(means).T, bias=jnp.zeros(num_classes))
    else:
        head = LinearHead(kernel=means.T, bias=-(means**2).sum(1) / 2)
    _check_finite(head, "the class means", "look for non-finite features")
    return head


def to_examples(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    num_classes: int,
    every_class: bool = False,
    split: str = "",
) -> tuple[jax.Array, jax.Array]:
    """Returns features [N, D] in float32 and class indices [N] in int32, after checking them.

    Arguments and errors are those of `tl_jax.heads.class_means.check_labelled_features`.
    """
    x, y = jnp.asarray(features, jnp.float32), np.asarray(labels)
    check_labelled_features(x, y, num_classes=num_classes, every_class=every_class, split=split)
    return x, jnp.asarray(y, jnp.int32)


# Head, state of the solver, number of steps.
_Iteration = tuple[LinearHead, optax.OptState, jax.Array]


def _logistic(
    features: jax.Array,
    labels: jax.Array,
    l2: float,
    tolerance: float,
    max_iterations: int,
    num_classes: int,
    *,
    standardize: bool,
) -> tuple[LinearHead, Convergence]:
    """Returns the fitted head, for class indices [N] or a yes or no for each class [N, C]."""
    head, objective, norm, iterations = _minimise(
        features, labels, l2, tolerance, max_iterations, num_classes, standardize
    )
    _check_finite(head, "logistic regression", "look for non-finite features, or raise l2")
    return head, Convergence(
        converged=bool(norm <= tolerance),
        gradient_norm=float(norm),
        objective=float(objective),
        iterations=int(iterations),
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "standardize"))
def _minimise(
    features: jax.Array,
    labels: jax.Array,
    l2: float,
    tolerance: float,
    max_iterations: int,
    num_classes: int,
    standardize: bool,
) -> tuple[LinearHead, jax.Array, jax.Array, jax.Array]:
    """Returns the head, the objective, the largest entry of its gradient, and the steps."""
    mean = features.mean(0)
    std = features.std(0) if standardize else jnp.ones_like(mean)
    std = jnp.where(std > _TINY, std, 1.0)  # A constant feature is zero after centring.
    inputs = (features - mean) / std

    def objective(head: LinearHead) -> jax.Array:
        if labels.ndim == 2:  # A yes or no for each class.
            loss = optax.sigmoid_binary_cross_entropy(head(inputs), labels).mean(0).sum()
        else:
            loss = optax.softmax_cross_entropy_with_integer_labels(head(inputs), labels).mean()
        return loss + l2 / 2 * (head.kernel**2).sum()

    solver = optax.lbfgs(memory_size=_LBFGS_MEMORY)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def continues(carry: _Iteration) -> jax.Array:
        _, state, step = carry
        norm = _max_abs(optax.tree.get(state, "grad"))
        # The state holds no gradient before the first step.
        return (step == 0) | ((norm > tolerance) & (step < max_iterations) & jnp.isfinite(norm))

    def advance(carry: _Iteration) -> _Iteration:
        head, state, step = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(head, updates), state, step + 1

    zeros = LinearHead(jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    initial = (zeros, solver.init(zeros), jnp.zeros((), jnp.int32))
    head, _, steps = jax.lax.while_loop(continues, advance, initial)
    value, grad = jax.value_and_grad(objective)(head)
    kernel = head.kernel / std[:, None]
    uncentred = LinearHead(kernel, LinearHead(-kernel, head.bias)(mean))
    return uncentred, value, _max_abs(grad), steps


@jax.jit
def _ridge(features: jax.Array, targets: jax.Array, l2: float) -> LinearHead:
    with jax.default_matmul_precision("highest"):
        mean, target_mean = features.mean(0), targets.mean(0)
        inputs, outputs = features - mean, targets - target_mean
        penalty, over_examples = len(inputs) * l2, inputs.shape[0] < inputs.shape[1]

        def residual(solution: jax.Array) -> jax.Array:
            if over_examples:
                return outputs - inputs @ (inputs.T @ solution) - penalty * solution
            return inputs.T @ (outputs - inputs @ solution) - penalty * solution

        gram = inputs @ inputs.T if over_examples else inputs.T @ inputs
        factor = jax.scipy.linalg.cho_factor(gram + penalty * jnp.eye(len(gram)), lower=True)
        solution = jnp.zeros((len(gram), targets.shape[1]))
        for _ in range(1 + _REFINEMENTS):
            solution += jax.scipy.linalg.cho_solve(factor, residual(solution))
        kernel = inputs.T @ solution if over_examples else solution
        return LinearHead(kernel, target_mean - mean @ kernel)


@functools.partial(jax.jit, static_argnames=("k", "num_classes", "rows"))
def _votes(
    train_features: jax.Array,
    train_labels: jax.Array,
    features: jax.Array,
    temperature: float | None,
    k: int,
    num_classes: int,
    rows: int,
) -> jax.Array:
    """Classifies `rows` examples at a time."""
    train_units = _unit(train_features)

    def classify(feature: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            nearest, indices = jax.lax.top_k(train_units @ _unit(feature), k)
        # Relative to the nearest neighbour's vote: the shares are the same, and none overflows.
        weights = 1.0 if temperature is None else jnp.exp((nearest - nearest[0]) / temperature)
        votes = jnp.zeros(num_classes).at[train_labels[indices]].add(weights)
        return votes / votes.sum()

    return jax.lax.map(classify, features, batch_size=rows)


def _unit(vectors: jax.Array) -> jax.Array:
    """Scales vectors to length 1; zeros stay zeros."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)


def _max_abs(tree: LinearHead) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _check_l2(l2: float) -> None:
    if not 0 <= l2 < float("inf"):
        raise ValueError(f"got l2={l2}; expected 0 or more")


def _check_finite(head: LinearHead, what: str, advice: str) -> None:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(head)):
        raise FloatingPointError(f"{what} ended with values that are not finite; {advice}")
