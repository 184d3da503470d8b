"""The forward pass of one image and of batches, of both sides in turn."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale, prepare_torch
from experiments.benchmarks.gpu.steps import OURS, PEER, make_ours, make_theirs

BATCH_SIZES = (1, 32, 256)


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the times of each batch size."""
    prepare_torch(scale)
    from experiments.benchmarks import agreement, timing, torch_sides

    setting = scale.setting(case, 16, "forward")
    model = torch_sides.timm_model(setting)
    variables = agreement.from_timm(setting, model)
    for batch_size in BATCH_SIZES:
        sized = dataclasses.replace(setting, batch_size=batch_size)
        if scale.tiny and batch_size == max(BATCH_SIZES):
            continue
        ours, our_facts = make_ours(sized, variables)
        theirs, their_facts = make_theirs(sized, copy.deepcopy(model), scale)
        for run in (ours, theirs):
            run(scale.warmups)
        samples = timing.alternate({OURS: ours, PEER: theirs}, scale.steps, scale.blocks)
        yield {
            str(batch_size): {
                "timing": timing.compare(samples, PEER)["all"],
                OURS: our_facts,
                PEER: their_facts,
            }
        }
