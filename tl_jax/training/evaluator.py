"""One pass of evaluation over a split, in which every example counts once."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tl_jax import messages, trees
from tl_jax.data.loading import device_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess, normalize
from tl_jax.data.source import Source
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.objectives import metrics
from tl_jax.training import ahead, sharding, state, step


class Evaluator:
    """Evaluates a network on splits; compiled once, for all variables and splits.

    Attributes:
      compiled: whether a call has compiled it, so that the time of the next is that of evaluation.
    """

    compiled: bool = False

    def __init__(
        self,
        model: Model,
        preprocess: Preprocess,
        *,
        mesh: Mesh,
        load_options: LoadOptions,
        views: Views = ONE_VIEW,
    ) -> None:
        """Sets up the evaluator; its first call compiles.

        Args:
          model: the network.
          preprocess: its evaluation transform.
          mesh: devices that the batches are split over.
          load_options: how images are read; a cache keeps the prepared images of each split for
            the next pass.
          views: views of each image; the network's outputs are averaged over them.
        """
        self._preprocess = views.transform(preprocess)
        batch_size = sharding.divisible(load_options.batch_size, mesh)
        self._mesh = mesh
        self._load_options = dataclasses.replace(load_options, batch_size=batch_size)
        self._batches: dict[str, device_batches.DeviceEvalBatches] = {}

        def logits_fn(variables: trees.Tree, images: jax.Array) -> jax.Array:
            return evaluation_logits(
                model,
                variables,
                images,
                views=views,
                size=preprocess.size,
                mean=preprocess.mean,
                std=preprocess.std,
            )

        self._step = sharding.jit_eval_step(step.make_eval_step(logits_fn), mesh)

    def __call__(
        self, variables: trees.Tree, source: Source
    ) -> tuple[dict[str, Any], metrics.Counts]:
        """Returns the metrics of a split, and its confusion matrix [C, C], true by predicted class.

        Beyond 2,000 classes the counts by class take the matrix's place.

        Args:
          variables: params and batch_stats of the network.
          source: the split. Its batches are kept under its name, `source.split`, so one evaluator
            is for the splits of one data set.

        Raises:
          FloatingPointError: if the loss is not finite, so that the predictions mean nothing.
          ValueError: if the split has no examples.
          RuntimeError: if not every example was counted exactly once.
        """
        if not len(source):
            raise ValueError(f"split {source.split!r} has no examples, so nothing can be measured")
        if source.split not in self._batches:
            self._batches[source.split] = device_batches.eval_batches(
                source,
                self._load_options,
                preprocess=self._preprocess,
                sharding=sharding.sharded(self._mesh),
            )
        results, steps = [], ahead.StepsAhead()
        for batch in self._batches[source.split]:
            inputs = {name: batch[name] for name in ("image", "label", "mask")}
            results.append(self._step(variables, inputs))
            steps.add(results[-1])
        fetched = jax.device_get(results)  # 8 bytes an example, and a loss a batch.
        self.compiled = True
        loss = sum(float(result["loss"]) for result in fetched)  # In 64 bits.
        labels, predicted = (
            np.concatenate([result[name] for result in fetched]) for name in ("label", "predicted")
        )
        num_classes = int(fetched[0]["num_classes"])
        confusion = metrics.count(labels, predicted, num_classes=num_classes)
        num_counted = int(confusion.sum())
        if num_counted != len(source):
            raise RuntimeError(
                f"evaluation counted {num_counted} of the {len(source)} examples of split "
                f"{source.split!r}: the loader dropped or repeated some, which is a bug"
            )
        if not math.isfinite(loss):
            raise FloatingPointError(_explain(loss, source.split, variables))
        return metrics.summarize(confusion, loss), confusion


def evaluation_logits(
    model: Model,
    variables: trees.Tree,
    images: jax.Array,
    *,
    views: Views,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
) -> jax.Array:
    """Returns the logits [B, C] of a network in evaluation mode, averaged over views.

    Args:
      model: the network.
      variables: its params and batch_stats.
      images: uint8 [B, H, W, channels], prepared by the network's transform; uncropped where the
        views are crops.
      views: views of each image.
      size: height and width of a view.
      mean, std: of the channels, on the scale where white is 1.
    """
    return views.logits(
        lambda x: layers.folded(model.apply)(variables, x, train=False),
        normalize(images, mean, std),
        size,
    )


def _explain(loss: float, split: str, variables: trees.Tree) -> str:
    """Says what is known of a loss that is not finite."""
    names = state.not_finite(variables)
    cause = "all parameters and statistics are finite, so the outputs overflow"
    if names:
        cause = f"{len(names)} variables hold NaN or infinity: {messages.some(names, quoted=False)}"
    return f"the loss on split {split!r} is {loss}: {cause}"
