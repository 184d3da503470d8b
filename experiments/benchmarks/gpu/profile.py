"""Where the time of a step goes: its longest operations, with their modules."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale

LONGEST = 40


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the seconds of all operations of a step, and the longest ones."""
    import jax

    from experiments.benchmarks import programs
    from tl_jax.run import profile
    from tl_jax.training import sharding

    setting = scale.setting(case)
    program = programs.make_program(setting, sharding.data_mesh(jax.devices()[:1]))
    options = profile.NO_GRAPHS if scale.device == "gpu" else {}
    compiled, _ = programs.compile_program(program, setting, options)
    run = programs.make_run(program, compiled, setting, programs.random_variables(setting))
    run(scale.warmups)
    params = programs.variable_shapes(setting)["params"]
    with tempfile.TemporaryDirectory() as folder:
        operations = profile.traced(
            compiled, lambda: run(1), Path(folder), params=params, steps=scale.blocks
        )
    yield {
        "seconds": sum(operation.seconds for operation in operations),
        "operations": [dataclasses.asdict(operation) for operation in operations[:LONGEST]],
    }
