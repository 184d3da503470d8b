"""The options of loading, in one object that readers, workers, caches and batches share."""

import dataclasses
from collections.abc import Collection
from typing import Literal, get_args

WorkerType = Literal["thread", "process"]
Cache = Literal["none", "memory", "device"]
StretchOn = Literal["auto", "device", "host"]


@dataclasses.dataclass(frozen=True)
class LoadOptions:
    """How examples become batches. Workers, cache and prefetching do not change what is in a batch.

    Attributes:
      batch_size: examples of a step over all processes and devices.
      workers: threads or processes, each of which reads whole batches; 0: the calling thread reads.
      worker_type: "thread", or "process" for a source whose own Python code takes most of the time.
      cache: "none" reads every image every time; "memory" keeps the decoded images in the host's
        memory, "device" on the devices.
      fast_jpeg: whether JPEG files at least twice as large as the canvas are decoded at a reduced
        size for training.
      stretch_on: where training images are stretched to the canvas: on the "host" by its workers,
        or on the "device", which needs `cache="none"` and examples of one image. "auto" is
        "device" if there is no cache, the devices are not CPUs, and the source has no views.
      prefetch: batches put on the devices ahead of the one in use.

    Raises:
      ValueError: on construction, if a value is not one of these.

    Examples:
      >>> LoadOptions(batch_size=32, cache="memory").workers
      2
    """

    batch_size: int
    workers: int = 2
    worker_type: WorkerType = "thread"
    cache: Cache = "none"
    fast_jpeg: bool = True
    stretch_on: StretchOn = "auto"
    prefetch: int = 2

    def __post_init__(self) -> None:
        numbers = (
            ("batch_size", self.batch_size, 1),
            ("workers", self.workers, 0),
            ("prefetch", self.prefetch, 0),
        )
        for name, number, least in numbers:
            if number < least:
                raise ValueError(f"got {name}={number}; expected {least} or more")
        choices = (
            ("worker_type", self.worker_type, get_args(WorkerType)),
            ("cache", self.cache, get_args(Cache)),
            ("stretch_on", self.stretch_on, get_args(StretchOn)),
        )
        for name, choice, allowed in choices:
            if choice not in allowed:
                expected = ", ".join(map(repr, allowed))
                raise ValueError(f"got {name}={choice!r}; expected one of {expected}")
        if self.stretch_on == "device" and self.cache != "none":
            raise ValueError(
                f"got stretch_on='device' with cache={self.cache!r}; expected cache='none', "
                "because a cache keeps images that are stretched already"
            )

    def stretches_on_device(self, platforms: Collection[str]) -> bool:
        """Returns whether devices of these platforms ("cpu", "gpu", "tpu") stretch the images."""
        if self.stretch_on == "auto":
            return self.cache == "none" and set(platforms) != {"cpu"}
        return self.stretch_on == "device"
