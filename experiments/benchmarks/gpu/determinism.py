"""Whether steps repeat their bits on the card, and what TL_JAX_DETERMINISTIC=1 costs."""

import hashlib
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale

ON, OFF = "deterministic", "without"


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the bits of two steps; a case of "determinism" the time with and without the switch.

    Both run in the process of one case, whose XLA_FLAGS hold the switch: the step without it is
    compiled with the options that take it back.
    """
    from tl_jax import determinism, process

    process.prepare()
    from experiments.benchmarks import programs, timing

    setting = scale.setting(case, mode=case.mode.split()[0])
    variables = programs.random_variables(setting)
    program, compiled, stages = _compiled(setting, {})
    yield {"switch": determinism.is_on(), **_bits(program, compiled, setting, variables)}
    if case.kind == "bits":
        return
    runs = {ON: programs.make_run(program, compiled, setting, variables)}
    plain = {"xla_gpu_deterministic_ops": False}
    program, compiled, others = _compiled(setting, plain)
    runs[OFF] = programs.make_run(program, compiled, setting, variables)
    yield {"compile_seconds": {ON: stages, OFF: others}}
    for run in runs.values():
        run(scale.warmups)
    samples = timing.alternate(runs, scale.steps, scale.blocks)
    yield {"timing": timing.compare(samples, OFF)["all"]}


def _compiled(setting: Any, options: dict[str, bool]) -> tuple[Any, Any, dict[str, float]]:
    """Returns a step, what it is compiled to with options of XLA, and the seconds by stage."""
    import jax

    from experiments.benchmarks import programs
    from tl_jax.training import sharding

    program = programs.make_program(setting, sharding.data_mesh(jax.devices()[:1]))
    return program, *programs.compile_program(program, setting, options)


def _bits(program: Any, compiled: Any, setting: Any, variables: Any) -> dict[str, Any]:
    """Returns whether two steps from the same state end with the same bits, and a hash of them.

    Cases compile in processes of their own, so equal hashes say more than equal steps: that
    compiling again chose the same kernels.
    """
    import jax
    import numpy as np

    from experiments.benchmarks import programs

    results = []
    for _ in range(2):
        state, _ = compiled(*programs.ready(program, setting, variables))
        results.append(jax.device_get(jax.tree.leaves(state)))
    equal = [np.array_equal(one, other) for one, other in zip(*results, strict=True)]
    digest = hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in results[0]))
    return {"leaves": len(equal), "different": equal.count(False), "sha256": digest.hexdigest()}
