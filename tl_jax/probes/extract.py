"""Features of a whole split, computed once with a frozen network and kept in a file.

The file is an `.npz` named by a hash of all that the features depend on: the variables, the
network, the preprocessing, the data, the views. It can be deleted at any time.
"""

import dataclasses
import hashlib
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import AugmentConfig
from tl_jax.data.augment import augment
from tl_jax.data.loading import host_batches
from tl_jax.data.loading.workers import Workers, WorkerType
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Example, Source, tasks_of
from tl_jax.models import features as intermediate
from tl_jax.training import augmenting, sharding
from tl_jax.transfer.peft.base import Adapted

Kept = Literal["float32", "bfloat16", "float16"]

_FORMAT = 1  # Raised when the same facts would give other features than before.
_SAMPLES = 32
_DAMAGE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)


@dataclasses.dataclass(frozen=True)
class Features:
    """The features of a split.

    Attributes:
      features: [views, N, ...], in the source's order. View 0 is the evaluation transform.
      labels: int32 [N].
      facts: what they depend on, as it is kept in the file; `{}` if no file was asked for.
      from_cache: whether they were read from a file.
    """

    features: np.ndarray
    labels: np.ndarray
    facts: dict[str, Any]
    from_cache: bool


def extract(
    model: nn.Module | Adapted,
    variables: Mapping[str, Any],
    source: Source,
    *,
    preprocess: Preprocess,
    at: str | None = None,
    views: int = 1,
    augmentation: AugmentConfig | None = None,
    seed: int = 0,
    kept: Kept = "float32",
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    mesh: Mesh | None = None,
    workers: int = 2,
    worker_type: WorkerType = "thread",
) -> Features:
    """Computes the features of every example of a split, or reads them where they are kept.

    The batches are split over the mesh. The network runs in its own `dtype`: that of
    `create_model(..., dtype=jnp.bfloat16)` is the faster one on accelerators.

    Args:
      model: the network, such as `create_model(name, num_classes=0)` for pooled features.
      variables: its params and batch_stats.
      source: the split.
      preprocess: the evaluation transform.
      at: dotted name of the module whose output is taken; None for what the network returns.
      views: how often each example is seen; from the second view on cropped and flipped at random.
      augmentation: crops and flips of these views; None for `AugmentConfig()`.
      seed: of these; with the view and the example's index it decides what becomes of an image.
      kept: type that the features are rounded to. "bfloat16" is handed out as float32, for NumPy
        has no such type; "float16" as it is.
      batch_size: images of a step over all devices. The features do not depend on it, but for
        rounding.
      cache_dir: folder of the files, shared by all processes; None keeps nothing. A damaged file
        counts as none and is written anew.
      mesh: devices; all by default.
      workers, worker_type: who decodes, as in `loader.train_batches`; processes for one view only.

    Raises:
      ValueError: if an argument has no such value, the batch does not divide over the devices, or
        the network returns no features [B, C].
      FloatingPointError: if a feature is not finite.
      RuntimeError: if not every example was seen exactly once.

    Example:
      >>> preprocess = Preprocess.of(pretrained_config("resnet50"))
      >>> found = extract(model, variables, source, preprocess=preprocess)   # doctest: +SKIP
      >>> found.features.shape                                               # doctest: +SKIP
      (1, 2100, 2048)
    """
    how = _How(preprocess, at, views, augmentation or AugmentConfig(), seed, kept)
    if worker_type == "process" and views > 1:
        raise ValueError(
            f"got worker_type='process' with views={views}; expected 'thread', as the sizes of the "
            "images are noted where they are read"
        )
    mesh = mesh or sharding.data_mesh()
    sharding.check_batch_size(batch_size, mesh)
    compute = _Pass(model, how, mesh, batch_size, Workers(workers, worker_type))
    if cache_dir is None:
        return Features(*compute(variables, source), {}, False)
    facts = _facts(model, variables, source, how)
    file = Path(cache_dir).expanduser() / f"features-{_hash_json(facts)[:24]}.npz"
    found = _read(file, facts)
    # Were one process to read and another to compute, they would wait for each other.
    if _everywhere(found is not None):
        return found
    values, labels = compute(variables, source)
    if jax.process_index() == 0:
        _write(file, values, labels, facts)
    return Features(values, labels, facts, False)


@dataclasses.dataclass(frozen=True)
class _How:
    """How features are computed: the arguments of `extract` that their values depend on."""

    preprocess: Preprocess
    at: str | None
    views: int
    augmentation: AugmentConfig
    seed: int
    kept: Kept

    def __post_init__(self) -> None:
        if self.views < 1:
            raise ValueError(f"got views={self.views}; expected at least 1, the image as it is")
        if self.kept not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"got kept={self.kept!r}; expected 'float32', 'bfloat16' or 'float16'")
        if augmenting.mix_of(self.augmentation) is not None:
            raise ValueError("a view is of one example; set augment.mixup and augment.cutmix to 0")


def _facts(
    model: nn.Module | Adapted, variables: Mapping[str, Any], source: Source, how: _How
) -> dict[str, Any]:
    """Returns what features depend on, as a dict that JSON can hold.

    The data are known by their name, split, size and classes, and by the pixels and labels of up to
    32 examples spread over them: other images under the same name are told apart, one image that
    was exchanged may not be.
    """
    # Functions among a network's fields show an address, which is another in each process.
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(model))
    places = np.unique(np.linspace(0, len(source) - 1, _SAMPLES).astype(int))
    return {
        "format": _FORMAT,
        "variables_sha256": _hash_variables(variables),
        "model": type(model).__name__,
        "model_sha256": hashlib.sha256(shown.encode()).hexdigest(),
        "source": source.name,
        "split": source.split,
        "count": len(source),
        "classes": list(source.class_names),
        "samples_sha256": _hash_examples(source[int(place)] for place in places),
        **json.loads(json.dumps(dataclasses.asdict(how))),
    }


def _hash_json(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _hash_variables(variables: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of all names, shapes, types and values of a tree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in sorted(trees.flatten(variables).items()):
        array = np.asarray(jax.device_get(leaf))
        digest.update(f"{trees.dotted(path)} {array.shape} {array.dtype};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _hash_examples(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        image = np.ascontiguousarray(example["image"])
        digest.update(f"{int(example['label'])} {image.shape};".encode() + image.tobytes())
    return digest.hexdigest()


class _Sized:
    """A source that notes the size of each image when it is read."""

    def __init__(self, source: Source) -> None:
        self.name, self.split = source.name, source.split
        self.tasks, self.class_names = tasks_of(source), source.class_names
        self.skipped = source.skipped
        self.sizes = np.zeros((len(source), 2), np.int32)
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def labels(self) -> np.ndarray:
        return self._source.labels()

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        self.sizes[index] = example["image"].shape[:2]
        return example


class _Pass:
    """Runs a network over splits."""

    def __init__(
        self, model: nn.Module | Adapted, how: _How, mesh: Mesh, batch_size: int, workers: Workers
    ) -> None:
        self._how, self._mesh = how, mesh
        self._batch_size, self._workers = batch_size, workers
        plain = _make_step(model, how, _plain(how), range(1))
        augmented = _make_step(model, how, _augmented(how), range(1, how.views))
        self._plain = sharding.jit_eval_step(plain, mesh)
        self._augmented = sharding.jit_eval_step(augmented, mesh)

    def __call__(self, variables: Any, source: Source) -> tuple[np.ndarray, np.ndarray]:
        """Returns values [views, N, ...] and labels [N]."""
        values, labels = self._read(self._plain, variables, source, self._how.preprocess)
        if self._how.views == 1:
            return values, labels
        # Crops are cut from the whole image, stretched to a square, as in training.
        canvas = self._how.preprocess.canvas
        whole = Preprocess(size=(canvas, canvas), crop_pct=1.0, crop_mode="squash")
        others, _ = self._read(self._augmented, variables, _Sized(source), whole)
        return np.concatenate([values, others]), labels

    def _read(
        self, step: Callable[..., Any], variables: Any, source: Source, transform: Preprocess
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns a step's values of every example, and the labels."""
        values, labels = None, np.zeros(len(source), np.int32)
        seen = np.zeros(len(source), np.int64)
        for batch in self._batches(source, transform):
            if isinstance(source, _Sized):
                batch = {**batch, "size": np.maximum(source.sizes[batch["index"]], 1)}
            found = jax.device_get(step(variables, sharding.put_batch(batch, self._mesh)))
            real = found["mask"]
            places = found["index"][real]
            if values is None:
                shape = (found["values"].shape[0], len(source), *found["values"].shape[2:])
                values = np.zeros(shape, found["values"].dtype)
            values[:, places] = found["values"][:, real]
            labels[places] = found["label"][real]
            np.add.at(seen, places, 1)
        _check_seen(seen, source)
        _check_finite(values, source)
        return values, labels

    def _batches(self, source: Source, transform: Preprocess) -> host_batches.EvalBatches:
        return host_batches.eval_batches(
            source,
            batch_size=self._batch_size,
            preprocess=transform,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            workers=self._workers.count,
            worker_type=self._workers.kind,
        )


Prepare = Callable[[Mapping[str, jax.Array], jax.Array], jax.Array]


def _make_step(
    model: nn.Module | Adapted, how: _How, prepare: Prepare, views: range
) -> Callable[[Any, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """Returns a step from a batch to values [views, B, ...] and the examples they are of."""

    def step(variables: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        def values_of(view: jax.Array) -> jax.Array:
            images = prepare(batch, view)
            if how.at is None:
                return _rounded(_check_pooled(model.apply(variables, images)), how.kept)
            return _rounded(
                intermediate.features(model, variables, images, [how.at])[how.at], how.kept
            )

        # One view after the other: the network is compiled once, and no more is held than for one.
        values = jax.lax.map(values_of, jnp.asarray(views))
        return {"values": values, **{name: batch[name] for name in ("label", "mask", "index")}}

    return step


def _plain(how: _How) -> Prepare:
    """Returns what prepares view 0."""
    mean, std = how.preprocess.mean, how.preprocess.std
    return lambda batch, view: augment.normalize(batch["image"], mean, std)


def _augmented(how: _How) -> Prepare:
    """Returns what prepares another view; each example's key is its own."""
    augmented = augmenting.prepare_of(how.augmentation, how.preprocess)

    def one(key: jax.Array, image: jax.Array, size: jax.Array) -> jax.Array:
        return augmented(key, {"image": image[None], "size": size[None]})[0]

    def prepare(batch: Mapping[str, jax.Array], view: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(how.seed), view)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, batch["index"])
        return jax.vmap(one)(keys, batch["image"], batch["size"])

    return prepare


def _rounded(values: jax.Array, kept: Kept) -> jax.Array:
    return values.astype(kept).astype(jnp.float16 if kept == "float16" else jnp.float32)


def _check_pooled(values: jax.Array) -> jax.Array:
    if values.ndim != 2:
        raise ValueError(
            f"the network returns shape {values.shape}, expected features [B, C]; make it with "
            "num_classes=0 and global_pool='avg', or name a module by at="
        )
    return values


def _check_seen(seen: np.ndarray, source: Source) -> None:
    if not (seen == 1).all():
        raise RuntimeError(
            f"of the {len(source)} examples of split {source.split!r} {int((seen == 0).sum())} "
            f"were not seen and {int((seen > 1).sum())} more than once: the loader is at fault, "
            "and the features cannot be trusted"
        )


def _check_finite(values: np.ndarray, source: Source) -> None:
    for view in values:
        # A block at a time: a copy in float32 of all might not fit.
        for start in range(0, len(view), 1024):
            block = view[start : start + 1024].astype(np.float32)
            if not np.isfinite(block).all():
                raise FloatingPointError(
                    f"features of split {source.split!r} are not finite, first in examples from "
                    f"{start} on; look at the weights, or keep another type than {values.dtype}"
                )


def _everywhere(here: bool) -> bool:
    """Says whether all processes say so; every one of them must ask."""
    return bool(np.all(multihost_utils.process_allgather(np.asarray(here))))


def _write(file: Path, values: np.ndarray, labels: np.ndarray, facts: dict[str, Any]) -> None:
    """Writes a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    # An .npz holds no bfloat16: of values rounded to it, the upper half of the bits says all.
    bits = values
    if facts["kept"] == "bfloat16":
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    try:
        with part.open("wb") as stream:
            np.savez(stream, values=bits, labels=labels, facts=np.asarray(json.dumps(facts)))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _read(file: Path, facts: dict[str, Any]) -> Features | None:
    """Returns what a file holds, or None if there is none or it is damaged."""
    try:
        with np.load(file) as kept:
            if json.loads(str(kept["facts"])) != facts:
                return None
            values, labels = kept["values"], kept["labels"]
    except _DAMAGE:
        return None
    if values.shape[:2] != (facts["views"], len(labels)) or len(labels) != facts["count"]:
        return None
    if facts["kept"] == "bfloat16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return Features(values, labels, facts, True)
