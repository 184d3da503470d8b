"""Damaged and hostile files of weights end in a sound read or in the reader's own error."""

import builtins
import io
import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from experiments import fuzz_weights
from tests.support.slim import ROOT
from tl_jax.weights import pickles, torch_file
from tl_jax.weights.safetensors_file import SafetensorsFileError, load_safetensors_file
from tl_jax.weights.stand_ins import Foreign
from tl_jax.weights.torch_file import TorchFileError, load_torch_file

OF_EACH = 25  # Mutations of each kind.


def read(path):
    """Reads a file and touches every array, or returns the reader's own error."""
    load = load_torch_file if path.suffix == ".pth" else load_safetensors_file
    try:
        saved = load(path)
    except (TorchFileError, SafetensorsFileError) as error:
        assert str(path) in str(error)
        return error
    fuzz_weights._copy(saved)
    return saved


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # In the text of a damaged pickle.
@pytest.mark.parametrize("kind", fuzz_weights.SUFFIXES)
def test_mutated_files_are_read_or_named(tmp_path, kind):
    whole = fuzz_weights.whole_files()[kind]
    rng = np.random.default_rng(0)
    path = tmp_path / f"mutated{fuzz_weights.SUFFIXES[kind]}"
    refused = 0
    for change in dict.fromkeys(fuzz_weights.CHANGES[kind]):
        for _ in range(OF_EACH):
            path.write_bytes(change(whole, rng))
            tracemalloc.start()
            began = time.process_time()
            refused += isinstance(read(path), ValueError)
            seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert seconds < 5, change.__name__
            # A tensor may repeat what it stores up to a limit, and it is copied here.
            assert peak < 2**26, change.__name__
            assert not fuzz_weights._SENTINEL.exists(), change.__name__
    assert refused > OF_EACH * len(fuzz_weights.CHANGES[kind]) // 3


class Call:
    """Pickles as a call of a function or class."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def hostile(tmp_path, value, zipped):
    path = tmp_path / "hostile.pth"
    torch.save({"w": torch.ones(2), "x": [value]}, path, _use_new_zipfile_serialization=zipped)
    return path


HARMFUL = {
    "system": (os.system, "touch {}"),
    "popen": (os.popen, "touch {}"),
    "mkdir": (os.mkdir, "{}"),
    "popen of subprocess": (subprocess.Popen, "touch {}"),
    "eval": (eval, "open('{}', 'w')"),
    "exec": (exec, "open('{}', 'w')"),
    "open": (open, "{}", "w"),
    "import": (builtins.__import__, "antigravity"),
    "setattr": (setattr, "", "", ""),
    "pickle": (pickle.loads, b"N."),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", HARMFUL)
def test_a_call_of_the_system_is_refused_and_not_made(tmp_path, name, zipped):
    function, *args = HARMFUL[name]
    proof = tmp_path / "proof"
    args = [each.format(proof) if isinstance(each, str) else each for each in args]
    path = hostile(tmp_path, Call(function, *args), zipped)
    with pytest.raises(TorchFileError, match=r"hostile\.pth asks for .*, which runs code"):
        load_torch_file(path)
    assert not proof.exists()
    assert "antigravity" not in sys.modules


class Outsider:
    """A class that no list names; it must not be made."""

    made = 0

    def __init__(self, text=""):
        Outsider.made += 1

    def __setstate__(self, state):
        Outsider.made += 1


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_an_object_of_another_class_is_a_stand_in(tmp_path, zipped):
    read = load_torch_file(hostile(tmp_path, Call(Outsider, "text"), zipped))
    assert isinstance(read["x"][0], Foreign)
    assert read["x"][0].kind.endswith("Outsider")
    # A function that no list names is not called either.
    read = load_torch_file(hostile(tmp_path, Call(json.loads, "[1]"), zipped))
    assert isinstance(read["x"][0], Foreign)
    assert Outsider.made == 0


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_deep_nesting_is_refused_at_once(tmp_path, zipped):
    depth = pickles._MAX_UNFINISHED + 1
    pickled = b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    path = tmp_path / "deep.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
    else:
        head = (torch_file._MAGIC, torch_file._PROTOCOL_VERSION, {})
        path.write_bytes(b"".join(pickle.dumps(each, 2) for each in head) + pickled)
    with pytest.raises(TorchFileError, match=r"deep\.pth nests more than 100000 objects"):
        load_torch_file(path)


@pytest.mark.parametrize("protocol", [2, 4])
def test_large_containers_are_not_nesting(tmp_path, protocol):
    saved = {
        "names": tuple(f"class {i}" for i in range(21_841)),
        "losses": [float(i) for i in range(30_000)],
        "seen": {i: (i, [i]) for i in range(30_000)},
        "nested": [[[{"a": (1, 2)}]] * 3] * 3,
    }
    torch.save(saved, tmp_path / "large.pth", pickle_protocol=protocol)
    assert load_torch_file(tmp_path / "large.pth") == saved


def test_a_header_of_safetensors_that_promises_too_much_reserves_nothing(tmp_path):
    path = tmp_path / "huge.safetensors"
    tracemalloc.start()
    for length in (2**40, 2**63 - 1, 2**64 - 1):
        path.write_bytes(length.to_bytes(8, "little") + b"{}")
        assert isinstance(read(path), SafetensorsFileError)
    for shape, end in (([2**62, 4], 0), ([2**40], 2**42), ([-1], 4), ([2**63], 8)):
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}})
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(16))
        assert isinstance(read(path), SafetensorsFileError)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_the_pickle_of_a_huge_array_reserves_nothing(tmp_path):
    stream = io.BytesIO()
    torch.save({"x": Call(bytearray, 2**40), "y": Call(np.ndarray, (2**40,))}, stream)
    (tmp_path / "huge.pth").write_bytes(stream.getvalue())
    tracemalloc.start()
    load_torch_file(tmp_path / "huge.pth")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.slow
def test_the_command_finds_no_fault_and_writes_its_table(tmp_path):
    file = tmp_path / "result.json"
    command = [sys.executable, "-m", "experiments.fuzz_weights", "--count", "60", "--seed", "5"]
    done = subprocess.run([*command, "--out", file], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults in 60 files" in done.stdout
    result = json.loads(file.read_text())
    assert result["faults"] == []
    assert sum(number for *_, number in result["counts"]) == 60
