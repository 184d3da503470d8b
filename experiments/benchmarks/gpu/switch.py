"""Our step with and without each of its faster forms, in turn."""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale
from experiments.benchmarks.gpu.steps import OURS, make_ours
from experiments.benchmarks.gpu.table import SWITCHES


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields, form by form, the step's time without it over that with it."""
    from experiments.benchmarks import programs, timing

    setting = scale.setting(case)
    variables = programs.random_variables(setting)
    ours, about = make_ours(setting, variables)
    ours(scale.warmups)
    yield {OURS: about}
    for name in SWITCHES[case.network, case.mode]:
        plain, about = make_ours(setting, variables, (name,))
        plain(scale.warmups)
        samples = timing.alternate({OURS: ours, "without": plain}, scale.steps, scale.blocks)
        yield {name: about | {"timing": timing.compare(samples, "without")["all"]}}
        del plain
