"""The folder of a run: its files, the configuration that owns it, and how a run is loaded."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from tl_jax import config as configuration
from tl_jax import distributed, files, trees
from tl_jax.config import Config, changes
from tl_jax.models import weights_reader
from tl_jax.models.model import Model
from tl_jax.models.variables import abstract_variables
from tl_jax.objectives import metric_names
from tl_jax.objectives.objective import Objective
from tl_jax.run import calibrate, data, examples, lock, record, shared
from tl_jax.run.examples import Examples
from tl_jax.run.model import build_model
from tl_jax.run.objective import LabelStatistics, make_objective
from tl_jax.run.progress import log
from tl_jax.run.record import RunInfo
from tl_jax.run.stops import StoppedError
from tl_jax.training import checkpoint_folder, sharding
from tl_jax.training.arrays import abstract
from tl_jax.training.checkpoint import Checkpoints
from tl_jax.training.checkpoint_folder import Saved
from tl_jax.training.state import TrainState

__all__ = ["Run", "RunFolder", "RunInfo", "is_run", "load_run", "write_run"]

T = TypeVar("T")


class RunFolder:
    """The folder of one run, and its files.

    Attributes:
      path: the folder.
    """

    def __init__(self, path: str | Path) -> None:
        """Does not touch the file system.

        Raises:
          ValueError: if the path is an address such as "gs://...".
        """
        self.path = files.user_path(path)
        if files.is_address(path):
            raise ValueError(
                f"got {path} as the folder of a run; expected one on this machine, or mounted on "
                "it: a run appends to its files, which such an address does not allow"
            )
        self._config_file = self.path / "config.json"
        self._info_file = self.path / "run.json"
        self._examples_file = self.path / "examples.json.gz"
        self._report_file = self.path / "report.json"
        self._calibration_file = self.path / "calibration.json"
        self._checkpoints = self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        """Whether the folder holds a run, finished or not."""
        return self._config_file.is_file() and not weights_reader.is_checkpoint_folder(self.path)

    @property
    def has_checkpoints(self) -> bool:
        """Whether the folder has a folder of checkpoints; a checkpoint in it may be incomplete."""
        return self._checkpoints.is_dir()

    def newest(self) -> tuple[int, Saved] | None:
        """Returns the newest whole checkpoint: its step, and what it says of itself; only reads."""
        return checkpoint_folder.newest(self._checkpoints)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder's lock (`lock.locked`) during the block; process 0 takes it.

        An error of one process ends the others too, with its message.

        Raises:
          FolderInUseError, OSError: in all processes, as of `lock.locked`.
          ValueError: in all processes, if one of them does not have the same folder.
        """
        with distributed.telling(but=StoppedError), contextlib.ExitStack() as stack:
            distributed.first(lambda: stack.enter_context(lock.locked(self.path)))
            shared.check_shared(self.path)
            yield

    def check(self, config: Config) -> Config | None:
        """Checks that a run of a configuration can begin or go on in the folder; only reads.

        What `config.changes` lists may differ from the run in the folder. A run that has saved no
        checkpoint may be replaced by any other.

        Returns:
          The configuration of the run in the folder, or None if there is none yet.

        Raises:
          ValueError: if the folder holds a run of another configuration (the message lists the
            differences), a damaged one, or other files; or if the processes do not have the same
            configuration.
        """
        shared.check_config(config)
        jax.devices()  # All processes start theirs together, and the check below asks for them.
        existing = distributed.first(lambda: _as_text(self._check(config)))
        return None if existing is None else configuration.from_json(existing)

    def _check(self, config: Config) -> Config | None:
        if not self.is_run:
            if self.path.is_dir() and not all(map(_is_left_over, self.path.iterdir())):
                raise ValueError(
                    f"{self.path} is not empty and holds no run; take another --workdir"
                )
            return None
        if not self._has_results:
            log(f"{self.path} holds a run that has saved nothing yet; training begins anew")
            return None
        existing = self.read_config()
        refused = self._refused(existing, config)
        if refused:
            lines = configuration.differences(existing, config)
            listed = [line for line in lines if line.partition(":")[0] in refused]
            listing = "\n  ".join(listed)
            names = [line.partition(":")[0] for line in listed]
            advice = "take another --workdir, or delete the folder"
            if self._goes_on(existing):
                values = changes.as_options(existing, names)
                advice += f"; or go on with the run in it, with its values:\n  {values}"
            raise ValueError(
                f"{self.path} holds a run of another configuration (there != here):\n"
                f"  {listing}\n{advice}"
            )
        return existing

    def _goes_on(self, existing: Config) -> bool:
        """Whether the run in the folder is finished, or this version can go on with it."""
        if self._report_file.exists() or not self._info_file.exists():
            return True
        try:
            return not record.is_divided_otherwise(existing, self.read_info())
        except (OSError, ValueError):  # The data are gone; their absence has its own message.
            return True

    @property
    def _has_results(self) -> bool:
        """Whether the folder holds a report or a checkpoint, be it damaged."""
        saved = self._checkpoints.iterdir() if self._checkpoints.is_dir() else ()
        return self._report_file.exists() or any(
            each.name[0].isdigit() and "tmp" not in each.name for each in saved
        )

    def _refused(self, existing: Config, config: Config) -> set[str]:
        """Returns the options that differ and must not."""
        info = self.read_info() if self._info_file.exists() else None
        allowed = changes.FREE | changes.LENGTH
        if info is not None and info.digests:  # What lies at another place can be compared.
            allowed |= changes.PLACES
        chosen = changes.with_values(existing, info.resolved if info is not None else {})
        refused = changes.changed(existing, config) & changes.changed(chosen, config)
        # Devices and hosts stretch images with slightly different results.
        platforms = {device.platform for device in jax.devices()}
        if len({
            data.load_options(each.data).stretches_on_device(platforms)
            for each in (existing, config)
        }) > 1:  # fmt: skip
            allowed -= {"data.cache", "data.stretch_on"}
        return refused - allowed

    def finished(self, config: Config) -> dict[str, Any] | None:
        """Returns the report if the folder holds a finished run of a configuration, else None.

        What lies at another place than before may be something else, so it is no such run yet.
        """
        return self.read_report() if distributed.first(lambda: self._is_finished(config)) else None

    def _is_finished(self, config: Config) -> bool:
        if self.read_report() is None or not self.is_run or not self._info_file.exists():
            return False
        differing = changes.changed(self.read_config(), config)
        return not differing & (changes.LENGTH | changes.PLACES)

    def read_examples(self) -> dict[str, Examples]:
        """Reads the run's examples by split; {} if there is no list of them."""
        return examples.read(self._examples_file)

    def compare(self, config: Config, info: RunInfo, examples_now: Mapping[str, Examples]) -> None:
        """Checks that a run goes on with the data and the weights that it was begun with.

        Args:
          config: the configuration of the run.
          info: the record that it would have now.
          examples_now: the examples that it would have now, by split.

        Raises:
          ValueError: if not; the message names each difference.
        """
        if not self._info_file.exists():
            log(f"note: {self._info_file} is missing; nothing says whether the data are the same")
            return
        before = self.read_info()
        remedy = "restore them, or take another --workdir for a new run"
        lines = record.differences(before, info, self.read_examples(), examples_now)
        if record.is_divided_otherwise(config, before):
            lines.append(
                "the held-out images: an earlier version of tl_jax chose others of this set, which "
                "has no splits of its own"
            )
            remedy = (
                "take another --workdir for a new run, or end this one with the version that began "
                "it; predict and export take its best checkpoint as it is"
            )
        if lines:
            listing = "\n  ".join(lines)
            raise ValueError(
                f"{self.path} holds a run of other data or weights than those found now:\n"
                f"  {listing}\n{remedy}"
            )
        if not before.digests:
            log(
                f"note: {self._info_file} of an earlier version has no list of examples; only the "
                "classes and the numbers of images were compared"
            )
        for note in record.version_notes(before, info):
            log(f"note: the run was begun with other libraries or settings: {note}")

    def claim(
        self, config: Config, info: RunInfo, examples_now: Mapping[str, Examples] | None = None
    ) -> None:
        """Makes the folder that of a run, before its first step or before it goes on.

        Args:
          config: its configuration.
          info: its record.
          examples_now: its examples by split; None writes no list of them.

        Raises:
          ValueError: if the record differs between the processes: other data, weights or libraries.
          OSError: if the folder cannot be written to.
        """
        shared.check_info(info)
        distributed.first(lambda: self._claim(config, info, examples_now))

    def _claim(
        self, config: Config, info: RunInfo, examples_now: Mapping[str, Examples] | None
    ) -> None:
        try:
            for each in self.path.glob("*.part"):  # Of a process that was killed as it wrote.
                each.unlink(missing_ok=True)
            for each in (self._report_file, self._calibration_file):  # Those of fewer epochs.
                each.unlink(missing_ok=True)
            if examples_now is not None:
                examples.write(self._examples_file, examples_now)
            self.write_info(info)
            files.write_text(self._config_file, configuration.to_json(config))
        except OSError as error:
            raise OSError(
                f"the folder {self.path} cannot be written to ({error.strerror}); make it writable "
                "and make room on its disk, or take another --workdir"
            ) from error

    def read_config(self) -> Config:
        """Reads the run's configuration.

        Raises:
          ValueError: if the file is damaged, or of a version with other fields.
        """
        remedy = (
            "restore it from a copy (the same train command in another --workdir writes the same "
            "file), or take another --workdir"
        )
        return self._read(self._config_file, configuration.from_json, remedy)

    def read_info(self) -> RunInfo:
        """Reads the run's record.

        Raises:
          ValueError: as `read_config`.
          FileNotFoundError: if there is none.
        """
        remedy = (
            "restore it from a copy; or, if data and weights are as they were, delete it: the "
            "train command of this run writes it again"
        )
        if not self._info_file.exists():
            raise FileNotFoundError(
                f"{self._info_file} is missing, which says what the classes are; the train command "
                "of this run writes it again"
            )
        return self._read(self._info_file, RunInfo.from_json, remedy)

    def write_info(self, info: RunInfo) -> None:
        """Writes the run's record."""
        files.write_text(self._info_file, info.to_json())

    def read_report(self) -> dict[str, Any] | None:
        """Reads the report, or returns None if the run is not finished.

        Raises:
          ValueError: if the file is damaged.
        """
        if not self._report_file.exists():
            return None
        remedy = "delete it: the train command of this run writes it again"
        return self._read(self._report_file, _report, remedy)

    def write_report(self, report: dict[str, Any]) -> None:
        """Writes the report."""
        files.write_text(self._report_file, files.json_text(report, indent=2) + "\n")

    def read_calibration(self) -> calibrate.Chosen:
        """Reads what was chosen after training, of the report or as it was written; {} if nothing.

        Raises:
          ValueError: if a file is damaged.
        """
        report = self.read_report()
        if report is not None:
            return dict(report.get("calibration", {}))  # Reports of earlier versions have none.
        if not self._calibration_file.exists():
            return {}
        remedy = "delete it, or write the run again"
        return self._read(self._calibration_file, files.parse_json, remedy)

    def write_calibration(self, chosen: calibrate.Chosen) -> None:
        """Writes what was chosen for variables that were not trained here, such as a soup's."""
        files.write_text(self._calibration_file, files.json_text(chosen, indent=2) + "\n")

    def _read(self, path: Path, parse: Callable[[str], T], remedy: str) -> T:
        try:
            return parse(path.read_text(encoding="utf-8"))
        except ValueError as error:  # Also of bytes that are no UTF-8.
            raise ValueError(
                f"{path} is damaged, or another version of tl_jax wrote it: {error}; {remedy}"
            ) from error

    def open_checkpoints(self, config: Config, *, read_only: bool = False) -> Checkpoints:
        """Opens the run's checkpoints, kept and compared as configured."""
        is_evaluated = config.data.eval_split is not None
        return Checkpoints(
            self._checkpoints,
            keep=config.train.keep,
            keep_every=config.train.keep_every,
            best_metric=config.train.best_metric if is_evaluated else None,
            lower_is_better=metric_names.metric(config.train.best_metric).lower_is_better,
            read_only=read_only,
        )


def _as_text(config: Config | None) -> str | None:
    return None if config is None else configuration.to_json(config)


def _is_left_over(path: Path) -> bool:
    """Returns whether a file is what a killed process leaves in a folder that was no run yet."""
    return path.name in lock.FILES or path.suffix == ".part"


def _report(text: str) -> dict[str, Any]:
    report = files.parse_json(text)
    if not isinstance(report, dict) or not {"epochs", "metrics"} <= report.keys():
        raise ValueError("it is no report of a run")
    return report


@dataclasses.dataclass(frozen=True)
class Run:
    """A run's network with the variables of its best checkpoint.

    Attributes:
      config: its configuration.
      info: its classes, preprocessing and weights.
      model: the network.
      variables: params and batch_stats of the checkpoint.
      step: training step of the checkpoint.
      calibration: temperatures and thresholds that were chosen for them, by task
        (`tl_jax.run.calibrate`); {} before the end of training.
    """

    config: Config
    info: RunInfo
    model: Model
    variables: dict[str, Any]
    step: int
    calibration: calibrate.Chosen = dataclasses.field(default_factory=dict)

    @property
    def calibrated(self) -> Objective:
        """The run's objective with the temperatures and thresholds that were chosen."""
        return calibrate.apply(self.objective, self.calibration)

    @property
    def objective(self) -> Objective:
        """The run's objective: what its outputs mean, and how they are measured."""
        tasks = self.info.example_facts.tasks
        # Earlier versions recorded no statistics, and had no loss that needs them.
        statistics = self.info.label_statistics or (LabelStatistics(),) * len(tasks)
        return make_objective(self.config, tasks, statistics)


def is_run(workdir: str | Path) -> bool:
    """Returns whether a folder holds a run, finished or not."""
    return not files.is_address(workdir) and RunFolder(workdir).is_run


def load_run(workdir: str | Path) -> Run:
    """Reads a run, finished or not, with its best checkpoint.

    Raises:
      FileNotFoundError: if the folder holds no run, or the run no checkpoint yet.
      ValueError: if a file of the run is damaged, or the folder holds exported weights.

    Examples:
      >>> import jax, tl_jax
      >>> config = tl_jax.Config(
      ...     model=tl_jax.ModelConfig("simple_cnn", weights="random"),
      ...     data=tl_jax.DataConfig("digits", shots=2, image_size=16),
      ...     train=tl_jax.TrainConfig(epochs=1))
      >>> report = tl_jax.fit(config, "runs/digits")
      >>> run = load_run("runs/digits")
      >>> run.model.apply(run.variables, jax.numpy.zeros((1, 16, 16, 3))).shape
      (1, 10)
    """
    folder = RunFolder(workdir)
    if weights_reader.is_checkpoint_folder(folder.path):
        raise ValueError(f"{workdir} holds weights, not a run; predict and load_pretrained take it")
    if not folder.is_run:
        raise FileNotFoundError(f"{workdir} holds no run (no config.json); train one first")
    config = folder.read_config()
    no_checkpoint = FileNotFoundError(
        f"{workdir} holds no checkpoint yet; train at least one epoch"
    )
    if not folder.has_checkpoints:
        raise no_checkpoint
    info = folder.read_info()
    model = build_model(
        config,
        len(info.class_names),
        pretrained_classes=info.weights.num_classes if info.weights else None,
        network_fields=info.weights.network_fields if info.weights else None,
        examples=info.example_facts,
    )
    like = abstract(abstract_variables(model), sharding.replicated(sharding.data_mesh()))
    with folder.open_checkpoints(config, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        if step is None:
            raise no_checkpoint
        variables = checkpoints.restore_variables(step, like)
    return Run(config, info, model, variables, step, folder.read_calibration())


def write_run(
    workdir: str | Path,
    config: Config,
    info: RunInfo,
    variables: trees.Tree,
    *,
    calibration: calibrate.Chosen | None = None,
) -> None:
    """Writes variables that were computed elsewhere, such as a soup, as a run for `load_run`.

    Args:
      workdir: the folder; must be empty or missing.
      config: the configuration that builds the network.
      info: classes, preprocessing and weights.
      variables: params and batch_stats; they become the only checkpoint, at step 0.
      calibration: temperatures and thresholds chosen for them; None for none.

    Raises:
      ValueError: if the folder is not empty.
    """
    folder = RunFolder(workdir)
    if folder.is_run:
        raise ValueError(f"{workdir} holds a run already; take another folder")
    folder.check(config)
    folder.claim(config, info)
    state = TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=(),
    )
    with folder.open_checkpoints(config) as checkpoints:
        checkpoints.save(state, {config.train.best_metric: math.nan})
    if calibration:
        folder.write_calibration(calibration)
