"""An epoch on cached features beside one through the backbone, and 32 heads beside one."""

from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the result of `experiments.benchmarks.probe`, part by part."""
    from experiments.benchmarks import probe

    setting = probe.Setting(
        device=scale.device,
        model=scale.network(case.network),
        images=8 if scale.tiny else 2048,
        image_size=64 if scale.tiny else 224,
        batch_size=4 if scale.tiny else 256,
        heads=32,
        features=64 if scale.tiny else 65536,
        width=8 if scale.tiny else 2048,
        blocks=2 if scale.tiny else 5,
    )
    sweep = probe.compare(probe.sweep_sides(setting), setting)
    seconds = sweep["median_seconds"]
    one = seconds["one by one"] / setting.heads
    yield {"heads": sweep | {"of_one": seconds["at once"] / one}}
    sides, extraction = probe.epoch_sides(setting)
    yield {
        "epoch": probe.compare(sides, setting) | {"seconds_of_the_pass": probe.timed(extraction)}
    }
