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
    from tl_jax.run import profile, profile_trace
    from tl_jax.training import sharding

    setting = scale.setting(case)
    program = programs.make_program(setting, sharding.data_mesh(jax.devices()[:1]))
    options = profile.NO_GRAPHS if scale.device == "gpu" else {}
    compiled, _ = programs.compile_program(program, setting, options)
    run = programs.make_run(program, compiled, setting, programs.random_variables(setting))
    run(scale.warmups)
    traced = jax.profiler.ProfileOptions()
    traced.python_tracer_level = 0  # Calls in Python would fill the trace.
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=traced):
            run(scale.blocks)
        operations = profile_trace.operations(
            Path(folder),
            compiled.as_text() or "",
            modules=profile.module_names(programs.variable_shapes(setting)["params"]),
            steps=scale.blocks,
        )
    yield {
        "seconds": sum(operation.seconds for operation in operations),
        "operations": [dataclasses.asdict(operation) for operation in operations[:LONGEST]],
    }
