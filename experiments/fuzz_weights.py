"""Throws damaged files of weights at the readers of safetensors and of torch's two formats.

    python -m experiments.fuzz_weights [--count 5000] [--seed 0]

Each file is read in a process of its own with limits on memory and time, and every array in it is
copied. It must load, or end with a ValueError or OSError that names it. Another error, a crash,
more than five seconds of processor time, a minute of waiting, or more memory than a few times the
file are faults. Prints a table, writes
`experiments/results/fuzz_weights.json`, and exits with 1 if there is a fault.
"""

import argparse
import io
import json
import os
import pickle
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tl_jax.weights import safetensors_file, torch_file

RESULT = Path(__file__).parent / "results" / "fuzz_weights.json"
SUFFIXES = {"safetensors": ".safetensors", "torch zip": ".pth", "torch legacy": ".pth"}
_SECONDS = 5  # Of the processor, so that the other work of a machine makes no fault.
_WAIT_SECONDS = 60
_ROOM = 64 * 2**20
# A hostile pickle would make this folder if a reader ran its code.
_SENTINEL = Path(tempfile.gettempdir()) / f"fuzz_weights_ran_code_{os.getpid()}"
_HUGE = (2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, 2**64 - 1)


def whole_files() -> dict[str, bytes]:
    """Returns a small sound file in each format, by the format's name."""
    import safetensors.numpy
    import torch

    arrays = {"conv.weight": np.ones((4, 3, 3, 3), np.float32), "fc.bias": np.zeros(5, np.float16)}
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    saved = {"model": tensors, "numpy": np.arange(7), "epoch": 3}
    streams = io.BytesIO(), io.BytesIO()
    torch.save(saved, streams[0])
    torch.save(saved, streams[1], _use_new_zipfile_serialization=False)
    contents = [stream.getvalue() for stream in streams]
    return dict(zip(SUFFIXES, [safetensors.numpy.save(arrays), *contents], strict=True))


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips a few bits anywhere."""
    changed = bytearray(data)
    for place in rng.integers(0, len(data), rng.integers(1, 12)):
        changed[place] ^= 1 << int(rng.integers(0, 8))
    return bytes(changed)


def flip_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Flips a few bits of the header or the pickle."""
    return flip(data[:400], rng) + data[400:]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    """Cuts the end off."""
    return data[: rng.integers(0, len(data))]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    """Inserts random bytes."""
    place = int(rng.integers(0, len(data)))
    return data[:place] + rng.bytes(int(rng.integers(1, 64))) + data[place:]


def huge_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Writes a huge number of 4 or 8 bytes somewhere in the first part, or over the last part."""
    number = int(rng.choice(np.asarray(_HUGE, np.uint64)))
    packed = struct.pack("<Q", number)[: int(rng.choice([4, 8]))]
    place = int(rng.integers(0, min(400, len(data) - 8)))
    place = place if rng.random() < 0.7 else len(data) - 9 - place % (len(data) - 9)
    return data[:place] + packed + data[place + len(packed) :]


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    """Exchanges two parts."""
    a, b, c = sorted(rng.integers(0, len(data), 3).tolist())
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def header(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes the JSON header of safetensors: offsets, shapes, types, keys, depth."""
    length = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + length].decode(), data[8 + length :]
    entry = '"x":{"dtype":"F32","shape":%s,"data_offsets":%s}'
    extra = [
        entry % ("[1]", "[0,4]"),
        entry % ("[1]", "[-4,0]"),
        entry % ("[-1]", "[0,4]"),
        entry % ("[4611686018427387904,4]", "[0,0]"),
        entry % (f"[{int(rng.choice(_HUGE[:5]))}]", f"[0,{int(rng.choice(_HUGE[:5]))}]"),
        entry % ("[0,99999999999]", f"[{len(body)},{len(body)}]"),
        entry % ("[" * 5000 + "]" * 5000, "[0,4]"),
        entry % (json.dumps([1] * 200), "[0,4]"),
        '"fc.bias":{"dtype":"F16","shape":[5],"data_offsets":[0,10]}',
        '"x":null',
        '"__metadata__":{"a":' + '{"b":' * 1000 + "1" + "}" * 1001,
    ]
    changed = "{" + str(rng.choice(np.asarray(extra, object))) + "," + text[1:]
    return struct.pack("<Q", len(changed)) + changed.encode() + body


class _Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _pickles(rng: np.random.Generator) -> bytes:
    """Returns a hostile pickle: code, deep nesting, huge arrays or tensors out of nothing."""
    import torch

    size = int(rng.choice(_HUGE[:4]))
    kind = int(rng.integers(0, 7))
    if kind == 0:
        return pickle.dumps({"a": [_Call(os.mkdir, str(_SENTINEL))]}, 2)
    if kind == 1:
        return pickle.dumps(
            {"a": {"b": _Call(eval, f"__import__('os').mkdir({str(_SENTINEL)!r})")}}, 2
        )
    if kind == 2:
        depth = int(rng.choice([2_000, 200_000]))
        return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    if kind == 3:
        return pickle.dumps({"a": _Call(np.empty(0).__class__, (size,))}, 2)
    if kind == 4:
        return pickle.dumps({"a": _Call(bytearray, size % 2**40)}, 2)
    if kind == 5:  # Lists that hold each other twice: 2 ** 60 leaves in a few hundred bytes.
        nested: list[Any] = []
        for _ in range(60):
            nested = [nested, nested]
        return pickle.dumps({"a": nested}, 2)
    return pickle.dumps({"a": _Call(torch._utils._rebuild_tensor_v2, None, 0, (size,), (0,))}, 2)


def hostile_pickle(data: bytes, rng: np.random.Generator) -> bytes:
    """Replaces the pickle of a torch file."""
    if not data.startswith(b"PK"):
        stream = io.BytesIO(data)
        for _ in range(3):
            pickle.load(stream)  # Its opening, which torch wrote here a moment ago.
        return data[: stream.tell()] + _pickles(rng) + pickle.dumps([], 2)
    return _zipped(data, lambda name, old: _pickles(rng) if name.endswith("data.pkl") else old)


def expanded(data: bytes, rng: np.random.Generator) -> bytes:
    """Gives a tensor a huge shape with strides of 0: all its elements are one number."""
    import torch

    stream, size = io.BytesIO(), int(rng.choice([2**28, 2**33, 2**40]))
    tensor = torch.zeros(1).expand(size)
    torch.save({"w": tensor}, stream, _use_new_zipfile_serialization=data.startswith(b"PK"))
    return stream.getvalue()


def zip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """Compresses the records, one of them 256 MiB of zeros, or repeats them all."""
    if rng.random() < 0.5:
        return _zipped(data, lambda name, old: old, times=2)
    return _zipped(data, lambda name, old: bytes(2**28) if name.endswith("/0") else old, method=8)


def _zipped(
    data: bytes, change: Callable[[str, bytes], bytes], *, times: int = 1, method: int = 0
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", method) as new:
        for name in old.namelist() * times:
            new.writestr(name, change(name, old.read(name)))
    return stream.getvalue()


_ANY = (flip, flip_head, cut, insert, huge_number, swap)
CHANGES: dict[str, tuple[Callable[[bytes, np.random.Generator], bytes], ...]] = {
    "safetensors": (*_ANY, header, header),
    "torch zip": (*_ANY, hostile_pickle, expanded),
    "torch legacy": (*_ANY, hostile_pickle, expanded),
}


def verdict(path: Path) -> str:
    """Reads a file in a process of its own; returns "loads", "error" and its type, or a fault."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = _read(path)
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        if not select.select([stream], [], [], _WAIT_SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
        said = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return said or f"fault: ended by status {status} (9 or 24: more time than is allowed)"


def _read(path: Path) -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _ROOM + 4 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + 1 + _SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    is_torch = path.suffix == ".pth"
    load = torch_file.load_torch_file if is_torch else safetensors_file.load_safetensors_file
    try:
        _copy(load(path))
    except MemoryError:
        return "fault: MemoryError"
    except (ValueError, OSError) as error:
        if "MemoryError" in str(error):
            return f"fault: {error}"
        named = str(path) in str(error)
        return (
            f"error {type(error).__name__}"
            if named
            else f"fault: not named by {type(error).__name__}: {error}"
        )
    except BaseException as error:
        return f"fault: {type(error).__name__}: {error}"
    return "loads"


def _copy(saved: Any) -> None:
    values = saved.values() if isinstance(saved, dict) else saved if isinstance(saved, list) else ()
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype != object:
            np.array(value)
        elif isinstance(value, dict):
            _copy(value)


def _without_code(content: bytes, said: str) -> str:
    """Returns the verdict, or a fault if the file's code was run or its call was not refused."""
    if _SENTINEL.exists():
        _SENTINEL.rmdir()
        return "fault: the file's code was run"
    if said == "loads" and str(_SENTINEL).encode() in content:
        return "fault: a pickle that calls a function was read"
    return said


def main() -> None:
    """Reads damaged files, prints a table and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    rng, sound = np.random.default_rng(options.seed), whole_files()
    counts: Counter[tuple[str, str, str]] = Counter()
    faults, began = [], time.monotonic()
    bombs = max(1, options.count // 250)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(options.count):
            kind = list(SUFFIXES)[index % 3]
            change = CHANGES[kind][index // 3 % len(CHANGES[kind])]
            if kind == "torch zip" and index // 3 < bombs:
                change = zip_bomb
            path = Path(folder) / f"{index}{SUFFIXES[kind]}"
            content = change(sound[kind], rng)
            path.write_bytes(content)
            said = _without_code(content, verdict(path)).replace(str(path), path.name)
            counts[kind, change.__name__, said.partition(":")[0]] += 1
            if said.startswith("fault"):
                faults.append([index, kind, change.__name__, said])
            path.unlink()
    rows = [[*key, number] for key, number in sorted(counts.items())]
    for kind, change_name, said, number in rows:
        print(f"{kind:13} {change_name:15} {said:20} {number:5}")
    for fault in faults[:40]:
        print(*fault)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(time.monotonic() - began, 1),
        "count": options.count,
        "seed": options.seed,
        "counts": rows,
        "faults": faults,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(faults)} faults in {options.count} files; {options.out}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
