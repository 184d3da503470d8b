"""Probes of runs and pretrained networks: features of two splits, and a classifier on them."""

import dataclasses
import functools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jax.sharding import Mesh

from tl_jax import arguments, messages, process
from tl_jax.config import AugmentConfig
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.match_tasks import match_tasks
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.relabel import UnknownClasses
from tl_jax.data.source import Source, as_source, check_trainable
from tl_jax.data.sources.open import open_source, split_names, uses
from tl_jax.data.sources.options import OnCorrupt
from tl_jax.models import pretrained, weights_reader
from tl_jax.models.model import Model, check_model
from tl_jax.probes.extract import extract, headless
from tl_jax.probes.probe import (
    L2_GRID,
    Method,
    ProbeOptions,
    ProbeResult,
    check_method,
    fit_probe,
)
from tl_jax.probes.solvers import Metric
from tl_jax.run.data import check_labels, input_columns
from tl_jax.run.folder import RunFolder, is_run, load_run
from tl_jax.run.model import DTYPES
from tl_jax.weights.checkpoint import Reading

Network = str | Path | tuple[Model, Mapping[str, Any]]
Dtype = Literal["float32", "bfloat16"]


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
    weights: str | os.PathLike[str] | None = None,
    checkpoint_key: str = "",
    prefix: str = "",
    ignore: Sequence[str] = (),
    dtype: Dtype = "float32",
    views: int = 1,
    augmentation: AugmentConfig | None = None,
    seed: int = 0,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    mesh: Mesh | None = None,
    workers: int = 2,
    unknown_classes: UnknownClasses = "raise",
) -> ProbeResult:
    """Fits a classifier on the pooled features of a frozen network, and tests it.

    The network runs once over each split, and not at all where `cache_dir` holds the features. The
    labels are those of the main task: classes, levels (fitted as classes), any number of classes
    each (a yes or no for each), or numbers (ridge regression). The features of a run with several
    tasks or inputs are what goes into its heads.

    Args:
      network: timm's name of a pretrained network, someone's own checkpoint (a repository of the
        hub, "hf-hub:OWNER/REPO", or a folder with config.json), the folder of a run, or a network
        with its variables. Its head is left out.
      train: split to fit on. A string is opened by `open_source`, as its split "train", with the
        views and columns of the run.
      test: split to test on. A string is opened as its split "test". Its classes are matched to
        those of the training split by name.
      method, l2, held_out, standardize, k, temperature, metric: see
        `tl_jax.probes.probe.ProbeOptions`.
      preprocess: the evaluation transform; None for that of the weights or the run.
      weights: where a pretrained network's weights come from; see `load_pretrained`.
      checkpoint_key, prefix, ignore: what is taken from a checkpoint; see `load_pretrained`.
      dtype: "float32" or "bfloat16", in which a pretrained network computes. Its features are
        stored in this precision too.
      views: number of views of each training example; see `tl_jax.probes.extract.extract`.
      augmentation: of the views after the first.
      seed: of the views, and of the choice of the held-out part.
      batch_size: images at once, over all devices.
      cache_dir: folder in which the features are kept; None keeps none.
      mesh: devices; all by default.
      workers: threads that read the images.
      unknown_classes: what to do with test images of classes that the training split does not
        have: "raise", or "skip" to leave them out.

    Raises:
      TypeError: if a split is neither a specification nor a source.
      ValueError: if an argument is invalid or not for the kind of the labels, a label is missing,
        the network takes other inputs than the splits hold, or the test split has images of other
        classes than the training split.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from tl_jax.models.registry import create_model
      >>> model = create_model("simple_cnn", num_classes=10)
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> result = probe((model, variables), "digits", "digits", method="class_means",
      ...                preprocess=Preprocess(size=(16, 16)))
      >>> result.accuracy > 0.5  # Even on the features of random weights.
      True
    """
    options = ProbeOptions(method, l2, held_out, standardize, k, temperature, metric, seed)
    reading = Reading(checkpoint_key, prefix, ignore)
    _check_network(network)
    _check_network_options(network, weights, reading, dtype)
    _check_preprocess(preprocess)
    process.prepare()
    train, test = _opened(network, train, "train"), _opened(network, test, "test")
    check_method(method, train.tasks[0].kind)
    test = _matched(train, test, unknown_classes)
    model, variables, own_preprocess = _load(network, weights, reading, dtype)
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
    kind = train.tasks[0].kind
    result = fit_probe(train_features, test_features, train.class_names, options, kind=kind)
    return dataclasses.replace(result, feature_seconds=seconds)


def open_splits(
    network: str | Path,
    spec: str,
    *,
    train_split: str = "train",
    test_split: str | None = None,
    value_range: tuple[float, float] | None = None,
    data_dir: str | Path | None = None,
    on_corrupt: OnCorrupt = "raise",
    labels: Sequence[str] = (),
    image_column: str | Sequence[str] | None = None,
    numbers: Sequence[str] = (),
    several: Sequence[str] = (),
) -> tuple[Source, Source]:
    """Opens the two splits of a set that a probe is fitted and tested on.

    Args:
      network: as in `probe`. If it is a run, its views and columns are opened too.
      spec: as in `open_source`, which has the other options too.
      train_split: split to fit on.
      test_split: split to test on; the default is "test", or "validation" where there is no "test".
      value_range: as in `open_source`; the default is that of the run, if `network` is one.
    """
    if test_split is None:
        names = split_names(spec, data_dir=data_dir)
        usual = [name for name in ("test", "validation") if name in names]
        if not usual:
            raise ValueError(
                f"{spec} has the splits {messages.some(names)}, none of them test or validation; "
                "name the one to test on by test_split (--test-split); of a single split, take "
                f"parts: {names[0]}[:80%] and {names[0]}[80%:]"
            )
        test_split = usual[0]
    if value_range is None and uses(spec, "value_range"):
        value_range = _range_of_run(network)
    inputs = _inputs_of_run(network)
    if image_column is not None:
        inputs["image_column"] = image_column

    def open_split(split: str) -> Source:
        return open_source(
            spec, split, data_dir=data_dir, on_corrupt=on_corrupt, labels=labels,
            value_range=value_range, numbers=numbers, several=several, **inputs,
        )  # fmt: skip

    return open_split(train_split), open_split(test_split)


def _opened(network: Network, source: Source | str, split: str) -> Source:
    """Returns a source, or opens the split of its specification."""
    if source is None:
        raise TypeError(
            f"the {split} set is None; expected a specification such as 'folder:PATH', or a source"
        )
    if not isinstance(source, str):
        return as_source(source)
    value_range = _range_of_run(network) if uses(source, "value_range") else None
    return open_source(source, split, value_range=value_range, **_inputs_of_run(network))


def _matched(train: Source, test: Source, unknown_classes: UnknownClasses) -> Source:
    """Checks the labels of both splits, and returns the test split with the training classes."""
    task = train.tasks[0]
    for source in (train, test):
        if task.kind in ("multi_class", "ordinal"):
            check_labels(source)
        else:
            _check_known(source)
    check_trainable(train)
    return match_tasks(test, (task,), unknown=unknown_classes)


def _check_known(source: Source) -> None:
    """Raises ValueError if a label is missing, be it that of one class of several."""
    task, labels = source.tasks[0], source.labels()
    missing = (labels < 0).any(axis=1) if task.multi_label else task.missing(labels)
    if missing.any():
        raise ValueError(
            f"{int(missing.sum())} of {len(labels)} examples of split {source.split!r} of "
            f"{source.name} have no {task.name!r}, or not of all classes; leave them out"
        )


def _inputs_of_run(network: Network) -> dict[str, Any]:
    """Returns the options of `open_source` for the views and columns that a run takes."""
    if isinstance(network, tuple) or not is_run(network):
        return {}
    folder = RunFolder(network)
    inputs, config = folder.read_info().inputs, folder.read_config()
    if inputs.is_one_image:
        return {}
    views = config.inputs.views or config.data.image_column
    return {"columns": input_columns(config), "image_column": views, "inputs": inputs}


def _range_of_run(network: Network) -> tuple[float, float] | None:
    """Returns the values of black and white that a run was trained with."""
    if isinstance(network, tuple) or not is_run(network):
        return None
    return RunFolder(network).read_info().preprocess.value_range


def _check_network(network: Network) -> None:
    """Raises unless this is a name, a folder, or a network with its variables."""
    if isinstance(network, str | os.PathLike):
        return
    is_pair = isinstance(network, tuple) and len(network) == 2
    if is_pair and isinstance(network[1], Mapping):
        check_model(network[0], function="probe")
        return
    given = "a tuple that is no such pair" if isinstance(network, tuple) else None
    raise TypeError(
        "probe takes the name of a network, the folder of a run or of weights, or a pair "
        f"(model, variables), but got {given or arguments.kind(network)}"
    )


def _check_preprocess(preprocess: Any) -> None:
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise TypeError(
            f"preprocess is {arguments.kind(preprocess)}; expected a tl_jax.Preprocess, such as "
            "Preprocess.of(tl_jax.pretrained_config(name))"
        )


def _check_network_options(
    network: Network, weights: str | os.PathLike[str] | None, reading: Reading, dtype: str
) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"got dtype={dtype!r}; expected one of {', '.join(DTYPES)}")
    given = weights is not None or reading != Reading() or dtype != "float32"
    if given and (isinstance(network, tuple) or is_run(network)):
        raise ValueError(
            f"got weights={weights!r} (or options of reading them) and dtype={dtype!r}, which are "
            "for a network by name; a run, or a network with variables, has its own: leave them out"
        )


def _load(
    network: Network, weights: str | os.PathLike[str] | None, reading: Reading, dtype: Dtype
) -> tuple[Model, Mapping[str, Any], Preprocess | None]:
    """Returns the network without its head, its variables, and its preprocessing if it has one."""
    if isinstance(network, tuple):
        model, variables = network
        return headless(model), variables, None
    if is_run(network):
        run = load_run(network)
        return headless(run.model), run.variables, run.info.preprocess
    loaded = weights_reader.read(str(network), weights, reading)
    model, variables, _ = pretrained.build(loaded, num_classes=0, dtype=DTYPES[dtype])
    return model, variables, Preprocess.of(loaded.config)
