"""Reads safetensors files as views of the file itself."""

import math
import mmap
from pathlib import Path
from types import ModuleType

import ml_dtypes
import numpy as np

safetensors: ModuleType | None
try:
    # Not when it is first needed: a thread traces the network then, and imports beside it wait.
    import safetensors
except ModuleNotFoundError:  # Training works without this package.
    safetensors = None

# NumPy types by their names in a file's header.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# First bytes of other files that are often saved as .safetensors, and what these files are.
_OTHER_FILES = (
    (b"<", "an HTML page (an error page that was saved?)"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself with `git lfs pull`)"),
    (b"\x80", "a pickle: name it .pth"),
    (b"PK", "a zip archive: if torch.save wrote it, name it .pth"),
)


class SafetensorsFileError(ValueError):
    """A file is not a complete safetensors file, or holds a type of numbers that NumPy lacks."""


def load_safetensors_file(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name, in the types of the file.

    The package safetensors checks the file and lists its tensors. The arrays are views of the file,
    because the package's own reader copies each tensor, which takes 0.05 s more than 0.2 s for a
    ResNet-50. They are writable without changing the file, and valid only until the file changes.

    Raises:
      SafetensorsFileError: naming the file, and what it seems to be.
    """
    if safetensors is None:
        raise ModuleNotFoundError(
            f"{path} cannot be read without the package safetensors; install it: "
            "pip install safetensors"
        )
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # In the order of their bytes.
            slices = {key: file.get_slice(key) for key in file.offset_keys()}
            kinds = {key: (s.get_dtype(), tuple(s.get_shape())) for key, s in slices.items()}
    except safetensors.SafetensorError as error:
        with path.open("rb") as stream:
            opening = stream.read(32)
        raise SafetensorsFileError(
            f"{path} is not a complete safetensors file ({error}): {_describe(opening)}; fetch it "
            "again"
        ) from error
    with path.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    # The tensors follow the header, and each other, without a gap.
    start = 8 + int.from_bytes(content[:8], "little")
    arrays = {}
    for key, (kind, shape) in kinds.items():
        if kind not in _DTYPES:
            raise SafetensorsFileError(
                f"{path}: {key} is of type {kind}; expected one of {', '.join(_DTYPES)}"
            )
        arrays[key] = np.frombuffer(content, _DTYPES[kind], math.prod(shape), start).reshape(shape)
        start += arrays[key].nbytes
    return arrays


def is_safetensors(path: Path) -> bool:
    """Returns whether a file is one by its name, or by its first bytes."""
    with path.open("rb") as stream:
        opening = stream.read(9)
    # The format opens with the length of its header, in 8 bytes, and the header's brace.
    return path.suffix == ".safetensors" or (opening[8:] == b"{" and opening[5:8] == bytes(3))


def safetensors_metadata(path: Path) -> dict[str, str]:
    """Returns the text that a file holds beside its tensors; none if it is no safetensors file."""
    if safetensors is None or not path.is_file() or not is_safetensors(path):
        return {}
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except safetensors.SafetensorError:  # Reading the tensors says what is wrong.
        return {}


def _describe(opening: bytes) -> str:
    """Describes a file that is not a safetensors file by its first bytes."""
    if not opening:
        return "it is empty"
    for start, what in _OTHER_FILES:
        if opening.lstrip().startswith(start):
            return f"it is {what}"
    # The format opens with the length of its header, in 8 bytes, and the header's brace.
    return "it is cut short" if opening[8:9] == b"{" else f"it begins with {opening!r}"
