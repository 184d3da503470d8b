"""Probes: how well a simple classifier does on the features of a frozen network."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import AugmentConfig
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.data.sources.open import open_source
from tl_jax.heads.classifier import Classifier, OnBackbone
from tl_jax.models import pretrained
from tl_jax.models.registry import create_model
from tl_jax.objectives import metrics
from tl_jax.probes import extract, solvers
from tl_jax.probes.solvers import Convergence, LinearHead
from tl_jax.run import data
from tl_jax.run.folder import is_run, load_run
from tl_jax.transfer.peft.base import Adapted
from tl_jax.weights.index import pretrained_config

Method = Literal["logistic", "ridge", "knn", "class_means"]
Network = str | Path | tuple[nn.Module | Adapted, Mapping[str, Any]]

METHODS = ("logistic", "ridge", "knn", "class_means")
_PENALISED = ("logistic", "ridge")
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
      method: how the features were classified.
      accuracy: share of the test examples.
      accuracy_interval: Wilson's, 95%.
      count: number of test examples.
      confusion: int [C, C], true by predicted class.
      class_names: in the order of the labels.
      l2: the penalty that was used; None where the method has none.
      accuracy_by_l2: accuracy on the held-out part of each penalty that was tried; `{}` if one was
        given.
      convergence: how the solver of "logistic" ended; None for the others.
      head: the classifier, on the features as they are; None for "knn".
      feature_seconds: time to compute both splits' features, or to read them.
      solve_seconds: time to choose the penalty, fit and classify.
    """

    method: Method
    accuracy: float
    accuracy_interval: list[float]
    count: int
    confusion: np.ndarray
    class_names: tuple[str, ...]
    l2: float | None
    accuracy_by_l2: dict[float, float]
    convergence: Convergence | None
    head: LinearHead | None
    feature_seconds: float
    solve_seconds: float

    def start(self, params: Mapping[str, Any], layer: str) -> dict[str, Any]:
        """Returns parameters in which a layer classifies as the probe does, to fine-tune from.

        Args:
          params: of a network with a classifier of these classes on the same features, such as
            `create_model(name, num_classes=C)`.
          layer: dotted name of its dense layer: `model.classifier`.

        Raises:
          ValueError: if there is no such layer or it has another shape, or the method has no head.
        """
        if self.head is None:
            raise ValueError(f"method {self.method!r} has no head; probe with another method")
        leaves = trees.layer_leaves(params, layer)
        shape = leaves["kernel"].shape
        if shape != self.head.kernel.shape or "bias" not in leaves:
            raise ValueError(
                f"layer {layer!r} has a kernel of {shape} and the leaves {sorted(leaves)}; "
                f"expected a dense layer with a bias and a kernel of {self.head.kernel.shape}"
            )
        return trees.with_layer_leaves(
            params, layer, {"kernel": self.head.kernel, "bias": self.head.bias}
        )


def probe(
    network: Network,
    train: Source | str,
    test: Source | str,
    *,
    method: Method = "logistic",
    l2: float | Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    held_out: float = 0.2,
    standardize: bool = True,
    k: int = 20,
    temperature: float | None = 0.07,
    metric: str = "euclidean",
    preprocess: Preprocess | None = None,
    weights: str | None = None,
    dtype: str = "float32",
    views: int = 1,
    augmentation: AugmentConfig | None = None,
    seed: int = 0,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    mesh: Mesh | None = None,
    workers: int = 2,
) -> ProbeResult:
    """Fits a classifier on the pooled features of a frozen network, and tests it.

    The network runs once over each split, and not at all where `cache_dir` holds the features.

    Args:
      network: timm's name of a pretrained network, the folder of a run, or a network with its
        variables. Whatever head it has is left out.
      train: split to fit on. A string is opened by `open_source`, as its split "train".
      test: split to test on. A string is opened as its split "test".
      method: "logistic" (`logistic_regression`), "ridge" (of one-hot classes), "knn" or
        "class_means"; see `tl_jax.probes.solvers`.
      l2: penalty of "logistic" and "ridge", or several, of which the best on a part of `train` is
        chosen before the fit on all of it.
      held_out: this part, of each class.
      standardize: for "logistic", penalise as if every feature had a standard deviation of 1.
      k: neighbours of "knn".
      temperature: of their votes; None for one vote each.
      metric: of "class_means", "euclidean" or "cosine".
      preprocess: the evaluation transform; None for that of the weights or the run.
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      dtype: "float32" or "bfloat16", in which a pretrained network computes. Features are kept in
        that precision too.
      views: how often each training example is seen; see `feature_cache.extract`.
      augmentation: of the views from the second on.
      seed: of these, and of the choice of the held-out part.
      batch_size, cache_dir, mesh, workers: see `feature_cache.extract`.

    Raises:
      ValueError: if an argument has no such value, or the splits have different classes.

    Example:
      >>> found = probe("tf_efficientnet_lite0", "elpv", "elpv")             # doctest: +SKIP
      >>> found.accuracy, found.l2                                           # doctest: +SKIP
      (0.86, 0.1)
    """
    _check(method, l2, held_out, network, weights, dtype, preprocess)
    fitted, tested = _open_both(train, test)
    model, variables, own = _load(network, weights, dtype)
    options = {
        "preprocess": preprocess or own,
        "kept": "bfloat16" if dtype == "bfloat16" else "float32",
        "batch_size": batch_size,
        "cache_dir": cache_dir,
        "mesh": mesh,
        "workers": workers,
    }
    start = time.perf_counter()
    known = extract.extract(
        model, variables, fitted, views=views, augmentation=augmentation, seed=seed, **options
    )
    asked = extract.extract(model, variables, tested, **options)
    seconds = time.perf_counter() - start
    names = tuple(fitted.class_names)
    solver = _Solver(method, len(names), standardize, k, temperature, metric)
    found = _solve(solver, known, asked, l2, held_out, seed)
    return ProbeResult(method=method, class_names=names, feature_seconds=seconds, **found)


@dataclasses.dataclass(frozen=True)
class _Solver:
    """Fits and classifies by one method; the fields are options of `probe`."""

    method: Method
    num_classes: int
    standardize: bool
    k: int
    temperature: float | None
    metric: str

    def __call__(
        self, features: np.ndarray, labels: np.ndarray, asked: np.ndarray, l2: float | None
    ) -> tuple[jax.Array, LinearHead | None, Convergence | None]:
        """Fits on all views [views, N, D] and returns logits of `asked`, head and convergence."""
        flat, repeated = features.reshape(-1, features.shape[-1]), np.tile(labels, len(features))
        convergence = None
        if self.method == "knn":
            votes = solvers.knn(
                flat,
                repeated,
                asked,
                k=self.k,
                num_classes=self.num_classes,
                temperature=self.temperature,
            )
            return votes, None, None
        if self.method == "logistic":
            head, convergence = solvers.logistic_regression(
                flat, repeated, num_classes=self.num_classes, l2=l2, standardize=self.standardize
            )
        elif self.method == "ridge":
            head = solvers.ridge(flat, jax.nn.one_hot(repeated, self.num_classes), l2)
        else:
            head = solvers.class_means(
                flat, repeated, num_classes=self.num_classes, metric=self.metric
            )
        return head(asked), head, convergence


def _solve(
    solver: _Solver,
    known: extract.Features,
    asked: extract.Features,
    l2: float | Sequence[float],
    held_out: float,
    seed: int,
) -> dict[str, Any]:
    """Chooses the penalty, fits, classifies, and returns the fields of the result."""
    start = time.perf_counter()
    chosen, by_l2 = _choose_l2(solver, known, l2, held_out, seed)
    logits, head, convergence = solver(known.features, known.labels, asked.features[0], chosen)
    mask = jnp.ones(len(asked.labels), bool)
    confusion = np.asarray(metrics.confusion_matrix(logits, jnp.asarray(asked.labels), mask))
    hits, count = int(confusion.trace()), int(confusion.sum())
    return {
        "accuracy": hits / count,
        "accuracy_interval": metrics.wilson_interval(hits, count),
        "count": count,
        "confusion": confusion,
        "l2": chosen,
        "accuracy_by_l2": by_l2,
        "convergence": convergence,
        "head": head,
        "solve_seconds": time.perf_counter() - start,
    }


def headless(model: nn.Module | Adapted) -> nn.Module | Adapted:
    """Returns the network that gives pooled features [B, C] with the same variables.

    They hold the head's leaves beside those that are used, which does no harm.
    """
    if isinstance(model, Adapted):
        return dataclasses.replace(model, model=headless(model.model))
    if isinstance(model, OnBackbone):
        backbone = model.backbone
        return Classifier(headless(backbone) if backbone.num_classes else backbone, None)
    return model.clone(num_classes=0) if model.num_classes else model


def _load(
    network: Network, weights: str | None, dtype: str
) -> tuple[nn.Module | Adapted, Mapping[str, Any], Preprocess | None]:
    """Returns the network without its head, its variables, and its own preprocessing."""
    if isinstance(network, tuple):
        return headless(network[0]), network[1], None
    if is_run(network):
        run = load_run(network)
        return headless(run.model), run.variables, run.info.preprocess
    name = str(network)
    model = create_model(name, num_classes=0, dtype=_DTYPES[dtype])
    variables, _ = pretrained.load_weights(model, name, weights)
    return model, variables, Preprocess.of(pretrained_config(name))


def _open_both(train: Source | str, test: Source | str) -> tuple[Source, Source]:
    """Opens what is not yet open, and checks that both splits have the same classes."""
    fitted = open_source(train, "train") if isinstance(train, str) else train
    tested = open_source(test, "test") if isinstance(test, str) else test
    for source in (fitted, tested):
        data.check_labels(source)
    if tuple(fitted.class_names) != tuple(tested.class_names):
        raise ValueError(
            f"the training split has the classes {list(fitted.class_names)}, the test split "
            f"{list(tested.class_names)}; they must be the same, in the same order"
        )
    return fitted, tested


def _choose_l2(
    solver: _Solver,
    known: extract.Features,
    l2: float | Sequence[float],
    held_out: float,
    seed: int,
) -> tuple[float | None, dict[float, float]]:
    """Returns the penalty that does best on the held-out part; of equals the strongest."""
    if solver.method not in _PENALISED:
        return None, {}
    tried = sorted({float(l2)} if isinstance(l2, int | float) else set(map(float, l2)))
    if len(tried) == 1:
        return tried[0], {}
    fit, held = _split(known.labels, held_out, seed)
    found = {}
    for strength in tried:
        logits, *_ = solver(
            known.features[:, fit], known.labels[fit], known.features[0, held], strength
        )
        found[strength] = float(np.mean(np.asarray(logits).argmax(-1) == known.labels[held]))
    return max(tried, key=lambda strength: (found[strength], strength)), found


def _split(labels: np.ndarray, held_out: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the places of the examples to fit on, and of those held out, class by class."""
    order = np.random.default_rng(seed).permutation(len(labels))
    held = []
    for label in np.unique(labels):
        places = order[labels[order] == label]
        # A class of a single example is fitted on: without it there would be no such class.
        held.append(places[: min(round(held_out * len(places)), len(places) - 1)])
    out = np.sort(np.concatenate(held))
    if not len(out):
        raise ValueError(
            f"held_out={held_out} of {len(labels)} examples is none; raise it, or give one l2"
        )
    return np.setdiff1d(np.arange(len(labels)), out), out


def _check(
    method: str,
    l2: float | Sequence[float],
    held_out: float,
    network: Network,
    weights: str | None,
    dtype: str,
    preprocess: Preprocess | None,
) -> None:
    if method not in METHODS:
        raise ValueError(f"got method={method!r}; expected one of {', '.join(METHODS)}")
    if dtype not in _DTYPES:
        raise ValueError(f"got dtype={dtype!r}; expected one of {', '.join(_DTYPES)}")
    if not isinstance(l2, int | float) and not len(l2):
        raise ValueError("got no l2; expected at least one")
    if not 0 < held_out < 1:
        raise ValueError(f"got held_out={held_out}; expected a part of each class, in (0, 1)")
    by_name = not isinstance(network, tuple) and not is_run(network)
    if not by_name and (weights is not None or dtype != "float32"):
        raise ValueError(
            "weights= and dtype= are for a network by name; a run, or a network with variables, "
            "has its own"
        )
    if isinstance(network, tuple) and preprocess is None:
        raise ValueError(
            "a network with variables has no preprocessing of its own; give preprocess="
        )
