"""Reads files of `torch.save` without torch, and without running code that a pickle names."""

import io
import math
import mmap
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import ml_dtypes
import numpy as np

from tl_jax.weights import elsewhere, stand_ins
from tl_jax.weights.pickles import TorchFileError, checked

__all__ = ["TorchFileError", "load_torch_file"]

# The first object in every file of the format that torch wrote before version 1.6.
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL_VERSION = 1001
_ZIP_SIGNATURE = b"PK"
_PICKLE_SIGNATURE = b"\x80"

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    # Of quantised tensors, which are named by their key later.
    "QInt8Storage": np.int8,
    "QUInt8Storage": np.uint8,
    "QInt32Storage": np.int32,
    "ComplexDoubleStorage": np.complex128,
    "ComplexFloatStorage": np.complex64,
    "UntypedStorage": np.uint8,
}
_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex128": np.complex128,
    "complex64": np.complex64,
}
# A tensor with strides of 0 can have any size. Whoever copies or adds it up needs memory and time.
_MAX_EXPANDED_BYTES = 2**24


def load_torch_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file of `torch.save`, in the zip format (torch >= 1.6) or the older one.

    Dense tensors come as NumPy arrays of the same type, shape and strides; tensors that share a
    storage share memory. Dicts, lists, tuples and plain values come as they are. Of all other
    objects (options of a training script, optimizers, modules) only the saved contents come, as
    `stand_ins.Foreign`: no class is imported, and no code runs.

    Args:
      path: the file, whatever its suffix.

    Returns:
      The saved object: often a state dict, or a dict that holds one (see
      `tl_jax.weights.checkpoint.unwrap`).

    Raises:
      TorchFileError: naming the file, if it is damaged, asks for functions that run code, or is the
        pickle of a whole object.
      OSError: if the file cannot be opened.

    Examples:
      >>> import torch
      >>> torch.save({"model": {"fc.bias": torch.zeros(5)}, "epoch": 3}, "model.pth")
      >>> load_torch_file("model.pth")["model"]
      {'fc.bias': array([0., 0., 0., 0., 0.], dtype=float32)}
    """
    file = Path(path)
    with file.open("rb") as stream:
        opening = stream.read(2)
        stream.seek(0)
        # Of a file that cannot be read: some save with torch under these suffixes, too.
        other = elsewhere.SUFFIXES.get(file.suffix.lower())
        try:
            saved = (_read_zip if opening == _ZIP_SIGNATURE else _read_legacy)(stream, file)
        except TorchFileError as error:
            if other is None or error.is_refusal:
                raise
            raise TorchFileError(f"{file} is not a file of torch.save: it is {other}") from error
        # A damaged pickle or archive can raise nearly anything from inside the standard library.
        except Exception as error:
            if other is not None:
                raise TorchFileError(
                    f"{file} is not a file of torch.save: it is {other}"
                ) from error
            raise TorchFileError(
                f"{file} is damaged or cut short ({type(error).__name__}: {error}); "
                "fetch or save the file again"
            ) from error
    if isinstance(saved, stand_ins.Foreign) and not saved:  # One with items is a kind of dict.
        raise TorchFileError(
            f"{file} holds a whole object of the class {saved.kind}, which cannot be read without "
            "that class's code; load it with torch and save its tensors: "
            "torch.save(model.state_dict(), FILE)"
        )
    return saved


class _Marker:
    """Replaces a class of torch that a file names only to state a type."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


class _Storage:
    """The bytes of one storage and the type that it was saved with."""

    __slots__ = ("data", "dtype")

    def __init__(self, dtype: np.dtype, data: np.ndarray) -> None:
        self.dtype = dtype
        self.data = data


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values, dicts and tensors; `storage(key, n_bytes)` gives a storage's bytes.

    Stand-ins are created for each file, so that attributes which a pickle sets on them do not
    affect other files.
    """

    def __init__(
        self, data: bytes, file: Path, storage: Callable[[str, int], np.ndarray] | None = None
    ) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
        self._file = file
        self._storage = storage
        self.storages: dict[str, _Storage] = {}
        self._globals: dict[tuple[str, str], Callable[..., Any]] = {
            **stand_ins.plain_globals(),
            ("torch._utils", "_rebuild_tensor"): lambda *args: _tensor(*args),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *args: _tensor_v2(*args),
            ("torch._utils", "_rebuild_tensor_v3"): (
                lambda storage, offset, shape, strides, requires_grad, hooks, dtype, *_: _tensor(
                    storage, offset, shape, strides, dtype
                )
            ),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_: data,
            ("torch._utils", "_rebuild_device_tensor_from_numpy"): lambda data, *_: data,
            # A subclass of Tensor: what its tensor would be.
            ("torch._tensor", "_rebuild_from_type_v2"): lambda fn, _, args, *state: fn(*args),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in of a global; refuses functions that run code."""
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Marker(name)
        if module == "torch" and name in _DTYPES:
            return _Marker(name)
        if stand_ins.is_harmful(module, name):
            raise TorchFileError(
                f"{self._file} asks for {module}.{name}, which runs code or touches the system, "
                "and was refused: no checkpoint needs it. Fetch the file from a source that can "
                "be trusted",
                is_refusal=True,
            )
        if (module, name) not in self._globals:
            self._globals[module, name] = stand_ins.foreign(module, name)
        return self._globals[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Returns the storage that `("storage", type, key, location, numel, ...)` names.

        The older format has the source text of a pickled module's class beside the class.
        """
        if pid and pid[0] == "module":
            return pid[1]
        kind, marker, key, _, numel, *view = pid
        if kind != "storage" or self._storage is None or any(part is not None for part in view):
            raise TorchFileError(f"{self._file} holds a {pid!r}, which this reader does not know")
        dtype = np.dtype(_STORAGES[marker.name])
        if key not in self.storages:
            if type(numel) is not int or numel < 0:
                raise TorchFileError(f"{self._file}: storage {key!r} has {numel} elements")
            self.storages[key] = _Storage(dtype, self._storage(key, numel * dtype.itemsize))
        known = self.storages[key]
        if (known.dtype, known.data.nbytes) != (dtype, numel * dtype.itemsize):
            raise TorchFileError(f"{self._file}: storage {key!r} is named with two types or sizes")
        return known


def _tensor_v2(*args: Any) -> np.ndarray:
    """Returns a tensor; its metadata would say that the values must be conjugated or negated."""
    if len(args) > 6 and args[6]:
        raise ValueError(f"a tensor has the metadata {args[6]!r}, which this reader does not know")
    return _tensor(*args[:4])


def _tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    marker: _Marker | None = None,
) -> np.ndarray:
    """Returns a tensor as a view of its storage; offset and strides count elements."""
    dtype = storage.dtype if marker is None else np.dtype(_DTYPES[marker.name])
    described = f"a tensor of shape {shape} and strides {strides} at offset {offset}"
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"{described} is impossible")
    numel = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if numel and (last + 1) * dtype.itemsize > storage.data.nbytes:
        raise ValueError(f"{described} reaches beyond its storage of {storage.data.nbytes} bytes")
    if numel == 0:
        return np.empty(shape, dtype)
    if numel * dtype.itemsize > max(storage.data.nbytes, _MAX_EXPANDED_BYTES):
        raise ValueError(
            f"{described} repeats the {storage.data.nbytes} bytes of its storage; at most "
            f"{_MAX_EXPANDED_BYTES} bytes are read so, save it with tensor.contiguous()"
        )
    return np.ndarray(
        shape,
        dtype,
        buffer=storage.data,
        offset=offset * dtype.itemsize,
        strides=tuple(step * dtype.itemsize for step in strides),
    )


class _Content(mmap.mmap):
    """The content of a file: of a damaged, huge length it gives what there is.

    A file's own `read` would reserve memory of that length.
    """

    def seekable(self) -> bool:
        """As of a file; `zipfile` asks."""
        return True


def _read_zip(stream: BinaryIO, file: Path) -> Any:
    with (
        _Content(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
        zipfile.ZipFile(cast(BinaryIO, content)) as archive,
    ):
        members = {info.filename: info for info in archive.infolist()}
        roots = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if any(name.endswith("/constants.pkl") for name in members):
            raise TorchFileError(
                f"{file} is a TorchScript archive; load it with torch.jit.load and save its "
                "tensors: torch.save(module.state_dict(), FILE)"
            )
        if len(roots) != 1:
            raise TorchFileError(f"{file} is a zip archive, but not one that torch.save wrote")
        root = roots[0]
        if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
            raise TorchFileError(f"{file} holds compressed records, which torch.save never writes")
        order = archive.read(root + "byteorder") if root + "byteorder" in members else b"little"
        if order != b"little":
            raise TorchFileError(
                f"{file} has byte order {order.decode()!r}; load it with torch and save it on a "
                "little-endian machine"
            )

        reserve = _reserve_within(stream, file)

        def storage(key: str, n_bytes: int) -> np.ndarray:
            record = members[f"{root}data/{key}"]
            if record.file_size != n_bytes:
                raise TorchFileError(
                    f"{file} is damaged: {record.filename} has {record.file_size} bytes, "
                    f"expected {n_bytes}"
                )
            data = reserve(key, n_bytes)
            # zipfile verifies the record's checksum; a memory map would not.
            data[:] = np.frombuffer(archive.read(record), np.uint8)
            return data

        pickled = checked(io.BytesIO(archive.read(root + "data.pkl")), file)
        return _Unpickler(pickled, file, storage).load()


def _read_legacy(stream: io.BufferedReader, file: Path) -> Any:
    _check_opening(stream, file)
    with _Content(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        result, storages = _read_legacy_pickles(content, stream, file)
        stream.seek(content.tell())
    for storage in storages:
        _fill(storage, stream, file)
    return result


def _read_legacy_pickles(
    content: _Content, stream: BinaryIO, file: Path
) -> tuple[Any, list[_Storage]]:
    """Returns the saved object, and its storages in the order of their bytes, yet to be filled."""

    def next_pickle() -> bytes:
        return checked(cast(BinaryIO, content), file)

    magic = _Unpickler(next_pickle(), file).load()
    if magic != _MAGIC:
        raise TorchFileError(
            f"{file} is a pickle, but not one that torch.save wrote; if you trust it, load it in "
            "Python and give its state dict: from_state_dict(model, state_dict)"
        )
    version = _Unpickler(next_pickle(), file).load()
    if version != _PROTOCOL_VERSION:
        raise TorchFileError(f"{file} has protocol {version}, expected {_PROTOCOL_VERSION}")
    next_pickle()  # Facts about the machine; storages are always little-endian.
    unpickler = _Unpickler(next_pickle(), file, _reserve_within(stream, file))
    result = unpickler.load()
    keys = _Unpickler(next_pickle(), file).load()
    if sorted(keys) != sorted(unpickler.storages):
        raise TorchFileError(f"{file} is damaged: it lists other storages than its tensors use")
    return result, [unpickler.storages[key] for key in keys]


def _check_opening(stream: BinaryIO, file: Path) -> None:
    opening = stream.read(64)
    stream.seek(0)
    if not opening:
        raise TorchFileError(f"{file} is empty; fetch or save the file again")
    for start, what in elsewhere.OPENINGS:
        if opening.lstrip().startswith(start):
            raise TorchFileError(f"{file} is not a file of torch.save: it is {what}")
    if not opening.startswith(_PICKLE_SIGNATURE):
        raise TorchFileError(
            f"{file} is not a file of torch.save: it begins with {opening!r}; "
            "fetch or save it again"
        )


def _reserve_within(stream: BinaryIO, file: Path) -> Callable[[str, int], np.ndarray]:
    """Returns a function that reserves storages, no more in total than the file has bytes."""
    room = os.fstat(stream.fileno()).st_size

    def reserve(key: str, n_bytes: int) -> np.ndarray:
        nonlocal room
        room -= n_bytes
        if room < 0:
            raise TorchFileError(
                f"{file} is cut short: storage {key!r} of {n_bytes} bytes does not fit in it; "
                "fetch or save the file again"
            )
        return np.empty(n_bytes, np.uint8)

    return reserve


def _fill(storage: _Storage, stream: io.BufferedReader, file: Path) -> None:
    """Reads one storage of the older format: a count of elements, then their bytes."""
    count = int.from_bytes(stream.read(8), "little", signed=True)
    expected = storage.data.nbytes
    if count * storage.dtype.itemsize != expected:
        raise TorchFileError(
            f"{file} is damaged or cut short: a storage has {count} elements of "
            f"{storage.dtype}, expected {expected} bytes"
        )
    got = stream.readinto(storage.data.data)
    if got != expected:
        raise TorchFileError(
            f"{file} is cut short: a storage ends after {got} of {expected} bytes; "
            "fetch or save the file again"
        )
