"""What a run is made of, derived from its configuration and data alone."""

import dataclasses
import itertools
from collections.abc import Generator, Iterator
from importlib import metadata
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import Config
from tl_jax.data.augment import augment
from tl_jax.data.loading import device_batches, host_batches, order
from tl_jax.data.preprocess import Preprocess
from tl_jax.data.source import Source
from tl_jax.data.subset import Subset
from tl_jax.run import data, phases
from tl_jax.run import model as start
from tl_jax.run.data import RunInfo
from tl_jax.run.phases import Phase
from tl_jax.training import augmenting, evaluator, recalibrate, sharding, step
from tl_jax.training.state import TrainState
from tl_jax.weights.index import pretrained_config

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Data, network, starting variables, phases and devices of a run.

    Attributes:
      config: the experiment.
      train: the training split.
      held_out: the other splits by name.
      model: the network.
      preprocess: its evaluation transform.
      start: what training starts from.
      groups: group of every parameter.
      phases: of training.
      steps_per_epoch: steps of an epoch.
      mesh: devices.
      measure: evaluates variables on a split.
      info: what is recorded of the run.
    """

    config: Config
    train: Source
    held_out: dict[str, Source]
    model: nn.Module
    preprocess: Preprocess
    start: start.Start
    groups: dict[str, Any]
    phases: list[Phase]
    steps_per_epoch: int
    mesh: Mesh
    evaluator: evaluator.Measure
    info: RunInfo

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return self.phases[-1].last_epoch

    @property
    def description(self) -> str:
        """What was found, for people."""
        config, info = self.config, self.info
        counts = ", ".join(f"{count} {split}" for split, count in info.examples.items())
        height, width = info.preprocess.size
        lines = [
            f"data     {config.data.source}: {counts}; {len(info.class_names)} classes",
            f"model    {config.model.name}: {info.parameters:,} parameters, "
            f"images {height}x{width}",
            f"start    {info.weights or 'random weights'}",
        ]
        if info.weights is not None:
            trained_with = pretrained_config(config.model.name)
            lines += [f"warning  {each}" for each in info.preprocess.departures(trained_with)]
        if self.start.mapping is not None:
            lines.append(f"classes  {self.start.mapping}")
        for split, names in info.skipped.items():
            if names:
                lines.append(f"skipped  {len(names)} corrupt images of {split}: {', '.join(names)}")
        return "\n".join(lines)


def prepare(config: Config) -> Parts:
    """Opens the data, makes the network, and loads the weights that it starts from."""
    mesh = sharding.data_mesh()
    sharding.check_batch_size(config.data.batch_size, mesh)
    train = data.open_split(config, config.data.train_split)
    names = dict.fromkeys([config.data.eval_split, config.data.test_split])
    held_out = {name: data.open_split(config, name) for name in names if name}
    preprocess = data.preprocess_of(config)
    model = start.build_model(config, len(train.class_names))
    begun = start.begin(config, model, train, preprocess, mesh)
    groups = phases.grouped(config, model, start.stages(config, model))
    steps_per_epoch = max(1, round(len(train) / config.data.batch_size))
    return Parts(
        config=config,
        train=train,
        held_out=held_out,
        model=model,
        preprocess=preprocess,
        start=begun,
        groups=groups,
        phases=phases.phases(config, groups, begun.variables, steps_per_epoch),
        steps_per_epoch=steps_per_epoch,
        mesh=mesh,
        evaluator=measure_of(config, model, preprocess, mesh),
        info=_info(train, held_out, preprocess, begun),
    )


def measure_of(
    config: Config, model: nn.Module, preprocess: Preprocess, mesh: Mesh
) -> evaluator.Measure:
    """Returns what evaluates a network as configured."""
    return evaluator.Measure(
        model,
        preprocess,
        mesh=mesh,
        batch_size=config.data.batch_size,
        workers=config.data.workers,
        worker_type=config.data.worker_type,
        cache=config.data.cache,
    )


def _info(
    train: Source, held_out: dict[str, Source], preprocess: Preprocess, begun: start.Start
) -> RunInfo:
    sources = {train.split: train, **held_out}
    return RunInfo(
        class_names=tuple(train.class_names),
        preprocess=preprocess,
        weights=begun.weights,
        parameters=data.count_parameters(begun.variables["params"]),
        examples={split: len(source) for split, source in sources.items()},
        skipped={split: list(source.skipped) for split, source in sources.items()},
        subsets={
            split: dict(source.record)
            for split, source in sources.items()
            if isinstance(source, Subset)
        },
        versions={library: metadata.version(library) for library in _LIBRARIES},
    )


def compile_step(parts: Parts, phase: Phase, tx: optax.GradientTransformation) -> step.TrainStep:
    """Returns the compiled training step of a phase, with an optimizer of what it trains."""
    prepare = augmenting.prepare_of(parts.config.augment, parts.preprocess)
    mix = augmenting.mix_of(parts.config.augment)

    def keyed(seed_key: jax.Array, state: TrainState, batch: step.Batch) -> Any:
        made = step.make_train_step(
            parts.model,
            tx,
            phase.plan,
            prepare=prepare,
            seed_key=seed_key,
            label_smoothing=parts.config.train.label_smoothing,
            mix=mix,
            still=phase.still,
        )
        return made(state, batch)

    seed_key = jax.random.key(parts.config.train.seed)
    return sharding.jit_keyed_train_step(keyed, parts.mesh, seed_key)


def train_batches(parts: Parts, start_step: int) -> Generator[dict[str, jax.Array], None, None]:
    """Yields the batches of training from a step on, on their devices, without end."""
    options, seed = parts.config.data, parts.config.train.seed
    return device_batches.train_batches(
        parts.train,
        batch_size=options.batch_size,
        canvas=parts.preprocess.canvas,
        order=order.of_source(options.sampling, parts.train, seed=seed),
        sharding=sharding.sharded(parts.mesh),
        start_step=start_step,
        workers=options.workers,
        worker_type=options.worker_type,
        cache=options.cache,
        fast_jpeg=options.fast_jpeg,
        stretch_on=options.stretch_on,
    )


def recalibrated(parts: Parts, variables: dict[str, Any]) -> dict[str, Any]:
    """Returns variables with the BatchNorm statistics of the training images, where configured.

    The images are prepared as for evaluation. A last batch that is not whole is left out.
    """
    policies = phases.policies(parts.config, parts.groups)
    again = {group for group, policy in policies.items() if policy == "recalibrate"}
    labels = {path[:-1]: label for path, label in trees.flatten(parts.groups).items()}
    layers = {path[:-1] for path in trees.flatten(variables.get("batch_stats", {}))}
    names = sorted(trees.dotted(path) for path in layers if labels.get(path) in again)
    if not names:
        return variables
    return recalibrate.recalibrate(
        parts.model, variables, _whole_batches(parts), names=names, mesh=parts.mesh
    )


def recalibrates(config: Config, when: str) -> bool:
    """Says whether statistics are estimated anew "before" training, or "after" each epoch."""
    transfer = config.transfer
    modes = [transfer.batch_norm, *(group.batch_norm for group in transfer.groups)]
    return "recalibrate" in modes and transfer.recalibrate == when


def _whole_batches(parts: Parts) -> Iterator[jax.Array]:
    devices, count = parts.mesh.size, len(parts.train)
    size = min(parts.config.data.batch_size, count // devices * devices)
    if size == 0:
        raise ValueError(
            f"{count} training images do not fill {devices} devices; estimate the BatchNorm "
            "statistics on fewer of them"
        )
    batches = host_batches.eval_batches(
        parts.train,
        batch_size=size,
        preprocess=parts.preprocess,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=parts.config.data.workers,
        worker_type=parts.config.data.worker_type,
    )
    for batch in itertools.islice(batches, count // size):
        images = sharding.put_batch({"image": batch["image"]}, parts.mesh)["image"]
        yield augment.normalize(images, parts.preprocess.mean, parts.preprocess.std)
