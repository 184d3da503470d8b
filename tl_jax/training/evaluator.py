"""One pass of evaluation over a split, in which every example counts once."""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tl_jax import messages, trees
from tl_jax.data.loading import device_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.preprocess import Preprocess, evaluation_input
from tl_jax.data.source import Source
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.objectives.metrics import Counts
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import MASK, Objective, Rows, loss_sum
from tl_jax.objectives.ordinal import Ordinal
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.training import ahead, sharding, state, step
from tl_jax.training.view_average import average_outputs


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What one pass over a split measured.

    Attributes:
      metrics: of the objective, JSON values.
      statistics: the rows of all examples, from which the metrics were computed
        (`Objective.statistics`); filling is among them, where `mask` is False.
      objective: what was measured.
    """

    metrics: dict[str, Any]
    statistics: Rows
    objective: Objective

    @property
    def confusion(self) -> Counts | dict[str, Counts] | None:
        """The confusion matrix of classes or levels, [C, C], true by predicted class.

        Beyond 2,000 classes the counts by class take its place. Of several tasks it is a dict of
        those that have one; None for a single task that has none.
        """
        if isinstance(self.objective, MultiTask):
            of_tasks = {
                name: _confusion(task, self.objective.task_statistics(self.statistics, name))
                for name, task in self.objective.tasks.items()
            }
            return {name: counts for name, counts in of_tasks.items() if counts is not None}
        return _confusion(self.objective, self.statistics)


def _confusion(objective: Objective, statistics: Rows) -> Counts | None:
    if isinstance(objective, SingleLabel | Ordinal):
        return objective.confusion(statistics)
    return None


class Evaluator:
    """Evaluates a network on splits; compiled once, for all variables and splits.

    Attributes:
      step: the compiled step, `step(variables, batch)` -> statistics of the batch.
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
        objective: Objective | None = None,
    ) -> None:
        """Sets up the evaluator; its first call compiles.

        Args:
          model: the network.
          preprocess: its evaluation transform.
          mesh: devices that the batches are split over.
          load_options: how images are read; a cache keeps the prepared images of each split for
            the next pass.
          views: views of each image; the network's outputs are averaged over them.
          objective: what is measured; None for one class per example.
        """
        self._preprocess = views.transform(preprocess)
        batch_size = sharding.divisible(load_options.batch_size, mesh)
        self._mesh, self._objective = mesh, objective
        self._load_options = dataclasses.replace(load_options, batch_size=batch_size)
        self._batches: dict[str, device_batches.DeviceEvalBatches] = {}

        def outputs_fn(variables: trees.Tree, batch: step.Batch) -> Any:
            return evaluation_outputs(
                model,
                variables,
                batch,
                views=views,
                size=preprocess.size,
                mean=preprocess.mean,
                std=preprocess.std,
                objective=objective,
            )

        self._outputs_fn = outputs_fn
        self.step = sharding.jit_eval_step(step.make_statistics_step(outputs_fn, objective), mesh)

    def batches(self, source: Source) -> Iterable[step.Batch]:
        """Returns the batches of one pass over a split, which are kept under its name."""
        if source.split not in self._batches:
            self._batches[source.split] = device_batches.eval_batches(
                source,
                self._load_options,
                preprocess=self._preprocess,
                sharding=sharding.sharded(self._mesh),
            )
        return self._batches[source.split]

    def __call__(self, variables: trees.Tree, source: Source) -> tuple[dict[str, Any], Any]:
        """Returns the metrics of a split, and its confusion matrix [C, C], true by predicted class.

        Arguments, errors and the second result are those of `evaluate` and `Evaluation.confusion`.
        """
        evaluation = self.evaluate(variables, source)
        return evaluation.metrics, evaluation.confusion

    def evaluate(
        self,
        variables: trees.Tree,
        source: Source,
        *,
        costly: Collection[str] | None = None,
        after_batch: Callable[[], None] | None = None,
    ) -> Evaluation:
        """Passes once over a split.

        Args:
          variables: params and batch_stats of the network.
          source: the split. Its batches are kept under its name, `source.split`, so one evaluator
            is for the splits of one data set.
          costly: the costly metrics that are needed, as in `Objective.metrics`; None for all.
          after_batch: called after each batch; what it raises ends the pass.

        Raises:
          FloatingPointError: if the loss is not finite, so that the predictions mean nothing.
          ValueError: if the split has no examples.
          RuntimeError: if not every example was counted exactly once.
        """
        if not len(source):
            raise ValueError(f"split {source.split!r} has no examples, so nothing can be measured")
        rows = self._rows(variables, source, after_batch or (lambda: None))
        num_counted = int(rows[MASK].sum())
        if num_counted != len(source):
            raise RuntimeError(
                f"evaluation counted {num_counted} of the {len(source)} examples of split "
                f"{source.split!r}: the loader dropped or repeated some, which is a bug"
            )
        objective = self._objective or SingleLabel(self._num_outputs(variables, source, rows))
        loss = _total_loss(objective, rows)
        if not math.isfinite(loss):
            raise FloatingPointError(_explain(loss, source.split, variables))
        return Evaluation(objective.metrics(rows, costly=costly), rows, objective)

    def _num_outputs(self, variables: trees.Tree, source: Source, rows: Rows) -> int:
        """Returns the number of classes, where no objective says it."""
        if "logits" in rows:
            return int(rows["logits"].shape[-1])
        batch = next(iter(self.batches(source)))
        return int(jax.eval_shape(self._outputs_fn, variables, batch).shape[-1])

    def _rows(self, variables: trees.Tree, source: Source, after_batch: Callable[[], None]) -> Rows:
        """Returns the statistics of all batches, fetched while later ones are computed."""
        variables = sharding.whole(variables)
        fetched, steps = list[Rows](), ahead.StepsAhead()
        under_way = collections.deque[step.Metrics]()
        for batch in self.batches(source):
            under_way.append(self.step(variables, batch))
            steps.add(under_way[-1])
            if len(under_way) > ahead.STEPS_AHEAD:
                fetched.append(jax.device_get(under_way.popleft()))
            after_batch()
        fetched += jax.device_get(list(under_way))
        self.compiled = True
        return {name: np.concatenate([part[name] for part in fetched]) for name in fetched[0]}


def _total_loss(objective: Objective, rows: Rows) -> float:
    """Returns the sum of all losses, in 64 bits; of several tasks those of all of them."""
    if isinstance(objective, MultiTask):
        return sum(loss_sum(objective.task_statistics(rows, name)) for name in objective.tasks)
    return loss_sum(rows)


def evaluation_outputs(
    model: Model,
    variables: trees.Tree,
    batch: step.Batch,
    *,
    views: Views,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    objective: Objective | None = None,
) -> Any:
    """Returns the outputs of a network in evaluation mode for a batch, averaged over views.

    Args:
      model: the network.
      variables: its params and batch_stats.
      batch: "image", uint8, prepared by the network's transform and uncropped where the views are
        crops, and the other inputs of `tl_jax.data.preprocess.evaluation_input`.
      views: views of each image, over which outputs are averaged; of single images alone, with
        or without other inputs beside them.
      size: height and width of a view.
      mean, std: of the channels, on the scale where white is 1.
      objective: what the outputs mean (`average_outputs`); None for one class per example.

    Raises:
      ValueError: if there are several views, and an example is more than one image.
    """
    inputs = evaluation_input(batch, mean, std)
    network = functools.partial(layers.folded(model.apply), variables, train=False)
    if views == ONE_VIEW:
        return network(inputs)
    images, others = inputs, dict[str, jax.Array]()
    if isinstance(inputs, dict):
        images, others = inputs["image"], {k: x for k, x in inputs.items() if k != "image"}
    if images.ndim != 4:
        raise ValueError(
            "got several views of each image for a network that takes more than one image; leave "
            "views out"
        )
    return views.logits(
        lambda x: network({"image": x, **others} if others else x),
        images,
        size,
        average_fn=lambda outputs, of: average_outputs(outputs, objective, of),
    )


def _explain(loss: float, split: str, variables: trees.Tree) -> str:
    """Says what is known of a loss that is not finite."""
    names = state.not_finite(variables)
    cause = "all parameters and statistics are finite, so the outputs overflow"
    if names:
        cause = f"{len(names)} variables hold NaN or infinity: {messages.some(names, quoted=False)}"
    return f"the loss on split {split!r} is {loss}: {cause}"
