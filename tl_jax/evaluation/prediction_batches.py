"""Computes what a network says of examples, batch by batch, while the next ones are read."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from tl_jax import processor, trees
from tl_jax.data.images import pixel_limit
from tl_jax.data.preprocess import evaluation_input
from tl_jax.data.views import ONE_VIEW, Views
from tl_jax.evaluation.prediction_inputs import Arrays, Unread
from tl_jax.evaluation.prediction_network import Network, TaskObjectives
from tl_jax.models.model import Model
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.training.evaluator import evaluation_outputs

_BATCH_SIZE = 32

ByTask = Mapping[str, Mapping[str, Any]]
"""Arrays of `TaskObjective.predictions` by task: of a batch, or one row of each."""
Compute = Callable[[Arrays], ByTask]


class Batches:
    """A network on its device, and its programs, which all predictors of the network share."""

    def __init__(self, network: Network, views: Views) -> None:
        """Compiles nothing yet.

        Args:
          network: the network.
          views: views of each image, over which its outputs are averaged.

        Raises:
          ValueError: if the images are too small for the views.
        """
        self._network = network
        self._uncropped = views.transform(network.preprocess)
        self._variables = jax.device_put(network.variables)
        options: dict[str, Any] = {
            "model": network.model,
            "views": views,
            "size": tuple(network.preprocess.size),
            "mean": tuple(network.preprocess.mean),
            "std": tuple(network.preprocess.std),
        }
        self._probabilities = functools.partial(_probabilities, **options)
        # What the outputs mean decides how they are averaged, and nothing else in the program.
        tasks = network.objectives if views != ONE_VIEW else ()
        self._outputs = functools.partial(_outputs, **options, tasks=tasks)

    def run(
        self, unread: Sequence[Unread], *, raises: bool, compute: Compute | None = None
    ) -> Iterator[tuple[Unread, Exception | None, ByTask | None]]:
        """Yields each example with its error, or what is said of it, in batches of one size.

        A batch is computed while the next ones are read and the last one is used. If errors are to
        be raised, the rest after one is only looked through, so that all bad images are named.

        Args:
          unread: the examples.
          raises: whether errors are to be raised.
          compute: what is computed of a batch; `predictions` by default.

        Raises:
          ValueError: if the variable of the limit on pixels is wrong (`pixel_limit.limit`).
        """
        pixel_limit.limit()  # A wrong variable is one error, and not a fault of every image.
        compute = compute or self.predictions
        batch_size = min(1 << (len(unread) - 1).bit_length(), _BATCH_SIZE) if unread else 0
        failed, before = False, tuple[Any, ...]()
        for chunk, rows in self._read(unread, batch_size):
            good = [row for row in rows if not isinstance(row, Exception)]
            failed |= raises and len(good) < len(rows)
            computing = None if failed or not good else compute(_filled(good, batch_size))
            if before:
                yield from _results(*before)
            before = (chunk, rows, computing)
        if before:
            yield from _results(*before)

    def _read(
        self, unread: Sequence[Unread], batch_size: int
    ) -> Iterator[tuple[Sequence[Unread], list[Arrays | Exception]]]:
        """Yields batches of examples with what was read; threads read the next batch meanwhile."""
        if len(unread) == 1:
            yield unread, [self._row(unread[0])]
            return
        chunks = [unread[i : i + batch_size] for i in range(0, len(unread), batch_size or 1)]
        pool = ThreadPoolExecutor(min(processor.num_cores(), max(len(unread), 1)))

        def begin(chunk: Sequence[Unread]) -> list[Future[Arrays | Exception]]:
            return [pool.submit(self._row, each) for each in chunk]

        try:
            ahead = begin(chunks[0]) if chunks else []
            for chunk, following in zip(chunks, [*chunks[1:], ()], strict=False):
                futures, ahead = ahead, begin(following)
                yield chunk, [future.result() for future in futures]
        finally:
            pool.shutdown(cancel_futures=True)

    def _row(self, each: Unread) -> Arrays | Exception:
        """Returns what the network takes of an example, or the error of reading it."""
        try:
            return each.read(self._uncropped)
        except (ValueError, TypeError, OSError) as error:
            return error

    def predictions(self, batch: Arrays) -> ByTask:
        """Returns what is said of a batch, by task."""
        if self._network.is_single_label and not self._network.is_calibrated:
            probabilities = self._probabilities(self._variables, batch["image"])
            return {self._network.tasks[0].name: {"probabilities": probabilities}}
        return _predictions(
            self._outputs(self._variables, batch), objectives=self._network.objectives
        )

    def attention(self, batch: Arrays) -> ByTask:
        """Returns the weights of each attention of the network, by the path of its module.

        Raises:
          ValueError: if there is none.
        """
        network = self._network
        transform = network.preprocess
        found = _attention(
            self._variables,
            batch,
            model=network.model,
            mean=tuple(transform.mean),
            std=tuple(transform.std),
        )
        if not found:
            raise ValueError(
                "no pooling or fusion of the network is attention; train one with "
                "inputs.pooling, scale_fusion or view_fusion 'attention'"
            )
        return {"attention": found}


def _filled(rows: Sequence[Arrays], batch_size: int) -> Arrays:
    """Returns a batch of examples, filled up with copies of the first."""
    filled = [*rows, *([rows[0]] * (batch_size - len(rows)))]
    return {key: np.stack([row[key] for row in filled]) for key in rows[0]}


def _results(
    chunk: Sequence[Unread], rows: Sequence[Arrays | Exception], computing: ByTask | None
) -> Iterator[tuple[Unread, Exception | None, ByTask | None]]:
    """Yields each example of a batch with its error, or its part of what was computed."""
    arrays, place = jax.device_get(computing), 0
    for each, row in zip(chunk, rows, strict=True):
        if isinstance(row, Exception):
            yield each, row, None
        elif arrays is None:
            yield each, None, None
        else:
            yield each, None, _row(arrays, place)
            place += 1


def _row(arrays: ByTask, place: int) -> ByTask:
    return {
        task: {name: array[place] for name, array in of_task.items()}
        for task, of_task in arrays.items()
    }


@functools.partial(jax.jit, static_argnames=("model", "views", "size", "mean", "std"))
def _probabilities(
    variables: trees.Tree,
    images: jax.Array,
    *,
    model: Model,
    views: Views,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> jax.Array:
    """Returns the probabilities [B, C] of images, uint8 [B, ...], that may be uncropped.

    It is a function of the module, so that it is compiled once for all predictors of a network.
    """
    batch = {"image": images}
    logits = evaluation_outputs(model, variables, batch, views=views, size=size, mean=mean, std=std)
    return jax.nn.softmax(logits)


@functools.partial(jax.jit, static_argnames=("model", "views", "size", "mean", "std", "tasks"))
def _outputs(
    variables: trees.Tree,
    batch: Mapping[str, jax.Array],
    *,
    model: Model,
    views: Views,
    size: tuple[int, int],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    tasks: TaskObjectives,
) -> Any:
    """Returns the outputs of a network for a batch; `tasks` only for several views."""
    objective = None
    if tasks:
        objective = tasks[0][1] if len(tasks) == 1 else MultiTask(dict(tasks))
    return evaluation_outputs(
        model, variables, batch, views=views, size=size, mean=mean, std=std, objective=objective
    )


@functools.partial(jax.jit, static_argnames="objectives")
def _predictions(outputs: Any, *, objectives: TaskObjectives) -> ByTask:
    """Returns the predictions of each task for the outputs of a network.

    It is a program of its own, so that runs with other thresholds share that of the network.
    """
    if len(objectives) == 1:
        [(name, objective)] = objectives
        return {name: objective.predictions(outputs)}
    return {name: objective.predictions(outputs[name]) for name, objective in objectives}


@functools.partial(jax.jit, static_argnames=("model", "mean", "std"))
def _attention(
    variables: trees.Tree,
    batch: Mapping[str, jax.Array],
    *,
    model: Model,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> dict[str, jax.Array]:
    """Returns the weights that `tl_jax.heads.attention_pooling` sows, with an axis of examples."""
    inputs, count = evaluation_input(batch, mean, std), len(batch["image"])
    _, sown = model.apply(variables, inputs, train=False, mutable=["intermediates"])
    found = {}
    for path, weights in trees.flatten(sown.get("intermediates", {})).items():
        *module, name = path
        for call, each in enumerate(weights if name == "attention" else ()):
            # Over space and scales the views of an example come one after the other.
            by_view = (count, -1, *each.shape[1:])
            of_scale = [str(call)] if len(weights) > 1 else []
            found[trees.dotted([*module, *of_scale])] = (
                each if len(each) == count else each.reshape(by_view)
            )
    return found
