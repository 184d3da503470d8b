"""The pickles in torch's files: their opcodes are checked before any of them is run."""

import pickletools
from pathlib import Path
from typing import BinaryIO

# Every opcode that torch's pickles use. Besides the check of globals, this list excludes opcodes
# that build other objects (INST, OBJ, EXT*) and text opcodes that no checkpoint holds.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 "
    "BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS "
    "EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET BINGET LONG_BINGET BINPUT "
    "LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX BUILD BINPERSID".split()
)
# The C unpickler reserves memory for the largest memo index, so an index needs a limit.
_MEMO_OPCODES = frozenset({"BINPUT", "LONG_BINPUT"})
_TO_MARK = (pickletools.markobject, pickletools.stackslice)
# The most objects that may be unfinished at one time while a pickle is read. The items of a tuple
# are, such as names of 21,841 classes; lists and dicts are written in parts of 1,000 items.
_MAX_UNFINISHED = 100_000
# By how much each opcode makes the unpickler's stack grow, beside what it takes up to a mark.
_GROWTH = {
    opcode.name: len(opcode.stack_after) - sum(kind not in _TO_MARK for kind in opcode.stack_before)
    for opcode in pickletools.opcodes
}


class TorchFileError(ValueError):
    """A file is not one that `torch.save` wrote, is damaged, or asks for more than tensors.

    Attributes:
      is_refusal: whether it asks for what no checkpoint needs, so that somebody may have tampered
        with it.
    """

    def __init__(self, message: str, *, is_refusal: bool = False) -> None:
        super().__init__(message)
        self.is_refusal = is_refusal


def checked(stream: BinaryIO, file: Path) -> bytes:
    """Reads one pickle at the stream's position, and checks its opcodes without running any."""
    start = stream.tell()
    largest_index = unfinished = 0
    marks: list[int] = []
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name not in _OPCODES:
            raise TorchFileError(
                f"{file} holds the pickle opcode {opcode.name}, which no state dict needs; refused",
                is_refusal=True,
            )
        if opcode.name in _MEMO_OPCODES and argument is not None:
            largest_index = max(largest_index, int(argument))
        if opcode.name == "MARK":
            marks.append(unfinished)
        elif pickletools.markobject in opcode.stack_before:
            unfinished = marks.pop() if marks else 0
        unfinished += _GROWTH[opcode.name]
        if unfinished > _MAX_UNFINISHED:
            raise TorchFileError(
                f"{file} nests more than {_MAX_UNFINISHED} objects, or holds a tuple of as many, "
                "which no checkpoint needs; refused",
                is_refusal=True,
            )
    length = stream.tell() - start
    if largest_index > length:
        raise TorchFileError(
            f"{file} is damaged: its pickle of {length} bytes has memo index {largest_index}"
        )
    stream.seek(start)
    return stream.read(length)
