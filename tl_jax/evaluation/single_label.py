"""Runs that learned one class of each image, the only ones that the commands here take."""

from pathlib import Path

from tl_jax.run.folder import Run, load_run


def load_single_label(workdir: str | Path, command: str) -> Run:
    """Reads a run that learned one class of each image, with its best checkpoint.

    Args:
      workdir: the run's folder.
      command: what the run is for, to be named in a message.

    Raises:
      FileNotFoundError, ValueError: as `load_run`; ValueError if it learned anything else.
    """
    run = load_run(workdir)
    facts = run.info.example_facts
    is_one_image = facts.inputs.is_one_image
    if [task.kind for task in facts.tasks] != ["multi_class"] or not is_one_image:
        learned = [f"{task.name!r} ({task.kind})" for task in facts.tasks]
        learned += [] if is_one_image else ["from more than one image each"]
        raise ValueError(
            f"{command} takes runs that learn one class of each image, and {workdir} learns "
            f"{', '.join(learned)}. The metrics of its tasks are in its report.json; in Python, "
            "tl_jax.load_run gives the network and the objective, which reads its outputs"
        )
    return run
