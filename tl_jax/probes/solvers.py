"""Classifiers of features in closed form or to convergence: logistic, ridge, k-NN, class means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

_PAST_STEPS = 20  # L-BFGS: more than the usual 10, for the features' condition; memory is cheap.
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

    def __call__(self, features: jax.Array) -> jax.Array:
        """Returns the logits [..., C] of features [..., D], in full float32."""
        with jax.default_matmul_precision("highest"):
            return jnp.asarray(features, jnp.float32) @ self.kernel + self.bias


@struct.dataclass
class Convergence:
    """How a solver's iteration ended.

    Attributes:
      converged: whether `gradient_norm` fell to the tolerance.
      gradient_norm: the largest absolute entry of the objective's gradient at the end.
      objective: its value there.
      iterations: steps taken.
    """

    converged: bool
    gradient_norm: float
    objective: float
    iterations: int


def l2_of_sklearn(c: float, *, examples: int, num_classes: int) -> float:
    """Returns the `l2` that has the same optimum as scikit-learn's `LogisticRegression(C=c)`.

    It minimises C times the summed cross-entropy plus |W|^2 / 2, so `l2` is 1 / (C N). Of two
    classes it fits the difference of the logits alone, whose kernel w is split into w/2 and -w/2
    here at half the penalty: 2 / (C N).
    """
    return (2.0 if num_classes == 2 else 1.0) / (c * examples)


def logistic_regression(
    features: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    l2: float,
    standardize: bool = False,
    tolerance: float = 1e-5,
    max_iterations: int = 1000,
) -> tuple[LinearHead, Convergence]:
    """Fits a linear classifier: the minimum of mean cross-entropy (nats) + l2 / 2 * |kernel|^2.

    The bias is not penalised. The features are centred for the solver, which moves the bias alone.
    The minimum is found by L-BFGS (Liu & Nocedal, 1989) with a zoom line search, in float32.

    Args:
      features: [N, D].
      labels: class indices, [N]; every class must occur.
      num_classes: number of classes, C.
      l2: strength of the penalty; `l2_of_sklearn` converts scikit-learn's C. At 0 the minimum may
        lie at infinity.
      standardize: penalise the kernel as if every feature had a standard deviation of 1. The head
        that is returned takes the features as they are.
      tolerance: largest absolute entry of the gradient at which the iteration ends.
      max_iterations: where it ends without; `Convergence.converged` is then False.

    Returns:
      The head, and how the iteration ended.

    Raises:
      ValueError: if shapes, labels or `l2` are unfit.
      FloatingPointError: if the features or the solution are not finite.

    Example:
      >>> head, info = logistic_regression(x, y, num_classes=2, l2=1e-3)     # doctest: +SKIP
      >>> accuracy = (head(x).argmax(-1) == y).mean()                        # doctest: +SKIP
    """
    features, labels = _checked(features, labels, num_classes, l2)
    head, value, norm, iterations = _minimise(
        features, labels, l2, tolerance, max_iterations, num_classes, standardize
    )
    _check_finite(head, "logistic regression", "look for non-finite features, or raise l2")
    return head, Convergence(
        converged=bool(norm <= tolerance),
        gradient_norm=float(norm),
        objective=float(value),
        iterations=int(iterations),
    )


def ridge(features: jax.Array, targets: jax.Array, l2: float) -> LinearHead:
    """Fits a linear map: the minimum of mean |f W + b - t|^2 / 2 + l2 / 2 * |W|^2, in closed form.

    scikit-learn's `Ridge(alpha)` has the same optimum at l2 = alpha / N. The bias is not penalised.
    Of the two forms of the solution, over features and over examples, the smaller system is
    solved, by Cholesky, and the rounding of float32 is taken out by refining the solution.

    Args:
      features: [N, D].
      targets: [N, C] values; for classes `jax.nn.one_hot(labels, C)`.
      l2: strength of the penalty.

    Raises:
      ValueError: if shapes or `l2` are unfit.
      FloatingPointError: if the system is singular in float32.
    """
    features, targets = jnp.asarray(features, jnp.float32), jnp.asarray(targets, jnp.float32)
    if features.ndim != 2 or targets.ndim != 2 or len(features) != len(targets):
        raise ValueError(
            f"got features {features.shape} and targets {targets.shape}; expected [N, D] and [N, C]"
        )
    _check_l2(l2)
    head = _ridge(features, targets, l2)
    _check_finite(head, "ridge regression", f"the system is singular at l2={l2}; raise l2")
    return head


def knn(
    train_features: jax.Array,
    train_labels: jax.Array,
    features: jax.Array,
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
      similarities_at_once: how many are held in memory at a time (4 bytes each).

    Returns:
      float32 [M, C], each class's share of the votes; `argmax` is the class.

    Raises:
      ValueError: if shapes, labels, `k` or `temperature` are unfit.
    """
    train_features, train_labels = _checked(train_features, train_labels, num_classes, every=False)
    features = jnp.asarray(features, jnp.float32)
    if features.ndim != 2 or features.shape[1] != train_features.shape[1]:
        raise ValueError(
            f"got features {features.shape} and training features {train_features.shape}; "
            "expected [M, D] and [N, D]"
        )
    if not 1 <= k <= len(train_features):
        raise ValueError(f"got k={k}; expected 1 to {len(train_features)}, the training examples")
    if temperature is not None and temperature <= 0:
        raise ValueError(f"got temperature={temperature}; expected more than 0, or None")
    rows = max(1, min(len(features), similarities_at_once // len(train_features)))
    return _votes(train_features, train_labels, features, temperature, k, num_classes, rows)


def class_means(
    features: jax.Array, labels: jax.Array, *, num_classes: int, metric: str = "euclidean"
) -> LinearHead:
    """Returns the nearest class mean as a linear head: its largest logit is the nearest mean's.

    Args:
      features: [N, D].
      labels: class indices, [N]; every class must occur.
      num_classes: number of classes, C.
      metric: "euclidean", where a logit is -|f - mean|^2 / 2 up to a term that all classes share
        (Mensink et al., 2013); or "cosine", where features are brought to length 1 before they
        are averaged, and a logit is |f| times the cosine of f and the mean.

    Raises:
      ValueError: if shapes, labels or the metric are unfit.
      FloatingPointError: if the features are not finite.
    """
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"got metric={metric!r}; expected 'euclidean' or 'cosine'")
    features, labels = _checked(features, labels, num_classes)
    features = _unit(features) if metric == "cosine" else features
    counts = jnp.bincount(labels, length=num_classes)
    means = jax.ops.segment_sum(features, labels, num_classes) / counts[:, None]
    if metric == "cosine":
        head = LinearHead(kernel=_unit(means).T, bias=jnp.zeros(num_classes))
    else:
        head = LinearHead(kernel=means.T, bias=-(means**2).sum(1) / 2)
    _check_finite(head, "the class means", "look for non-finite features")
    return head


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
    """Returns the head, the objective, its gradient's largest entry, and the steps taken."""
    mean = features.mean(0)
    # A constant feature is zero once it is centred; its spread only must not be a divisor.
    spread = features.std(0) if standardize else jnp.ones_like(mean)
    spread = jnp.where(spread > _TINY, spread, 1.0)
    inputs = (features - mean) / spread

    def objective(head: LinearHead) -> jax.Array:
        loss = optax.softmax_cross_entropy_with_integer_labels(head(inputs), labels).mean()
        return loss + l2 / 2 * (head.kernel**2).sum()

    solver = optax.lbfgs(memory_size=_PAST_STEPS)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def unfinished(carry: tuple) -> jax.Array:
        _, state, step = carry
        norm = _largest(optax.tree.get(state, "grad"))
        # The state's gradient is not known before the first step.
        return (step == 0) | ((norm > tolerance) & (step < max_iterations) & jnp.isfinite(norm))

    def advance(carry: tuple) -> tuple:
        head, state, step = carry
        value, grad = value_and_grad(head, state=state)
        updates, state = solver.update(
            grad, state, head, value=value, grad=grad, value_fn=objective
        )
        return optax.apply_updates(head, updates), state, step + 1

    zeros = LinearHead(jnp.zeros((features.shape[1], num_classes)), jnp.zeros(num_classes))
    head, _, steps = jax.lax.while_loop(unfinished, advance, (zeros, solver.init(zeros), 0))
    value, grad = jax.value_and_grad(objective)(head)
    kernel = head.kernel / spread[:, None]
    moved = LinearHead(kernel, LinearHead(-kernel, head.bias)(mean))
    return moved, value, _largest(grad), steps


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
    known = _unit(train_features)

    def classify(feature: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            nearest, places = jax.lax.top_k(known @ _unit(feature), k)
        # The nearest neighbour's weight is 1: shares are the same, and none overflows.
        weights = 1.0 if temperature is None else jnp.exp((nearest - nearest[0]) / temperature)
        votes = jnp.zeros(num_classes).at[train_labels[places]].add(weights)
        return votes / votes.sum()

    return jax.lax.map(classify, features, batch_size=rows)


def _unit(vectors: jax.Array) -> jax.Array:
    """Brings vectors to length 1; zeros stay zeros."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), _TINY)


def _largest(tree: LinearHead) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(tree)]))


def _checked(
    features: jax.Array, labels: jax.Array, num_classes: int, l2: float = 0.0, *, every: bool = True
) -> tuple[jax.Array, jax.Array]:
    """Returns features in float32 and labels in int32; with `every`, each class must occur."""
    _check_l2(l2)
    features, labels = jnp.asarray(features, jnp.float32), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"got features {features.shape} and labels {labels.shape}; expected [N, D] and [N], "
            "N at least 1"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"got labels from {labels.min()} to {labels.max()} ({labels.dtype}); expected class "
            f"indices from 0 to {num_classes - 1}"
        )
    counts = np.bincount(labels, minlength=num_classes)
    if every and not counts.all():
        missing = np.flatnonzero(counts == 0)
        raise ValueError(
            f"{len(missing)} of {num_classes} classes have no example, first class {missing[0]}; "
            "leave them out of num_classes, or add examples"
        )
    return features, jnp.asarray(labels, jnp.int32)


def _check_l2(l2: float) -> None:
    if not 0 <= l2 < float("inf"):
        raise ValueError(f"got l2={l2}; expected 0 or more")


def _check_finite(head: LinearHead, what: str, advice: str) -> None:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(head)):
        raise FloatingPointError(f"{what} ended with values that are not finite; {advice}")
