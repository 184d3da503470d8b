"""Profile of a configuration's program: its operations, and its distance from the roofline."""

import collections
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp

from tl_jax import arguments, files, process, trees
from tl_jax.config import Config
from tl_jax.run import profile_trace
from tl_jax.run.experiment import Experiment
from tl_jax.run.profile_trace import Operation
from tl_jax.training import sharding

Program = Literal["train", "evaluate"]

# The fewest operations that XLA launches as a graph on a GPU: more than any program has.
NO_GRAPHS: dict[str, str | bool] = {"xla_gpu_graph_min_graph_size": str(2**30)}

_WARM_UP_STEPS = 2
_OUTSIDE = "(outside the network)"
# Operands of the measured peaks: beyond caches, and small enough for any device.
_MATRIX_SIDE = {"cpu": 2048}
_LARGE_MATRIX_SIDE = 8192
_COPIED_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class _Compiled:
    """A compiled program with its inputs: `run` computes one step and waits for it."""

    executable: jax.stages.Compiled
    run: Callable[[], None]


@dataclasses.dataclass(frozen=True)
class _Lowered:
    """A program with its inputs: `run(executable)` computes one step and waits for it."""

    lowered: jax.stages.Lowered
    run: Callable[[jax.stages.Compiled], None]

    def compile(self, options: dict[str, str | bool] | None = None) -> _Compiled:
        """Returns the program compiled with options of XLA."""
        executable = self.lowered.compile(compiler_options=options)
        return _Compiled(executable, functools.partial(self.run, executable))


def profile(
    config: Config,
    folder: str | Path,
    *,
    program: Program = "train",
    phase: int = 1,
    steps: int = 5,
) -> dict[str, Any]:
    """Measures the compiled program of a configuration on this machine.

    Steps are timed first, and then traced: tracing itself takes time. All steps take the same
    batch, which lies on the device, so the loader has no part in the figures.

    Args:
      config: the experiment.
      folder: new or empty; it gets `profile.json`, `profile.txt` and the trace for TensorBoard and
        Perfetto.
      program: "train" for the training step of a phase, "evaluate" for that of evaluation.
      phase: which of the run's phases is trained, from 1.
      steps: steps that are timed, and as many that are traced.

    Returns:
      What `profile.json` holds: seconds, FLOPs and bytes of a step, the machine's measured peaks,
      the least seconds that they allow, and the operations and modules by their time.

    Raises:
      ValueError: if the folder is in use, or there is no such phase or program.
    """
    if program not in get_args(Program):
        raise ValueError(f"got program={program!r}; expected one of {', '.join(get_args(Program))}")
    arguments.whole_number("steps", steps, least=1, advice="expected the number of steps to time")
    target = files.user_path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is in use; expected a new or an empty folder for the profile")
    process.prepare()
    experiment = Experiment.from_config(config)
    if not 1 <= phase <= len(experiment.phases):
        raise ValueError(
            f"the run has {len(experiment.phases)} phase(s); got phase={phase}, counted from 1"
        )
    target.mkdir(parents=True, exist_ok=True)
    lowered = _training(experiment, phase) if program == "train" else _evaluation(experiment)
    compiled = lowered.compile()
    seconds = timed(compiled.run, steps)
    traceable = _traceable(lowered, compiled)
    params = experiment.initial.variables["params"]
    listed = traced(traceable.executable, traceable.run, target, params=params, steps=steps)
    result = {
        "model": experiment.config.model.name,
        "program": program,
        "phase": experiment.phases[phase - 1].name if program == "train" else None,
        "batch_size": config.data.batch_size,
        "image_size": list(experiment.preprocess.size),
        "device": jax.devices()[0].device_kind,
        "seconds_per_step": seconds,
        **_roofline(compiled.executable, experiment.config.model.dtype, seconds),
        "modules": _by_module(listed),
        "operations": [dataclasses.asdict(operation) for operation in listed],
    }
    files.write_text(target / "profile.json", files.json_text(result, indent=2) + "\n")
    files.write_text(target / "profile.txt", table(result) + "\n")
    return result


def _traceable(lowered: _Lowered, compiled: _Compiled) -> _Compiled:
    """Returns a program that can be traced operation by operation, ready to run.

    On a GPU many operations are launched as one graph, and a trace names the graph alone: the
    program is compiled again without them.
    """
    if jax.default_backend() != "gpu":
        return compiled
    separate = lowered.compile(NO_GRAPHS)
    separate.run()
    return separate


def _training(experiment: Experiment, phase: int) -> _Lowered:
    """Lowers the training step of a phase, with its first batch."""
    chosen = experiment.phases[phase - 1]
    train_step = experiment.compile_step(chosen)
    assert isinstance(train_step, functools.partial)  # The compiled step with its random key.
    current = experiment.begin(chosen, None)
    experiment.initial.release()  # As `fit` does.
    batches = experiment.train_batches(0)
    batch = next(batches)
    batches.close()
    jitted = cast(jax.stages.Wrapped, train_step.func)

    def run(executable: jax.stages.Compiled) -> None:
        nonlocal current
        current, metrics = executable(*train_step.args, current, batch)
        jax.block_until_ready((current, metrics))

    return _Lowered(jitted.lower(*train_step.args, current, batch), run)


def _evaluation(experiment: Experiment) -> _Lowered:
    """Lowers the step of evaluation, with the first batch of a split that is evaluated."""
    evaluator = experiment.evaluator
    batch = next(iter(evaluator.batches(experiment.first_held_out)))
    variables = jax.device_put(experiment.initial.variables, sharding.replicated(experiment.mesh))
    lowered = cast(jax.stages.Wrapped, evaluator.step).lower(variables, batch)
    return _Lowered(lowered, lambda executable: jax.block_until_ready(executable(variables, batch)))


def traced(
    executable: jax.stages.Compiled,
    run: Callable[[], Any],
    folder: Path,
    *,
    params: trees.Tree,
    steps: int,
) -> list[Operation]:
    """Returns the operations of a program, the longest first, and leaves their trace in a folder.

    Args:
      executable: the compiled program.
      run: computes one step of it, and waits.
      folder: gets the trace.
      params: of the network; they name its modules.
      steps: number of steps to trace.
    """
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # Calls in Python would fill the trace.
    with jax.profiler.trace(str(folder), profiler_options=options):
        for _ in range(steps):
            run()
    return profile_trace.operations(
        folder, executable.as_text() or "", modules=_modules(params), steps=steps
    )


def timed(run: Callable[[], Any], steps: int) -> float:
    """Returns the median seconds of a call, after some that are not counted."""
    for _ in range(_WARM_UP_STEPS):
        run()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _modules(params: trees.Tree) -> set[str]:
    """Returns the dotted names of all modules that have parameters, and of those around them."""
    return {
        trees.dotted(path[:length])
        for path in trees.flatten(params)
        for length in range(1, len(path))
    }


def _roofline(executable: jax.stages.Compiled, dtype: str, seconds: float) -> dict[str, Any]:
    """Returns what a step computes and moves, what the machine can, and the least time by these."""
    costs = executable.cost_analysis()
    first = costs[0] if isinstance(costs, list) else costs or {}
    flops, moved = float(first.get("flops", 0.0)), float(first.get("bytes accessed", 0.0))
    memory = executable.memory_analysis()
    peak_flops, peak_bytes = measured_peaks(jnp.dtype(dtype))
    compute, memory_seconds = flops / peak_flops, moved / peak_bytes
    least = max(compute, memory_seconds)
    return {
        "flops": flops,
        "bytes": moved,
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "peak_flops_per_second": peak_flops,
        "peak_bytes_per_second": peak_bytes,
        "least_seconds": least,
        "bound_by": "computation" if compute >= memory_seconds else "memory",
        "share_of_roofline": least / seconds,
    }


def measured_peaks(dtype: Any) -> tuple[float, float]:
    """Returns FLOPs a second of a matrix product, and bytes a second of a copy, on one device.

    Args:
      dtype: type of the matrices.
    """
    device = jax.devices()[0]
    side = _MATRIX_SIDE.get(device.platform, _LARGE_MATRIX_SIDE)
    matrix = jax.device_put(jnp.ones((side, side), dtype), device)
    product = jax.jit(jnp.matmul)
    flops = 2 * side**3 / timed(lambda: jax.block_until_ready(product(matrix, matrix)), 3)
    values = jax.device_put(jnp.ones(_COPIED_BYTES // 4, jnp.float32), device)
    # In place: a new result would be measured with the memory that the system has to clear.
    add = jax.jit(lambda values: values + 1, donate_argnums=0)

    def copy() -> None:
        nonlocal values
        values = jax.block_until_ready(add(values))

    return flops, 2 * _COPIED_BYTES / timed(copy, 3)


def _by_module(listed: list[Operation]) -> list[dict[str, Any]]:
    """Returns the seconds of each module and direction, the longest first."""
    seconds: dict[tuple[str, bool], float] = collections.defaultdict(float)
    for operation in listed:
        seconds[operation.module, operation.is_backward] += operation.seconds
    return [
        {"module": module, "is_backward": is_backward, "seconds": value}
        for (module, is_backward), value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def table(result: dict[str, Any], *, top: int = 12) -> str:
    """Returns a profile as text: the step, the roofline, the first modules and operations."""
    step_seconds, phase = result["seconds_per_step"], result["phase"]
    of_phase = f" of phase {phase}" if phase else ""
    lines = [
        f"{result['model']}, {result['program']}{of_phase}, batch {result['batch_size']}, "
        f"{'x'.join(map(str, result['image_size']))} px on {result['device']}",
        f"a step takes {step_seconds * 1e3:.1f} ms, {result['batch_size'] / step_seconds:.1f} "
        "images/s",
        f"it computes {result['flops'] / 1e9:.1f} GFLOP and moves {result['bytes'] / 1e9:.2f} GB; "
        f"this machine reaches {result['peak_flops_per_second'] / 1e12:.2f} TFLOP/s (matrix "
        f"product) and {result['peak_bytes_per_second'] / 1e9:.1f} GB/s (copy)",
        f"so it needs {result['least_seconds'] * 1e3:.1f} ms, bound by {result['bound_by']}: "
        f"{result['share_of_roofline']:.0%} of the roofline",
    ]
    total = sum(row["seconds"] for row in result["operations"]) or 1.0

    def row_text(row: dict[str, Any], what: str) -> str:
        direction = "backward" if row["is_backward"] else "forward"
        return f"{row['seconds'] * 1e3:9.2f} {row['seconds'] / total:6.1%}  {direction:9} {what}"

    lines += ["", "       ms  share  modules"]
    lines += [row_text(row, row["module"] or _OUTSIDE) for row in result["modules"][:top]]
    lines += ["", "       ms  share  operations"]
    lines += [
        row_text(row, f"{row['module'] or _OUTSIDE}: {row['name']} ({row['kind']})")
        for row in result["operations"][:top]
    ]
    return "\n".join(lines)
