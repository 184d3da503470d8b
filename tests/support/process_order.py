"""Code that runs in several processes: a source that shows which one reads, JAX processes."""

import itertools
import multiprocessing
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tl_jax.data.source import Source, Task

BATCH, STEPS, START = 4, 5, 3
COUNTS = (1, 3, 13)


class ByProcess(Source):
    """Images and labels that are 0 where the main process reads them, 1 where a worker does."""

    name, split, tasks = "by process", "train", (Task("label", ("main", "worker")),)

    def __init__(self, count: int) -> None:
        """`count` is the number of images."""
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        worker = int(multiprocessing.parent_process() is not None)
        return {"image": np.full((4, 4, 3), worker, np.uint8), "label": worker}


def main(folder: Path, coordinator: str, index: int, count: int) -> None:
    """Runs one of `count` JAX processes; saves its part of every batch as FOLDER/INDEX.npz."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes=count, process_id=index)
    assert (jax.process_index(), jax.process_count()) == (index, count)
    parts = {
        f"{name} {step} {key}": np.concatenate([part.data for part in array.addressable_shards])
        for name, batches in _all_batches()
        for step, batch in enumerate(batches)
        for key, array in batch.items()
    }
    np.savez(folder / f"{index}.npz", **parts)
    jax.distributed.shutdown()


def _all_batches() -> Iterator[tuple[str, Iterable[dict]]]:
    from tests.support.loading import Numbered, device_eval, device_train
    from tl_jax.data.loading.device_cache import DeviceCache
    from tl_jax.data.loading.options import LoadOptions
    from tl_jax.data.loading.order import Uniform
    from tl_jax.data.loading.readers import TrainReader
    from tl_jax.training import sharding as parallel

    sharding = parallel.sharded(parallel.data_mesh())
    for count in COUNTS:
        source = Numbered(count)
        for cache in ("none", "memory", "device"):
            options = {"batch_size": BATCH, "cache": cache}
            batches = device_train(source, sharding, start_step=START, **options)
            yield f"train {cache} {count}", itertools.islice(batches, STEPS)
            yield f"eval {cache} {count}", device_eval(source, sharding, **options)
        reader = TrainReader(source, 8)
        split = DeviceCache(reader, sharding, LoadOptions(BATCH, workers=0), is_split=True)
        batches = split.batches(Uniform(count, 0), start_step=START)
        yield f"train split {count}", itertools.islice(batches, STEPS)
