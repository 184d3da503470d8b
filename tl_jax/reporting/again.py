"""What a run says of each example of its main split, for which its network is run again."""

import dataclasses
from collections.abc import Mapping

import jax

from tl_jax.analysis.measured import TaskRows, measure, measurer
from tl_jax.data.source import Source
from tl_jax.evaluation import run_data
from tl_jax.objectives.multi_task import MultiTask
from tl_jax.objectives.objective import Objective
from tl_jax.reporting.read import RunFiles
from tl_jax.run import examples as run_examples
from tl_jax.run.folder import load_run
from tl_jax.training.checkpoint import CheckpointError


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a run says of each example of its main split.

    Attributes:
      examples: the split.
      tasks: by the task's name, with the temperature and thresholds that were chosen.
      objective: of the run, without these, as its report measures.
    """

    examples: Source
    tasks: Mapping[str, TaskRows]
    objective: Objective

    def plain(self, task: str) -> Objective:
        """Returns the objective of a task as the report measures it."""
        whole = self.objective
        return whole.tasks[task] if isinstance(whole, MultiTask) else whole


def see(run: RunFiles) -> Seen | str:
    """Measures a run on its main split, or returns why that cannot be done, as a sentence."""
    if jax.process_count() > 1:
        return "examples are told by one process, and this page was written by several"
    try:
        loaded = load_run(run.path)
        config = run_data.config_of(loaded, run_data.DataOptions())
        examples = run_data.open_examples(loaded, config, run.shown, is_other=False)
        changed = _changed(run, examples)
        if changed is not None:
            return changed
        tasks = measure(loaded, measurer(loaded, config), examples)
    except (OSError, ValueError, ImportError, CheckpointError) as error:
        return str(error)
    return Seen(examples, tasks, loaded.objective)


def _changed(run: RunFiles, examples: Source) -> str | None:
    """Returns in what way the examples are not those that the run was measured on, if so."""
    recorded = run.info.digests.get(run.shown)
    if recorded is None:
        return f"an earlier version trained the run, and did not record the examples of {run.shown}"
    if recorded == run_examples.of_source(examples, run.tasks).digest:
        return None
    return f"the examples of {run.shown} are not those any more that the run was measured on"
