"""One pass of evaluation over a split, in which every example counts once."""

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax.data.augment import augment
from tl_jax.data.loading import device_batches
from tl_jax.data.loading.workers import WorkerType
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.objectives import metrics
from tl_jax.training import sharding, step


class Measure:
    """Measures a network on splits; compiled once, whatever the variables and the split."""

    def __init__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        *,
        mesh: Mesh,
        batch_size: int,
        workers: int = 2,
        worker_type: WorkerType = "thread",
        cache: device_batches.Cache = "none",
        views: Views = ONE_VIEW,
    ) -> None:
        """Compiles nothing yet.

        Args:
          model: the network.
          preprocess: its evaluation transform.
          mesh: devices that the batches are split over.
          batch_size: images of a step over all devices.
          workers, worker_type: who decodes, as in `loader.train_batches`.
          cache: "memory" and "device" keep the prepared images of a split for the next time.
          views: of each image, over which the network's outputs are averaged.
        """
        self._preprocess = views.transform(preprocess)
        self._mesh, self._batch_size = mesh, batch_size
        self._workers, self._worker_type, self._cache = workers, worker_type, cache
        self._batches: dict[str, device_batches.PlacedBatches] = {}

        def logits_of(variables: Any, images: jax.Array) -> jax.Array:
            network = functools.partial(model.apply, variables, train=False)
            inputs = augment.normalize(images, preprocess.mean, preprocess.std)
            return views.logits(network, inputs, preprocess.size)

        self._step = sharding.jit_eval_step(step.make_eval_step(logits_of), mesh)

    def __call__(self, variables: Any, source: Source) -> tuple[dict[str, Any], np.ndarray]:
        """Returns the metrics of a split and its confusion matrix.

        Raises:
          RuntimeError: if not every example was counted exactly once.
        """
        loss, confusion = 0.0, np.int64(0)
        for batch in self._batches_of(source):
            inputs = {name: batch[name] for name in ("image", "label", "mask")}
            sums = jax.device_get(self._step(variables, inputs))
            loss, confusion = loss + float(sums["loss"]), confusion + sums["confusion"]
        counted = int(np.sum(confusion))
        if counted != len(source):
            raise RuntimeError(
                f"evaluation counted {counted} of the {len(source)} examples of split "
                f"{source.split!r}; the loader dropped or repeated some: no metric can be trusted"
            )
        return metrics.summarize(confusion, loss), confusion

    def _batches_of(self, source: Source) -> device_batches.PlacedBatches:
        if source.split not in self._batches:
            self._batches[source.split] = device_batches.eval_batches(
                source,
                batch_size=self._batch_size,
                preprocess=self._preprocess,
                sharding=sharding.sharded(self._mesh),
                workers=self._workers,
                worker_type=self._worker_type,
                cache=self._cache,
            )
        return self._batches[source.split]
