"""Throws damaged image files at `prepare`, at the folder source and at the loader.

    python -m experiments.fuzz_images [--count 2000]

Draws small pictures in five formats and damages most of them: cut short, bits flipped, headers
changed, blocks swapped, zeroed or doubled, huge sizes declared. The rest stays whole, some with the
suffix of another format. Every file is first decoded alone, in a process that may crash, with
a time limit; all other ways must come to the same verdict. Then the whole folder goes through
`prepare`, through the folder source with `on_corrupt="skip"`, and through the loader, for training
and for evaluation.

A file that is whole must be kept; one that cannot hold a whole image, such as text or a file cut in
half, must be named. A file with a few flipped bits may be either: JPEG and WebP have no checksums.
Prints a table and writes `experiments/results/fuzz_images.json`; exits with 1 if there is a fault.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import io
import json
import multiprocessing
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tl_jax.data.images import decode

# Other imports are inside the functions, so that the processes that decode start quickly.

RESULT = Path(__file__).parent / "results" / "fuzz_images.json"
FORMATS = ("jpg", "png", "webp", "bmp", "gif")
CLASSES = ("a class", "класс")
_FILE_SECONDS = 10.0
_SIDE = 16

Fate = Literal["kept", "named", "either"]


@dataclasses.dataclass(frozen=True)
class Damage:
    """A way to change a file, and whether the result must be kept or named."""

    change: Callable[[bytes, np.random.Generator, str], bytes]
    fate: Fate


def _whole(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return data


def _cut(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return data[: rng.integers(0, len(data) * 3 // 4)]


def _cut_late(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return data[: -rng.integers(1, 40)]


def _flip(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 30)):
        changed[place] ^= 1 << rng.integers(0, 8)
    return bytes(changed)


def _flip_in_head(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    head = min(len(data), 128)
    return _flip(data[:head], rng, suffix) + data[head:]


def _other_head(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    other = FORMATS[(FORMATS.index(suffix) + 1) % len(FORMATS)]
    length = rng.integers(8, 32)
    return picture(rng, other)[:length] + data[length:]


def _no_head(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return b"\x01" + rng.bytes(31) + data[32:]


def _swap(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    a, b, c = sorted(rng.integers(8, len(data), 3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def _zero(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:start] + bytes(stop - start) + data[stop:]


def _double(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    start, stop = sorted(rng.integers(0, len(data), 2).tolist())
    return data[:stop] + data[start:stop] + data[stop:]


def _huge(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    """Declares a size that the file does not have."""
    sides = (0, 1, 3_000, 9_400, 30_000, 65_535, 2**24 + 1, 2**31 - 1)
    width, height = (int(side) for side in rng.choice(sides, 2))
    changed = bytearray(data)
    if suffix == "png":
        changed[16:24] = struct.pack(">II", width, height)
        changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    elif suffix == "bmp":
        changed[18:26] = struct.pack("<II", width, height)
    elif suffix == "jpg":
        place = next(i for m in (0xC0, 0xC2) if (i := data.find(bytes([0xFF, m]))) > 0)
        changed[place + 5 : place + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    else:  # Screen of a GIF; sides of a lossy WebP, 14 bits each.
        start = 6 if suffix == "gif" else 26
        changed[start : start + 4] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    return bytes(changed)


def _empty(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return b""


def _text(data: bytes, rng: np.random.Generator, suffix: str) -> bytes:
    return b"<!DOCTYPE html><title>404 Not Found</title>"


DAMAGES = {
    "whole": Damage(_whole, "kept"),
    "wrong suffix": Damage(_whole, "kept"),
    "cut short": Damage(_cut, "named"),
    "cut at the end": Damage(_cut_late, "either"),
    "bits flipped": Damage(_flip, "either"),
    "bits of the head flipped": Damage(_flip_in_head, "either"),
    "head of another format": Damage(_other_head, "either"),
    "random head": Damage(_no_head, "named"),
    "blocks swapped": Damage(_swap, "either"),
    "block zeroed": Damage(_zero, "either"),
    "block doubled": Damage(_double, "either"),
    "another size declared": Damage(_huge, "either"),
    "empty": Damage(_empty, "named"),
    "text": Damage(_text, "named"),
}


def picture(rng: np.random.Generator, suffix: str) -> bytes:
    """Returns a whole file of a random picture: smooth, of any mode that the format has."""
    height, width = rng.integers(24, 72, 2).tolist()
    coarse = rng.integers(0, 256, (4, 5, 4), np.uint8)
    image = Image.fromarray(coarse, "RGBA").resize((width, height), Image.Resampling.BICUBIC)
    modes = {"jpg": ("RGB", "L", "CMYK"), "png": ("RGB", "L", "P", "LA", "RGBA", "1", "I;16"),
             "webp": ("RGB", "RGBA"), "bmp": ("RGB", "L", "P", "1"), "gif": ("P", "L")}  # fmt: skip
    mode = str(rng.choice(modes[suffix]))
    image = image.convert("RGB").convert(mode) if mode not in ("RGBA", "LA", "I;16") else image
    if mode == "LA":
        image = image.convert("LA")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    options: dict[str, Any] = {}
    if suffix == "jpg":
        options = {"progressive": bool(rng.integers(2)), "quality": int(rng.integers(50, 100))}
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if suffix == "jpg" else suffix.upper(), **options)
    return buffer.getvalue()


def make(root: Path, count: int, seed: int) -> dict[Path, str]:
    """Writes the files, two classes in the splits train and test; returns the damage of each."""
    rng = np.random.default_rng(seed)
    files = {}
    for number in range(count):
        kind = tuple(DAMAGES)[number % len(DAMAGES)]
        suffix = FORMATS[number // len(DAMAGES) % len(FORMATS)]
        data = DAMAGES[kind].change(picture(rng, suffix), rng, suffix)
        if kind == "wrong suffix":
            suffix = FORMATS[(FORMATS.index(suffix) + 1) % len(FORMATS)]
        split = "test" if rng.integers(4) == 0 else "train"
        path = root / split / CLASSES[int(rng.integers(2))] / f"файл {number:05}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        files[path] = kind
    for split in ("train", "test"):  # Every class needs a file that can be kept.
        for name in CLASSES:
            path = root / split / name / "whole.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(rng, "png"))
            files[path] = "whole"
    return files


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The result for a file that was decoded alone: "kept", or the reason why not."""

    reason: str
    seconds: float


def decode_alone(
    paths: Sequence[Path],
    *,
    limit: float = _FILE_SECONDS,
    decoder: Callable[[Path], object] = decode.decode,
) -> dict[Path, Verdict]:
    """Decodes the files one by one in another process, a new one after a crash or a hang.

    Args:
      paths: the files.
      limit: seconds for a file.
      decoder: raises CorruptImageError if a file is bad; the process must be able to import it.
    """
    context = multiprocessing.get_context("spawn")
    verdicts: dict[Path, Verdict] = {}
    while len(verdicts) < len(paths):
        ours, theirs = context.Pipe()
        worker = context.Process(target=_decode_all, args=(theirs, decoder), daemon=True)
        worker.start()
        theirs.close()
        ours.recv()  # The start of the process is not part of the file's time.
        for path in paths[len(verdicts) :]:
            ours.send(path)
            verdicts[path] = _await(ours, limit)
            if verdicts[path].reason in ("crash", "hang"):
                break
        worker.kill()
        worker.join()
    return verdicts


def _decode_all(pipe: Any, decoder: Callable[[Path], object]) -> None:
    pipe.send("ready")
    while True:
        path = pipe.recv()
        start = time.perf_counter()
        try:
            decoder(path)
            reason = "kept"
        except decode.CorruptImageError as error:
            reason = error.reason
        pipe.send(Verdict(reason, time.perf_counter() - start))


def _await(pipe: Any, limit: float) -> Verdict:
    if not pipe.poll(limit):
        return Verdict("hang", limit)
    try:
        return pipe.recv()
    except EOFError:
        return Verdict("crash", 0.0)


def through_prepare(root: Path, out: Path) -> dict[str, set[str]]:
    """Prepares the folder, and returns the files that it kept and those that it named."""
    import tensorflow_datasets as tfds

    from tl_jax.data.prepare.pack import prepare_source

    prepared = prepare_source(f"folder:{root}", out, progress=False)
    lines = (out / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()
    builder = tfds.builder_from_directory(out)
    kept = [
        record["path"].decode()
        for split in builder.info.splits
        for record in builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    ]
    assert len(lines) == len(prepared.corrupt)
    return {"kept": set(kept), "named": {json.loads(line)["file"] for line in lines}}


def through_folder(root: Path, record: Path) -> dict[str, set[str]]:
    """Opens the folder, and returns the files that it kept and those that it named."""
    from tl_jax.data.sources.open import open_source

    names: dict[str, set[str]] = {"kept": set(), "named": set()}
    for split in ("train", "test"):
        source = open_source(f"folder:{root}", split, on_corrupt="skip", data_dir=record)
        names["kept"] |= {_name(root, source.encoded(i)[1]["path"]) for i in range(len(source))}
        names["named"] |= {_name(root, line.partition(": ")[0]) for line in source.skipped}
    return names


def through_loader(root: Path, record: Path) -> dict[str, int]:
    """Loads the good files for evaluation and for training; returns how many came out."""
    from tl_jax.data.loading.host_batches import host_eval_batches, host_train_batches
    from tl_jax.data.loading.options import LoadOptions
    from tl_jax.data.loading.order import Uniform
    from tl_jax.data.preprocess import Preprocess
    from tl_jax.data.sources.open import open_source

    source = open_source(f"folder:{root}", "test", on_corrupt="skip", data_dir=record)
    options = LoadOptions(batch_size=8)
    batches = host_eval_batches(source, options, preprocess=Preprocess(size=(_SIDE, _SIDE)))
    evaluated = [int(i) for batch in batches for i in batch["index"][batch["mask"]]]
    assert evaluated == list(range(len(source)))
    source = open_source(f"folder:{root}", "train", on_corrupt="skip", data_dir=record)
    order = Uniform(len(source), seed=0)
    with contextlib.closing(
        host_train_batches(source, options, canvas=_SIDE, order=order)
    ) as batches:
        for _ in range(-(-len(source) // options.batch_size)):
            next(batches)  # The first epoch holds each file once.
    return {"evaluated": len(evaluated), "trained": len(source)}


def _name(root: Path, path: str) -> str:
    return Path(path).relative_to(root).as_posix()


def fuzz(count: int, folder: Path, *, seed: int = 0) -> dict[str, Any]:
    """Writes `count` files to a folder, decodes them in every way, and returns the results.

    `faults` of the result should be empty.
    """
    root = folder / "files"
    files = make(root, count, seed)
    alone = decode_alone(list(files))
    seconds = {}
    start = time.perf_counter()
    prepared = through_prepare(root, folder / "prepared")
    seconds["prepare"] = time.perf_counter() - start
    start = time.perf_counter()
    opened = through_folder(root, folder / "record")
    seconds["folder"] = time.perf_counter() - start
    start = time.perf_counter()
    loaded = through_loader(root, folder / "record")
    seconds["loader"] = time.perf_counter() - start
    names = {path: path.relative_to(root).as_posix() for path in files}
    faults = [
        fault
        for path, kind in files.items()
        for fault in faults_of(
            names[path], kind, alone[path], {"prepare": prepared, "folder": opened}
        )
    ]
    table = Counter(
        (kind, "kept" if alone[path].reason == "kept" else "named") for path, kind in files.items()
    )
    return {
        "count": len(files),
        "seed": seed,
        "pillow": importlib.metadata.version("pillow"),
        "kept": sum(verdict.reason == "kept" for verdict in alone.values()),
        "named": sum(verdict.reason != "kept" for verdict in alone.values()),
        "crashes": sum(verdict.reason == "crash" for verdict in alone.values()),
        "hangs": sum(verdict.reason == "hang" for verdict in alone.values()),
        "slowest_seconds": max(verdict.seconds for verdict in alone.values()),
        "seconds": seconds,
        "loaded": loaded,
        "by_damage": {
            kind: {fate: table[kind, fate] for fate in ("kept", "named")} for kind in DAMAGES
        },
        "faults": faults,
    }


def faults_of(
    name: str, kind: str, verdict: Verdict, ways: dict[str, dict[str, set[str]]]
) -> list[str]:
    """Lists the faults in the results for one file."""
    faults = []
    fate = "kept" if verdict.reason == "kept" else "named"
    other = "named" if fate == "kept" else "kept"
    if verdict.reason in ("crash", "hang"):
        faults.append(f"{name} ({kind}): {verdict.reason}")
    if DAMAGES[kind].fate not in ("either", fate):
        faults.append(f"{name} ({kind}) is {fate}: {verdict.reason}")
    for way, result in ways.items():
        if name not in result[fate] or name in result[other]:
            faults.append(
                f"{name} ({kind}) is not {fate} by {way}, as it is alone: {verdict.reason}"
            )
    return faults


def render(result: dict[str, Any]) -> str:
    """Returns the result as a table."""
    lines = [f"{'damage':<26} {'files':>6} {'kept':>6} {'named':>6}"]
    for kind, row in result["by_damage"].items():
        lines.append(f"{kind:<26} {sum(row.values()):>6} {row['kept']:>6} {row['named']:>6}")
    lines.append(f"{'all':<26} {result['count']:>6} {result['kept']:>6} {result['named']:>6}")
    seconds = ", ".join(f"{way} {took:.1f} s" for way, took in result["seconds"].items())
    lines += [
        f"crashes {result['crashes']}, hangs {result['hangs']}, slowest file "
        f"{result['slowest_seconds']:.2f} s; {seconds}",
        f"loaded for training {result['loaded']['trained']}, "
        f"for evaluation {result['loaded']['evaluated']}",
        *(f"FAULT: {fault}" for fault in result["faults"]),
        f"{len(result['faults'])} faults",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="damaged and whole files")
    parser.add_argument("--seed", type=int, default=0, help="chooses the pictures and the damage")
    parser.add_argument("--result", type=Path, default=RESULT, help="file to be written")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = fuzz(options.count, Path(folder), seed=options.seed)
    print(render(result))
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return int(bool(result["faults"]))


if __name__ == "__main__":
    sys.exit(main())
