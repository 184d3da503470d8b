"""Steps of both sides in turn; and each side alone: its compilation and its memory."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale, prepare_torch

OURS, PEER = "tl_jax", "torch"


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields a case of "steps", "torch alone" or "tl_jax alone", part by part."""
    prepare_torch(scale)
    if case.kind == "torch alone":
        yield from _torch_alone(case, scale)
    elif case.kind == "tl_jax alone":
        yield from _ours_alone(case, scale)
    else:
        yield from _in_turn(case, scale)


def _in_turn(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    import dataclasses

    from experiments.benchmarks import agreement, timing, torch_sides

    setting = scale.setting(case)
    model = torch_sides.timm_model(dataclasses.replace(setting, batch_size=16))
    variables = agreement.from_timm(setting, model)
    ours, about = make_ours(setting, variables)
    ours(scale.warmups)
    # Were torch to fail, this would be left.
    alone = timing.alternate({OURS: ours}, scale.steps, 1)[OURS][0].wall
    yield {"setting": dataclasses.asdict(setting), OURS: about | {"alone_seconds": alone}}
    theirs, about = make_theirs(setting, model, scale)
    theirs(scale.warmups)
    yield {PEER: about}
    samples = timing.alternate({OURS: ours, PEER: theirs}, scale.steps, scale.blocks)
    yield {"timing": timing.compare(samples, PEER)["all"], "samples": _walls(samples)}
    yield {"peak_bytes": {OURS: our_peak(), PEER: their_peak()}}


def make_ours(
    setting: Any, variables: Any, off: tuple[str, ...] = ()
) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Returns our `run(steps)`, and the compiler's seconds by stage and its figures of memory."""
    import jax

    from experiments.benchmarks import programs, switches
    from tl_jax.training import sharding

    with switches.without(off) as options:
        program = programs.make_program(setting, sharding.data_mesh(jax.devices()[:1]), **options)
        chosen = switches.compiler_options(off)
        compiled, stages = programs.compile_program(program, setting, chosen)
    run = programs.make_run(program, compiled, setting, variables)
    start = time.perf_counter()
    loss = run(1)
    stages["first_step"] = time.perf_counter() - start
    memory = compiled.memory_analysis()
    sizes = {
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
    }
    return run, {"compile_seconds": stages, "first_loss": loss, **sizes}


def make_theirs(
    setting: Any, model: Any, scale: Scale
) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Returns torch's `run(steps)`, and the seconds of its first and second step.

    Where `torch.compile` fails, such as without a C compiler, torch runs eagerly; the result says
    so and why.
    """
    import dataclasses

    from experiments.benchmarks import torch_sides

    options, note = scale.torch_options(), {}
    run = torch_sides.make_run(setting, model, options)
    start = time.perf_counter()
    try:
        loss = run(1)
    except Exception as error:  # Whatever the compiler raises.
        note = {"eager_because": str(error).strip().splitlines()[-1][:300]}
        eager = dataclasses.replace(options, backend=None)
        run = torch_sides.make_run(setting, model, eager)
        start = time.perf_counter()
        loss = run(1)
    first = time.perf_counter() - start
    return run, {"compile_seconds": {"first_step": first}, "first_loss": loss, **note}


def _torch_alone(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    from experiments.benchmarks import agreement, torch_sides

    setting = scale.setting(case)
    model = torch_sides.import_timm().create_model(setting.model, num_classes=1000)
    if setting.mode == "lora":
        agreement.from_timm(setting, model)
    run, about = make_theirs(setting, model, scale)
    yield about
    run(3)
    yield {"peak_bytes": their_peak()}


def _ours_alone(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    from experiments.benchmarks import programs

    setting = scale.setting(case)
    run, about = make_ours(setting, programs.random_variables(setting))
    yield about
    run(3)
    yield {"peak_bytes": our_peak()}


def our_peak() -> int | None:
    """Returns the most memory of the device that JAX has held; None on a CPU."""
    import jax

    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def their_peak() -> int | None:
    """Returns the most memory of the device that torch has held; None on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def _walls(samples: Any) -> dict[str, list[float]]:
    return {name: [sample.wall for sample in of_one] for name, of_one in samples.items()}
