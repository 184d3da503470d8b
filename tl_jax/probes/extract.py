"""Features of a whole split: computed once with a frozen network, or read from their file."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tl_jax.config import AugmentConfig
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.augment.mixing import make_mix_fn
from tl_jax.data.loading import host_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import NetworkInput, Preprocess, evaluation_input
from tl_jax.data.source import Example, Source
from tl_jax.heads.classifier import BackboneWithHead, Classifier
from tl_jax.heads.task_network import TaskNetwork
from tl_jax.models import layers, outputs
from tl_jax.models.model import Model, abstract_inputs
from tl_jax.probes import feature_file
from tl_jax.probes.feature_file import Features, StorageDtype
from tl_jax.training import sharding
from tl_jax.transfer.peft.base import Adapted

_LOAD_OPTIONS = LoadOptions(batch_size=64)


def extract(
    model: Model,
    variables: Mapping[str, Any],
    source: Source,
    *,
    preprocess: Preprocess,
    at: str | None = None,
    views: int = 1,
    augmentation: AugmentConfig | None = None,
    seed: int = 0,
    storage_dtype: StorageDtype = "float32",
    load_options: LoadOptions = _LOAD_OPTIONS,
    cache_dir: str | Path | None = None,
    mesh: Mesh | None = None,
) -> Features:
    """Computes the features of every example of a split, or reads them from their file.

    The network gets what the source holds: one image, or several and what is beside them. The
    batches are split over the mesh. The network computes in its own `dtype`:
    `create_model(..., dtype=jnp.bfloat16)` is faster on accelerators.

    Args:
      model: the network, such as `create_model(name, num_classes=0)` for pooled features.
      variables: its params and batch_stats.
      source: the split.
      preprocess: the evaluation transform.
      at: dotted name of the module whose output is taken; None for the network's output.
      views: number of views of each example; those after the first are cropped and flipped at
        random.
      augmentation: crops and flips of these views; None for `AugmentConfig()`.
      seed: seed of the views; it decides the augmentation of an image together with the number of
        the view and the index of the example.
      storage_dtype: dtype that the features are rounded to. "bfloat16" is returned as float32,
        because NumPy has no such dtype; "float16" as it is.
      load_options: how the images are read. The features do not depend on it, except for rounding.
      cache_dir: folder of the files, shared by all processes; None writes none. A damaged file is
        ignored and overwritten.
      mesh: devices; all by default.

    Raises:
      ValueError: if an argument is invalid, or the network does not return features [B, C].
      FloatingPointError: if a feature is not finite.
      RuntimeError: if not every example was seen exactly once.

    Examples:
      >>> from tl_jax.data.sources.open import open_source
      >>> from tl_jax.models.registry import create_model
      >>> model, source = create_model("simple_cnn", num_classes=0), open_source("digits", "test")
      >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
      >>> extracted = extract(model, variables, source, preprocess=Preprocess(size=(16, 16)))
      >>> extracted.features.shape == (1, len(source), 512)
      True
    """
    options = _ViewOptions(
        preprocess, at, views, augmentation or AugmentConfig(), seed, storage_dtype
    )
    if load_options.worker_type == "process" and views > 1:
        raise ValueError(
            f"got worker_type='process' with views={views}; expected 'thread', because the reading "
            "threads record the sizes of the images"
        )
    _check_inputs(model, source)
    if views > 1 and not source.inputs.is_one_image:
        raise ValueError(
            f"got views={views} of each example of {source.name}, which is more than one image; "
            "expected 1"
        )
    mesh = mesh or sharding.data_mesh()
    batch_size = sharding.divisible(load_options.batch_size, mesh)
    load_options = dataclasses.replace(load_options, batch_size=batch_size)
    if cache_dir is None:
        values, labels = _compute(model, variables, source, options, load_options, mesh)
        return Features(values, labels, {}, from_cache=False)
    facts = feature_file.describe(model, variables, source, options.to_json())
    path = feature_file.path_in(cache_dir, facts)
    cached = feature_file.read(path, facts)
    # All processes must do the same: one that reads and one that computes would wait forever.
    everywhere = np.all(multihost_utils.process_allgather(np.asarray(cached is not None)))
    if cached is not None and everywhere:
        return cached
    values, labels = _compute(model, variables, source, options, load_options, mesh)
    if jax.process_index() == 0:
        feature_file.write(path, values, labels, facts)
    return Features(values, labels, facts, from_cache=False)


def headless(model: Model) -> Model:
    """Returns the network that computes pooled features [B, C] from the same variables.

    It ignores the leaves of the head. Of a network of several tasks or inputs the features are what
    goes into the heads: all images, scales and modalities joined.

    Raises:
      ValueError: if the model is neither a Linen module nor an adapted one.
    """
    if isinstance(model, Adapted):
        return dataclasses.replace(model, model=headless(model.model))
    if isinstance(model, BackboneWithHead):
        backbone = model.backbone
        if backbone.num_classes:
            backbone = backbone.clone(num_classes=0)
        return Classifier(backbone, None)
    if isinstance(model, TaskNetwork):
        return model.clone(tasks=(), weighting="fixed")
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"cannot remove the head of a {type(model).__name__}; pass the network itself"
        )
    return model.clone(num_classes=0) if model.num_classes else model


def _check_inputs(model: Model, source: Source) -> None:
    """Raises a ValueError unless a network takes what the examples of a source hold."""
    taken = abstract_inputs(model, (1, 1, 1, 3))
    keys = {"image"} if not isinstance(taken, Mapping) else set(taken)
    held = {"image", *source.inputs.keys, *(["view_mask"] if source.inputs.views else [])}
    if keys != held:
        *others, last = sorted(held)
        raise ValueError(
            f"the network takes {', '.join(sorted(keys))}, and the examples of {source.name} hold "
            f"{', '.join(others)}{' and ' * bool(others)}{last}; give data with the inputs that "
            "the network was made for"
        )


@dataclasses.dataclass(frozen=True)
class _ViewOptions:
    """The arguments of `extract` that the features depend on."""

    preprocess: Preprocess
    at: str | None
    views: int
    augmentation: AugmentConfig
    seed: int
    storage_dtype: StorageDtype

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"got views={self.views}; expected 1 or more")
        if self.storage_dtype not in get_args(StorageDtype):
            raise ValueError(
                f"got storage_dtype={self.storage_dtype!r}; expected one of "
                f"{', '.join(get_args(StorageDtype))}"
            )
        if make_mix_fn(self.augmentation) is not None:
            raise ValueError("got mixup or cutmix, but a view is of one example; set both to 0")

    def to_json(self) -> dict[str, Any]:
        """Returns the options under the names that they have in files of features."""
        fields: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if fields["preprocess"]["value_range"] is None:  # As files of earlier versions have it.
            del fields["preprocess"]["value_range"]
        return fields | {"kept": fields.pop("storage_dtype")}


Batch = Mapping[str, jax.Array]
InputFn = Callable[[Batch, jax.Array], NetworkInput]


def _compute(
    model: Model,
    variables: Mapping[str, Any],
    source: Source,
    options: _ViewOptions,
    load_options: LoadOptions,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns values [views, N, ...] and labels [N] or [N, classes]."""
    preprocess = options.preprocess

    def normalized(batch: Batch, view: jax.Array) -> NetworkInput:
        del view
        return evaluation_input(batch, preprocess.mean, preprocess.std)

    augment_fn = make_augment_fn(options.augmentation, preprocess)

    def augment_one(key: jax.Array, image: jax.Array, size: jax.Array) -> jax.Array:
        return augment_fn(key, {"image": image[None], "size": size[None]})[0]

    def augmented(batch: Batch, view: jax.Array) -> jax.Array:
        view_key = jax.random.fold_in(jax.random.key(options.seed), view)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(view_key, batch["index"])
        return jax.vmap(augment_one)(keys, batch["image"], batch["size"])

    step = _make_step(model, options, normalized, range(1))
    values, labels = _run(step, variables, source, preprocess, load_options, mesh)
    if options.views == 1:
        return values, labels
    # As in training, crops are cut from the whole image, stretched to a square.
    canvas = Preprocess(
        size=(preprocess.canvas, preprocess.canvas), crop_pct=1.0, crop_mode="squash"
    )
    step = _make_step(model, options, augmented, range(1, options.views))
    later_values, _ = _run(step, variables, _SizedSource(source), canvas, load_options, mesh)
    return np.concatenate([values, later_values]), labels


def _make_step(
    model: Model, options: _ViewOptions, input_fn: InputFn, views: range
) -> Callable[[Any, Batch], dict[str, jax.Array]]:
    """Returns a step from a batch to values [views, B, ...], with label, mask and index of each."""

    def network(variables: Any, images: NetworkInput) -> jax.Array:
        if options.at is None:
            return model.apply(variables, images)
        return outputs.features(model, variables, images, [options.at])[options.at]

    def view_values(variables: Any, batch: Batch, view: jax.Array) -> jax.Array:
        images = input_fn(batch, view)
        values = layers.folded(network)(variables, images)
        if options.at is None and values.ndim != 2:
            raise ValueError(
                f"the network returns shape {values.shape}, expected features [B, C]; create it "
                "with num_classes=0 and global_pool='avg', or name a module with at="
            )
        result_dtype = jnp.float16 if options.storage_dtype == "float16" else jnp.float32
        return values.astype(options.storage_dtype).astype(result_dtype)

    def step(variables: Any, batch: Batch) -> dict[str, jax.Array]:
        # One view after the other: the network is compiled once, and memory is that of one view.
        values = jax.lax.map(lambda view: view_values(variables, batch, view), jnp.asarray(views))
        return {"values": values, **{name: batch[name] for name in ("label", "mask", "index")}}

    return step


def _run(
    step: Callable[[Any, Batch], dict[str, jax.Array]],
    variables: Mapping[str, Any],
    source: Source,
    transform: Preprocess,
    load_options: LoadOptions,
    mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the step's values of every example [views, N, ...], and the labels of all.

    Raises:
      FloatingPointError, RuntimeError: see `extract`.
    """
    compiled = sharding.jit_eval_step(step, mesh)
    values: np.ndarray | None = None
    task, times_seen = source.tasks[0], np.zeros(len(source), np.int64)
    labels = np.zeros((len(source), *task.shape), task.dtype)
    batches = host_batches.host_eval_batches(
        source,
        dataclasses.replace(load_options, cache="none"),
        preprocess=transform,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    for batch in batches:
        if isinstance(source, _SizedSource):
            batch = {**batch, "size": np.maximum(source.sizes[batch["index"]], 1)}
        results = jax.device_get(compiled(variables, sharding.put_batch(batch, mesh)))
        mask = results["mask"]
        indices = results["index"][mask]
        if values is None:
            shape = results["values"].shape
            values = np.zeros((shape[0], len(source), *shape[2:]), results["values"].dtype)
        values[:, indices] = results["values"][:, mask]
        labels[indices] = results["label"][mask]
        np.add.at(times_seen, indices, 1)
    if values is None or not (times_seen == 1).all():
        raise RuntimeError(
            f"of the {len(source)} examples of split {source.split!r} {(times_seen == 0).sum()} "
            f"were not seen and {(times_seen > 1).sum()} more than once, expected once each: this "
            "is a bug of the loader, and the features cannot be used"
        )
    _check_finite(values, source)
    return values, labels


def _check_finite(values: np.ndarray, source: Source) -> None:
    for view in values:
        # In blocks, because a float32 copy of all might not fit in memory.
        for start in range(0, len(view), 1024):
            block = view[start : start + 1024].astype(np.float32)
            if not np.isfinite(block).all():
                raise FloatingPointError(
                    f"features of split {source.split!r} are not finite, first in examples from "
                    f"{start} on; check the weights, or choose a storage_dtype other than "
                    f"{values.dtype}"
                )


class _SizedSource(Source):
    """A source that records the size of each image when it is read."""

    def __init__(self, source: Source) -> None:
        self.name, self.split = source.name, source.split
        self.tasks, self.skipped = source.tasks, source.skipped
        self.sizes = np.zeros((len(source), 2), np.int32)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        self.sizes[index] = example["image"].shape[:2]
        return example

    def labels(self) -> np.ndarray:
        return self._source.labels()
