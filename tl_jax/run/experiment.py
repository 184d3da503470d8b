"""An experiment: everything that a run needs, built from its configuration and data."""

import dataclasses
import itertools
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Self

import jax
import optax
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import Config
from tl_jax.data.augment import mixing
from tl_jax.data.augment.augment import make_augment_fn
from tl_jax.data.augment.mixing import make_mix_fn
from tl_jax.data.images import value_check
from tl_jax.data.inputs import moments
from tl_jax.data.loading import device_batches, host_batches, order
from tl_jax.data.preprocess import Preprocess, evaluation_input
from tl_jax.data.source import INPUT_KEYS, Source
from tl_jax.data.subset import Subset
from tl_jax.models.model import Model, abstract_inputs, new_parts
from tl_jax.objectives import metric_names
from tl_jax.objectives.objective import Objective
from tl_jax.objectives.single_label import SingleLabel
from tl_jax.run import data, defaults, describe, examples, objective, parallel, record, shared
from tl_jax.run.examples import Examples
from tl_jax.run.initial import Initial, initial_variables, read_weights, with_architecture
from tl_jax.run.model import build_model, stage_names
from tl_jax.run.objective import LabelStatistics
from tl_jax.run.phases import Phase, batch_norm_policies, group_parameters, make_phases
from tl_jax.run.record import RunInfo
from tl_jax.run.task_network import ExampleFacts
from tl_jax.training import optim, recalibrate, sharding, state, step
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.ema import averaged_params
from tl_jax.training.evaluator import Evaluator
from tl_jax.training.state import TrainState
from tl_jax.training.stopping import Stopping
from tl_jax.transfer import carry_over, freeze
from tl_jax.transfer.carry_over import MatchedOnly, ZeroShot


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Data, network, initial variables, phases and devices of a run.

    Attributes:
      config: the configuration, with explicit values in place of "auto".
      train: the training split.
      held_out: the other splits by name.
      model: the network.
      preprocess: its evaluation transform.
      initial: what training starts from.
      groups: group of every parameter.
      phases: the phases of training, in order.
      steps_per_epoch: steps of an epoch.
      mesh: devices that batches are split over.
      evaluator: evaluates variables on a split.
      info: the record of the run.
      examples: the examples of each split.
      objective: loss, metrics and predictions of the tasks.
      defaults: what was chosen for "auto" and why, a sentence each.
      notes: what is odd about the labels of the splits, a sentence each.
    """

    config: Config
    train: Source
    held_out: dict[str, Source]
    model: Model
    preprocess: Preprocess
    initial: Initial
    groups: dict[str, Any]
    phases: list[Phase]
    steps_per_epoch: int
    mesh: Mesh
    evaluator: Evaluator
    info: RunInfo
    examples: dict[str, Examples]
    objective: Objective
    defaults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Opens the data, builds the network and loads its initial variables; writes nothing."""
        config = with_architecture(config)
        mesh = parallel.make_mesh(config)
        all_splits = data.open_splits(config)
        notes = data.check_splits(config, all_splits)
        train = next(iter(all_splits.values()))
        held_out_names = dict.fromkeys([config.data.eval_split, config.data.test_split])
        held_out = {split: all_splits[split] for split in held_out_names if split}
        facts, statistics = _facts(config, train)
        measured = objective.make_objective(config, facts.tasks, statistics)
        listed = {
            split: examples.of_source(source, facts.tasks) for split, source in all_splits.items()
        }
        shared.check_data(listed)
        weights = read_weights(config)
        trained_with = None if weights is None else weights.config
        preprocess = dataclasses.replace(
            data.preprocess_of(config, trained_with), value_range=train.value_range
        )
        model = build_model(
            config,
            len(train.class_names),
            pretrained_classes=None if trained_with is None else trained_with.num_classes,
            network_fields=None if weights is None else weights.record.network_fields,
            examples=facts,
        )
        initial = initial_variables(config, model, train, preprocess, mesh, weights=weights)
        decided = defaults.resolve(
            config, has_batch_norm=bool(initial.variables.get("batch_stats"))
        )
        config = decided.config
        groups = group_parameters(config, model, stage_names(config, model))
        steps_per_epoch = max(1, round(len(train) / config.data.batch_size))
        return cls(
            config=config,
            train=train,
            held_out=held_out,
            model=model,
            preprocess=preprocess,
            initial=initial,
            groups=groups,
            phases=make_phases(config, groups, initial.variables, steps_per_epoch),
            steps_per_epoch=steps_per_epoch,
            mesh=mesh,
            evaluator=_evaluator(config, model, preprocess, mesh, measured),
            info=dataclasses.replace(
                _record(
                    config, model, preprocess, initial, all_splits, listed, decided.values, mesh
                ),
                tasks=facts.tasks,
                inputs=facts.inputs,
                label_statistics=statistics,
                numeric_mean=facts.numeric_mean,
                numeric_std=facts.numeric_std,
            ),
            examples=listed,
            objective=measured,
            defaults=decided.notes,
            notes=notes,
        )

    def check(self) -> None:
        """Raises what the first step would, where it can be known without computing one."""
        objective.check_metric(self.config, self.objective)
        self.stopping  # noqa: B018  Its construction checks patience and target.
        order.make_order(self.config.data.sampling, self.train, seed=self.config.train.seed)
        make_augment_fn(self.config.augment, self.preprocess)
        make_mix_fn(self.config.augment)
        mixing.check_inputs(self.config.augment, self.train.inputs)
        objective.check_mixing(self.config.augment, self.objective)
        self._division()
        shape = (self.config.data.batch_size, *self.preprocess.size, 3)
        jax.eval_shape(
            lambda variables, inputs: self.model.apply(variables, inputs, train=False),
            self.initial.variables,
            abstract_inputs(self.model, shape),
        )

    @property
    def num_epochs(self) -> int:
        """Epochs of all phases together."""
        return self.phases[-1].end_epoch

    @property
    def first_held_out(self) -> Source:
        """The split that is evaluated after each epoch, or else the one of the report."""
        return next(iter(self.held_out.values()))

    @property
    def stopping(self) -> Stopping:
        """The rule of early stopping: patience counts in the last phase only, a target in all."""
        options = self.config.train
        return Stopping(
            options.best_metric,
            patience=options.patience,
            patience_from=self.phases[-1].start_epoch,
            target=options.target,
            lower_is_better=metric_names.metric(options.best_metric).lower_is_better,
        )

    @property
    def description(self) -> str:
        """The first lines of the run: data, network, weights, decisions and devices."""
        return describe.describe_start(
            self.config,
            self.info,
            splits=[self.train, *self.held_out.values()],
            labels=self.examples[self.train.split].labels,
            initial=self.initial,
            defaults=self.defaults,
            mesh=self.mesh,
            notes=self.notes,
        )

    def train_batches(self, start_step: int) -> Generator[dict[str, jax.Array], None, None]:
        """Yields the training batches from a step on, on their devices, without end."""
        return device_batches.train_batches(
            self.train,
            data.load_options(self.config.data),
            canvas=self.preprocess.canvas,
            order=order.make_order(
                self.config.data.sampling, self.train, seed=self.config.train.seed
            ),
            sharding=sharding.sharded(self.mesh),
            start_step=start_step,
        )

    def compile_step(
        self, phase: Phase, tx: optax.GradientTransformation | None = None
    ) -> step.TrainStep:
        """Returns the compiled training step of a phase.

        Args:
          phase: the phase.
          tx: optimizer of the parameters that the phase trains; None for the phase's own.
        """
        tx = phase.tx if tx is None else tx
        augment_fn = make_augment_fn(self.config.augment, self.preprocess)
        mix_fn = make_mix_fn(self.config.augment)
        division = self._division()

        def keyed_step(
            seed_key: jax.Array, current: TrainState, batch: step.Batch
        ) -> tuple[TrainState, step.Metrics]:
            train_step = step.make_train_step(
                division.model,
                tx,
                phase.plan,
                augment_fn=augment_fn,
                seed_key=seed_key,
                mix_fn=mix_fn,
                fixed_statistics=phase.fixed_statistics,
                log_grad_norm=self.config.train.log_grad_norm,
                objective=self.objective,
                skip_not_finite=self.config.train.on_divergence == "skip",
                accumulate=division.accumulate,
                rematerialise=division.rematerialise,
                around=division.around,
                reduce=division.reduce,
            )
            return train_step(current, batch)

        seed_key = jax.random.key(self.config.train.seed)
        return sharding.jit_keyed_train_step(
            keyed_step, self.mesh, seed_key, state=self._layouts(phase, tx)
        )

    def begin(self, phase: Phase, before: TrainState | None) -> TrainState:
        """Returns the first state of a phase.

        Parameters that the previous phase also trained keep their optimizer state.

        Args:
          phase: the phase.
          before: the last state of the previous phase; None for the first phase.
        """
        if before is None:
            variables = self.initial.variables
            if self._recalibrates("before"):
                variables = self._recalibrated(variables)
            first = state.create(variables, phase.tx, phase.plan)
        else:
            first = state.create(before.variables, phase.tx, phase.plan, int(before.step))
            first = first.replace(opt_state=optim.carry_over(before.opt_state, first.opt_state))
        return self.place(first)

    def place(self, train_state: TrainState) -> TrainState:
        """Copies a state to all devices, divided over them as `parallel.fsdp` says.

        It never aliases, because a step donates its state and not what it was made from.
        """
        return sharding.put(train_state, sharding.layouts(self.mesh, train_state))

    def abstract(self, train_state: TrainState) -> TrainState:
        """Returns a state of abstract arrays as it lies on the devices, to be restored."""
        return jax.tree.map(
            lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
            train_state,
            sharding.layouts(self.mesh, train_state),
        )

    def _division(self) -> parallel.Division:
        """Returns how a training step is divided over devices and what it computes again."""
        return parallel.divide(
            self.config, self.model, self.initial.variables, self.mesh, self.preprocess.size
        )

    def _layouts(self, phase: Phase, tx: optax.GradientTransformation) -> TrainState | None:
        """Returns the shardings of the state of a phase; None where every device has all of it."""
        if self.config.parallel.fsdp == 1:
            return None
        like = jax.eval_shape(
            lambda variables: state.create(variables, tx, phase.plan), self.initial.variables
        )
        return sharding.layouts(self.mesh, like)

    def restore(self, checkpoints: Checkpoints, saved_step: int) -> TrainState:
        """Returns the state of a checkpoint, to continue from."""
        is_within = checkpoints.saved(saved_step).within is not None
        epoch = self.epoch_of(checkpoints, saved_step) + is_within
        phase = next(p for p in self.phases if p.start_epoch < epoch <= p.end_epoch)
        like = jax.eval_shape(
            lambda variables: state.create(variables, phase.tx, phase.plan),
            self.initial.variables,
        )
        return checkpoints.restore(saved_step, self.abstract(like))

    def epoch_of(self, checkpoints: Checkpoints, saved_step: int) -> int:
        """Returns the number of epochs done at a checkpoint."""
        return checkpoints.saved(saved_step).epochs_done(saved_step, self.steps_per_epoch)

    def variables_to_evaluate(self, phase: Phase, train_state: TrainState) -> dict[str, Any] | None:
        """Returns the variables to evaluate and to keep, or None if they are those of the state.

        They differ if parameters are averaged or statistics are recalibrated after each epoch.
        """
        uses_ema = self.config.train.ema > 0
        recalibrates = self._recalibrates("after")
        if not (uses_ema or recalibrates):
            return None
        variables = train_state.variables
        if uses_ema:
            _, frozen = freeze.split(phase.plan, train_state.params)
            params = trees.merge(averaged_params(train_state.opt_state), frozen)
            variables = {**variables, "params": params}
        return self._recalibrated(variables) if recalibrates else variables

    def zero_shot(self) -> ZeroShot | None:
        """Evaluates the carried-over classifier before any training.

        Returns:
          Its accuracy on `first_held_out`; None unless `transfer.classifier` is "load" and at least
          one new class is mapped to a pretrained one.
        """
        mapping = self.initial.mapping
        if self.config.transfer.classifier != "load" or mapping is None or not mapping.matched:
            return None
        matched_only = MatchedOnly(self.model, mapping)
        plain = SingleLabel(len(self.train.class_names))
        evaluator = _evaluator(self.config, matched_only, self.preprocess, self.mesh, plain)
        _, confusion = evaluator(self.initial.variables, self.first_held_out)
        return carry_over.zero_shot(confusion, mapping)

    def _recalibrates(self, when: str) -> bool:
        """Returns whether statistics are recalibrated "before" training, or "after" each epoch."""
        transfer = self.config.transfer
        policies = [transfer.batch_norm, *(group.batch_norm for group in transfer.groups)]
        return "recalibrate" in policies and transfer.recalibrate == when

    def _recalibrated(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Returns variables with BatchNorm statistics of the training images, where configured."""
        policies = batch_norm_policies(self.config, self.groups)
        group_of_layer = {path[:-1]: group for path, group in trees.flatten(self.groups).items()}
        layers = {path[:-1] for path in trees.flatten(variables.get("batch_stats", {}))}
        names = sorted(
            trees.dotted(path)
            for path in layers
            if path in group_of_layer and policies[group_of_layer[path]] == "recalibrate"
        )
        if not names:
            return variables
        return recalibrate.recalibrate(
            self.model, variables, self._recalibration_batches(), names=names, mesh=self.mesh
        )

    def _recalibration_batches(self) -> Iterator[Any]:
        """Returns the training examples in full batches, prepared as for evaluation."""
        num_devices, num_images = self.mesh.size, len(self.train)
        batch_size = min(self.config.data.batch_size, num_images // num_devices * num_devices)
        if batch_size == 0:
            raise ValueError(
                f"{num_images} training images do not fill {num_devices} devices, so BatchNorm "
                "statistics cannot be recalibrated; run on fewer devices"
            )
        options = data.load_options(self.config.data)
        batches = host_batches.host_eval_batches(
            self.train,
            dataclasses.replace(options, batch_size=batch_size, cache="none"),
            preprocess=self.preprocess,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        seen = ("image", "view_mask", *INPUT_KEYS)
        on_devices = (
            sharding.put_batch({name: batch[name] for name in seen if name in batch}, self.mesh)
            for batch in itertools.islice(batches, num_images // batch_size)
        )
        mean, std = self.preprocess.mean, self.preprocess.std
        return (evaluation_input(batch, mean, std) for batch in on_devices)


def _facts(config: Config, train: Source) -> tuple[ExampleFacts, tuple[LabelStatistics, ...]]:
    """Returns what the training split says of the network, and of the labels of each task."""
    tasks, inputs = data.learned_tasks(config, train), train.inputs
    mean, std = tuple[float, ...](), tuple[float, ...]()
    if inputs.numeric:
        mean, std = moments(train.input_arrays()["numeric"])
    # A source may have to read its examples for the labels of more tasks than are learned.
    labels = train.task_labels() if len(tasks) > 1 else {"label": train.labels()}
    facts = ExampleFacts(tasks, inputs, mean, std)
    return facts, objective.label_statistics(tasks, labels)


def _record(
    config: Config,
    model: Model,
    preprocess: Preprocess,
    initial: Initial,
    splits: Mapping[str, Source],
    listed: Mapping[str, Examples],
    resolved: dict[str, Any],
    mesh: Mesh,
) -> RunInfo:
    params = initial.variables["params"]
    train = next(iter(splits.values()))
    return RunInfo(
        class_names=tuple(train.class_names),
        preprocess=preprocess,
        weights=initial.weights,
        parameters=describe.count_parameters(params),
        examples={split: len(source) for split, source in splits.items()},
        skipped={split: list(source.skipped) for split, source in splits.items()},
        subsets={
            split: dict(source.record)
            for split, source in splits.items()
            if isinstance(source, Subset)
        },
        versions=record.versions(mesh),
        digests={split: each.digest for split, each in listed.items()},
        head={
            trees.dotted(path): list(leaf.shape)
            for path, leaf in trees.flatten(params).items()
            if any(trees.is_under(trees.dotted(path), part) for part in new_parts(model))
        },
        resolved=resolved,
        warnings=(
            *value_check.value_warnings(train, config.data.value_range),
            *examples.overlaps(listed, train.split),
            *(
                f"{option} is {train.split!r}, the training split: its metrics measure what was "
                "trained on"
                for option in ("data.eval_split", "data.test_split")
                if getattr(config.data, option.removeprefix("data.")) == train.split
            ),
        ),
    )


def _evaluator(
    config: Config, model: Model, preprocess: Preprocess, mesh: Mesh, measured: Objective
) -> Evaluator:
    options = data.load_options(config.data)
    return Evaluator(model, preprocess, mesh=mesh, load_options=options, objective=measured)
