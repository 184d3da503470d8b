"""Times the loader: images a second from files, records and caches, beside torch's DataLoader.

    python -m experiments.benchmarks.loader

Makes JPEG files of about 500 x 375 pixels, random crops of scikit-image's photographs, and reads
them, with two workers each:

- `jpeg`: the folder of files, as images that the device stretches to the canvas;
- `jpeg, stretched`, `jpeg, processes`: stretched by the host, in threads and in processes;
- `records`: the same files in array_record, as `python -m tl_jax prepare` writes them;
- `memory`, `device`: canvases that were read once and kept;
- `python`, `python, processes`: a source that holds the GIL for 4 ms an image, as Python code
  does, in threads and in processes;
- `dataloader`: torch's DataLoader with timm's dataset, training transform and collation (uint8, as
  for timm's prefetcher); `dataloader, no jitter`: without timm's default colour jitter.

Ours crops, flips and jitters on the device, where it is part of the step, out of images stretched
to a canvas (of 256 px for networks of 224 px); timm's workers do that themselves. So the figures
say how many images a second each side can give to an accelerator, not how much work that is.
`decode` is what the fastest decoder at hand (simplejpeg) does with the same bytes, from memory and
in as many threads, and nothing else; `decode and resize` adds Pillow's bicubic resize to the
canvas.

`small` are 28 x 28 images from memory, in batches of 256.

Each figure is the median of `--blocks`, in which the sides take turns: start again, take some
batches that are not counted, then take `--images` images. The result is written to
`experiments/results/benchmarks/loader.json`; with `--sides` only some are timed.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import simplejpeg
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from experiments.benchmarks import report
from tl_jax.data.loading import device_batches
from tl_jax.data.loading.host_batches import host_train_batches
from tl_jax.data.loading.options import LoadOptions
from tl_jax.data.loading.order import Uniform
from tl_jax.data.prepare.pack import prepare_source
from tl_jax.data.source import Example, Source, Task
from tl_jax.data.sources.arrays import from_arrays
from tl_jax.data.sources.open import open_source

LIBRARIES = ("jax", "jaxlib", "numpy", "pillow", "simplejpeg", "torch", "timm")
CLASSES = 4
IMAGE_SIZE, CANVAS, SMALL = 224, 256, 28
SMALL_BATCH = 256
# Caches are so fast that one pass is too short to time.
PASSES_OF_A_CACHE = 20
PYTHON_SECONDS = 0.004


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed."""

    images: int
    batch_size: int
    workers: int
    small_images: int
    blocks: int

    @property
    def warm_up(self) -> int:
        """Batches that are not counted: more than are read ahead."""
        return 4 * self.workers


@dataclasses.dataclass(frozen=True)
class Side:
    """One way to get images.

    Attributes:
      start: a context manager that starts an endless iterator over batches, and closes it.
      batches: number of batches that are counted.
      batch_size: images of each.
    """

    start: Callable[[], contextlib.AbstractContextManager[Iterator[Any]]]
    batches: int
    batch_size: int

    def rate(self, warm_up: int) -> float:
        """Returns the images a second of the counted batches, after `warm_up` others."""
        with self.start() as iterator:
            exhaust(itertools.islice(iterator, warm_up))
            start = time.perf_counter()
            exhaust(itertools.islice(iterator, self.batches))
            seconds = time.perf_counter() - start
        return self.batches * self.batch_size / seconds


def exhaust(iterator: Iterable[Any]) -> None:
    """Takes all batches, and waits for those on a device."""
    for batch in iterator:
        jax.block_until_ready(batch)


def photographs() -> list[Image.Image]:
    """Returns photographs that are in scikit-image's package."""
    from skimage import data

    kinds = (data.astronaut, data.chelsea, data.coffee, data.rocket, data.hubble_deep_field)
    return [Image.fromarray(kind()) for kind in kinds]


def make_files(folder: Path, count: int) -> None:
    """Writes JPEG files of 500 x 375 pixels, some a little less, in folders of classes."""
    photos = photographs()
    rng = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        size = np.asarray([500, rng.integers(333, 376)] if number % 2 else [375, 500])
        extent = size * rng.uniform(0.6, 1) * min(photo.size / size)
        corner = rng.uniform(0, 1, 2) * (photo.size - extent)
        crop = photo.resize(size, Image.Resampling.BICUBIC, (*corner, *(corner + extent)))
        path = folder / "train" / f"class {number % CLASSES}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        crop.save(path, quality=95)


def one_device() -> NamedSharding:
    """Returns the sharding of a batch on the first device."""
    return NamedSharding(Mesh(np.asarray(jax.devices()[:1]), ("data",)), PartitionSpec("data"))


class SlowInPython(Source):
    """A source that holds the GIL while it reads an image."""

    name, split, tasks = "slow in Python", "train", (Task("label", ("any",)),)

    def __init__(self, count: int) -> None:
        """`count` is the number of images."""
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        # `PyDLL` keeps the GIL, unlike `time.sleep`; waiting takes no core from other processes.
        ctypes.PyDLL(None).usleep(round(1e6 * PYTHON_SECONDS))
        return {"image": np.zeros((CANVAS, CANVAS, 3), np.uint8), "label": 0}


def source_side(
    source: Source, setting: Setting, *, processes: bool = False, packed: bool = False
) -> Side:
    """Returns the side that reads a source, without a cache."""
    options = LoadOptions(
        setting.batch_size, setting.workers, worker_type="process" if processes else "thread"
    )

    def start() -> contextlib.AbstractContextManager[Iterator[Any]]:
        order = Uniform(len(source), 0)
        return contextlib.closing(
            host_train_batches(source, options, canvas=CANVAS, order=order, packed=packed)
        )

    return Side(start, setting.images // setting.batch_size, setting.batch_size)


def memory_side(source: Source, setting: Setting, *, canvas: int, batch_size: int) -> Side:
    """Returns the side that takes canvases that are already in memory."""
    options = LoadOptions(batch_size, setting.workers, cache="memory")
    batches = host_train_batches(source, options, canvas=canvas, order=Uniform(len(source), 0))
    epoch = -(-len(source) // batch_size)
    exhaust(itertools.islice(batches, epoch))
    return Side(lambda: contextlib.nullcontext(batches), epoch * PASSES_OF_A_CACHE, batch_size)


def device_side(source: Source, setting: Setting) -> Side:
    """Returns the side that takes canvases that are already on the device."""
    batches = device_batches.train_batches(
        source,
        LoadOptions(setting.batch_size, setting.workers, cache="device"),
        canvas=CANVAS,
        order=Uniform(len(source), 0),
        sharding=one_device(),
    )
    epoch = -(-len(source) // setting.batch_size)
    return Side(
        lambda: contextlib.nullcontext(batches), epoch * PASSES_OF_A_CACHE, setting.batch_size
    )


class PeerDataset:
    """timm's dataset with its training transform, created in torch's worker processes."""

    def __init__(self, root: Path, count: int, color_jitter: float) -> None:
        self._root, self._count, self._color_jitter = root, count, color_jitter

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._dataset[index]

    @functools.cached_property
    def _dataset(self) -> Any:
        timm = import_timm()
        transform = timm.data.create_transform(
            IMAGE_SIZE, is_training=True, use_prefetcher=True, color_jitter=self._color_jitter
        )
        return timm.data.ImageDataset(str(self._root), transform=transform)


def collate(examples: Sequence[tuple[np.ndarray, int]]) -> Any:
    """Returns a batch as timm's loader collates it: uint8 [batch, channels, height, width]."""
    return import_timm().data.loader.fast_collate(examples)


def import_timm() -> ModuleType:
    """Returns timm, imported here: the other sides' processes need no torch."""
    from experiments.torch_peer import import_timm

    return import_timm()


def peer_side(folder: Path, setting: Setting, *, color_jitter: float) -> Side:
    """Returns torch's DataLoader over the files; its processes live from block to block."""
    from torch.utils.data import DataLoader, RandomSampler

    dataset = PeerDataset(folder / "train", setting.images, color_jitter)
    count = setting.images + (setting.warm_up + 1) * setting.batch_size
    batches = DataLoader(
        dataset,
        batch_size=setting.batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=count),
        num_workers=setting.workers,
        collate_fn=collate,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="spawn",
    )

    def start() -> contextlib.AbstractContextManager[Iterator[Any]]:
        return contextlib.nullcontext(iter(batches))

    return Side(start, setting.images // setting.batch_size, setting.batch_size)


def decode_side(folder: Path, setting: Setting, *, resize: bool) -> Side:
    """Returns the side that decodes the files' bytes from memory, without batches or order."""
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]

    def decode(content: bytes) -> None:
        pixels = simplejpeg.decode_jpeg(content)
        if resize:
            Image.fromarray(pixels).resize((CANVAS, CANVAS), Image.Resampling.BICUBIC)

    @contextlib.contextmanager
    def start() -> Iterator[Iterator[None]]:
        with ThreadPoolExecutor(setting.workers) as pool:
            yield decode_endlessly(pool, decode, contents, setting)

    return Side(start, setting.images // setting.batch_size, setting.batch_size)


def decode_endlessly(
    pool: ThreadPoolExecutor,
    decode: Callable[[bytes], None],
    contents: list[bytes],
    setting: Setting,
) -> Iterator[None]:
    """Yields whenever a batch of contents is decoded, while threads decode the next ones."""
    stream = itertools.cycle(contents)

    def submit() -> Any:
        batch = list(itertools.islice(stream, setting.batch_size))
        return pool.submit(lambda: [decode(content) for content in batch])

    pending = [submit() for _ in range(setting.workers + 1)]
    while True:
        pending.append(submit())
        pending.pop(0).result()
        yield None


def sides(folder: Path, setting: Setting) -> dict[str, Callable[[], Side]]:
    """Returns functions that make the sides, by name; writes the files and records to read."""
    make_files(folder / "files", setting.images)
    files = open_source(f"folder:{folder / 'files'}", "train", data_dir=folder)
    prepare_source(
        f"folder:{folder / 'files'}", folder / "records", progress=False, data_dir=folder
    )
    records = open_source(f"prepared:{folder / 'records'}", "train")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (setting.small_images, SMALL, SMALL), np.uint8)
    small = from_arrays(pixels, rng.integers(0, 10, len(pixels)))
    slow, size = SlowInPython(setting.images), setting.batch_size
    return {
        "jpeg": lambda: source_side(files, setting, packed=True),
        "jpeg, stretched": lambda: source_side(files, setting),
        "jpeg, processes": lambda: source_side(files, setting, processes=True),
        "python": lambda: source_side(slow, setting),
        "python, processes": lambda: source_side(slow, setting, processes=True),
        "records": lambda: source_side(records, setting, packed=True),
        "memory": lambda: memory_side(files, setting, canvas=CANVAS, batch_size=size),
        "device": lambda: device_side(files, setting),
        "dataloader": lambda: peer_side(folder / "files", setting, color_jitter=0.4),
        "dataloader, no jitter": lambda: peer_side(folder / "files", setting, color_jitter=0.0),
        "decode": lambda: decode_side(folder / "files", setting, resize=False),
        "decode and resize": lambda: decode_side(folder / "files", setting, resize=True),
        "small": lambda: memory_side(small, setting, canvas=SMALL, batch_size=SMALL_BATCH),
    }


def measure(setting: Setting, chosen: Sequence[str] | None = None) -> dict[str, Any]:
    """Runs the benchmark, all sides or the chosen ones; returns its result, ready to be written."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tl_jax_loader_") as name:
        makers = sides(Path(name), setting)
        compared = {side: makers[side]() for side in chosen or makers}
        sizes = [path.stat().st_size for path in Path(name, "files").rglob("*.jpg")]
        for block in range(setting.blocks):
            for side in list(compared)[:: -1 if block % 2 else 1]:
                rates.setdefault(side, []).append(compared[side].rate(setting.warm_up))
                print(f"  block {block + 1}/{setting.blocks} {side:22} {rates[side][-1]:10.0f}/s")
    median = {side: statistics.median(rates[side]) for side in compared}
    return {
        "setting": dataclasses.asdict(setting),
        "mean_file_bytes": statistics.mean(sizes),
        "decoder": "simplejpeg",
        "images_per_second": rates,
        "median_images_per_second": median,
        "ratios": ratios(median),
    }


def ratios(median: dict[str, float]) -> dict[str, float]:
    """Returns the ratios between sides that were timed."""
    pairs = (
        ("jpeg", "dataloader"),
        ("jpeg", "dataloader, no jitter"),
        ("jpeg", "decode"),
        ("jpeg, stretched", "dataloader"),
        ("jpeg, stretched", "decode and resize"),
        ("python, processes", "python"),
        ("memory", "dataloader"),
        ("device", "dataloader"),
    )
    return {
        f"{side} over {other}": median[side] / median[other]
        for side, other in pairs
        if side in median and other in median
    }


def table(result: dict[str, Any]) -> str:
    """Returns the result as a few lines."""
    median = result["median_images_per_second"]
    lines = [f"{side:34}{rate:12,.0f} images/s" for side, rate in median.items()]
    return "\n".join([*lines, *(f"{name:40}{x:6.2f}" for name, x in result["ratios"].items())])


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=512, help="files, and images of a block")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2, help="threads or processes of each side")
    parser.add_argument("--small-images", type=int, default=20_000)
    parser.add_argument("--blocks", type=int, default=9, help="turns of each side")
    parser.add_argument("--sides", nargs="+", help="names of the sides to be timed; all by default")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints its table and writes its JSON."""
    options = parse(arguments)
    fields = [field.name for field in dataclasses.fields(Setting)]
    setting = Setting(**{name: vars(options)[name] for name in fields})
    facts = report.facts(LIBRARIES)
    result = measure(setting, options.sides) | facts
    path = report.write(options.results, "loader", result)
    print(f"{table(result)}\nwritten to {path}")


if __name__ == "__main__":
    main()
