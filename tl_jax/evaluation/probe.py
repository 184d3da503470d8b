"""Probes of runs and pretrained networks: features of two splits, and a classifier on them."""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
from jax.sharding import Mesh

from tl_jax.config import AugmentConfig
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source, as_source
from tl_jax.data.sources.open import open_source
from tl_jax.models import pretrained
from tl_jax.models.model import Model
from tl_jax.models.registry import create_model
from tl_jax.probes.extract import extract, headless
from tl_jax.probes.probe import L2_GRID, Method, ProbeOptions, ProbeResult, fit_probe
from tl_jax.probes.solvers import Metric
from tl_jax.run.data import check_labels
from tl_jax.run.folder import is_run, load_run
from tl_jax.weights.index import pretrained_config

Network = str | Path | tuple[Model, Mapping[str, Any]]
Dtype = Literal["float32", "bfloat16"]

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def probe(
    network: Network,
    train: Source | str,
    test: Source | str,
    *,
    method: Method = "logistic",
    l2: float | Sequence[float] = L2_GRID,
    held_out: float = 0.2,
    standardize: bool = True,
    k: int = 20,
    temperature: float | None = 0.07,
    metric: Metric = "euclidean",
    preprocess: Preprocess | None = None,
    weights: str | None = None,
    dtype: Dtype = "float32",
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
        variables. Its head is left out.
      train: split to fit on. A string is opened by `open_source`, as its split "train".
      test: split to test on. A string is opened as its split "test".
      method, l2, held_out, standardize, k, temperature, metric: see
        `tl_jax.probes.probe.ProbeOptions`.
      preprocess: the evaluation transform; None for that of the weights or the run.
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      dtype: "float32" or "bfloat16", in which a pretrained network computes. Its features are
        stored in this precision too.
      views: number of views of each training example; see `tl_jax.probes.extract.extract`.
      augmentation: of the views after the first.
      seed: of the views, and of the choice of the held-out part.
      batch_size: images at once, over all devices.
      cache_dir: folder in which the features are kept; None keeps none.
      mesh: devices; all by default.
      workers: threads that read the images.

    Raises:
      ValueError: if an argument is invalid, or the splits have different classes.

    Examples:
      >>> import jax
      >>> model = create_model("simple_cnn", num_classes=10)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> result = probe((model, variables), "digits", "digits", method="class_means",
      ...                preprocess=Preprocess(size=(16, 16)))
      >>> result.accuracy > 0.5  # Even on the features of random weights.
      True
    """
    options = ProbeOptions(method, l2, held_out, standardize, k, temperature, metric, seed)
    _check_network_options(network, weights, dtype)
    train = open_source(train, "train") if isinstance(train, str) else as_source(train)
    test = open_source(test, "test") if isinstance(test, str) else as_source(test)
    for source in (train, test):
        check_labels(source)
    if train.class_names != test.class_names:
        raise ValueError(
            f"the training split has the classes {list(train.class_names)}, the test split "
            f"{list(test.class_names)}; they must be the same, in the same order"
        )
    model, variables, own_preprocess = _load(network, weights, dtype)
    preprocess = preprocess or own_preprocess
    if preprocess is None:
        raise ValueError("a network with variables has no preprocessing; pass preprocess=")
    extract_features = functools.partial(
        extract,
        model,
        variables,
        preprocess=preprocess,
        storage_dtype=dtype,
        load_options=LoadOptions(batch_size, workers=workers),
        cache_dir=cache_dir,
        mesh=mesh,
    )
    start = time.perf_counter()
    train_features = extract_features(train, views=views, augmentation=augmentation, seed=seed)
    test_features = extract_features(test)
    seconds = time.perf_counter() - start
    result = fit_probe(train_features, test_features, train.class_names, options)
    return dataclasses.replace(result, feature_seconds=seconds)


def _check_network_options(network: Network, weights: str | None, dtype: str) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"got dtype={dtype!r}; expected one of {', '.join(_DTYPES)}")
    by_name = not isinstance(network, tuple) and not is_run(network)
    if not by_name and (weights is not None or dtype != "float32"):
        raise ValueError(
            f"got weights={weights!r} and dtype={dtype!r}, which are for a network by name; a run, "
            "or a network with variables, has its own: leave both out"
        )


def _load(
    network: Network, weights: str | None, dtype: Dtype
) -> tuple[Model, Mapping[str, Any], Preprocess | None]:
    """Returns the network without its head, its variables, and its preprocessing if it has one."""
    if isinstance(network, tuple):
        model, variables = network
        return headless(model), variables, None
    if is_run(network):
        run = load_run(network)
        return headless(run.model), run.variables, run.info.preprocess
    name = str(network)
    model = create_model(name, num_classes=0, dtype=_DTYPES[dtype])
    variables, _ = pretrained.load_weights(model, name, weights)
    return model, variables, Preprocess.of(pretrained_config(name))
