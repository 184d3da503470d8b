"""The torch-free reader equals torch.load, refuses code, and survives damaged files."""

import argparse
import collections
import dataclasses
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from tl_jax.weights.stand_ins import Foreign
from tl_jax.weights.torch_file import TorchFileError, load_torch_file

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.bool,
    torch.complex64,
    torch.complex128,
]
NOT_IN_LEGACY = (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32)
BOTH_FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def save(tmp_path):
    def save(value, zipped=True, **options):
        path = tmp_path / "saved.pth"
        torch.save(value, path, _use_new_zipfile_serialization=zipped, **options)
        return path

    return save


def _bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _assert_equal(got, tensor):
    tensor = tensor.detach()
    bits = tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else []
    assert got.shape == tuple(tensor.shape)
    assert str(got.dtype) == str(tensor.dtype).removeprefix("torch.")
    if tensor.numel():
        np.testing.assert_array_equal(_bits(got), bits)


@BOTH_FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_torch_load_for_every_type(save, zipped, dtype):
    tensor = torch.randn(5, 3).mul(40).abs().to(dtype)
    saved = {"w": tensor, "scalar": tensor[1, 2].clone()}
    path = save(saved, zipped)
    # torch writes its newest types in the older format too, but cannot read them back.
    expected = saved if dtype in NOT_IN_LEGACY and not zipped else torch.load(path)
    got = load_torch_file(path)
    assert list(got) == list(expected)
    for key in expected:
        _assert_equal(got[key], expected[key])


@BOTH_FORMATS
def test_equals_torch_load_for_every_layout(save, zipped):
    base = torch.arange(120.0).reshape(2, 3, 4, 5)
    tensors = {
        "whole": base,
        "transposed": base.permute(3, 1, 0, 2),
        "channels_last": base.clone().to(memory_format=torch.channels_last),
        "offset": base[1, 2],
        "stepped": base[:, ::2, :, 1::2],
        "expanded": torch.ones(1).expand(7, 3),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(3.5),
        "parameter": torch.nn.Parameter(base[0]),
    }
    path = save(tensors, zipped)
    got, expected = load_torch_file(path), torch.load(path)
    assert list(got) == list(expected)
    for key, tensor in expected.items():
        _assert_equal(got[key], tensor)
    assert got["transposed"].strides == tuple(
        4 * step for step in base.permute(3, 1, 0, 2).stride()
    )


@BOTH_FORMATS
def test_tensors_that_share_a_storage_share_memory(save, zipped):
    base = torch.zeros(6)
    got = load_torch_file(save([base, base[2:]], zipped))
    got[0][2] = 5.0
    assert got[1][0] == 5.0


@BOTH_FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_reads_a_module_state_dict_inside_a_checkpoint(save, zipped, protocol):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    checkpoint = {"epoch": 3, "state_dict": module.state_dict(), "best": (0.5, None, True, "a")}
    got = load_torch_file(save(checkpoint, zipped, pickle_protocol=protocol))
    assert (got["epoch"], got["best"]) == (3, (0.5, None, True, "a"))
    state_dict = got["state_dict"]
    assert list(state_dict) == list(module.state_dict())
    for key, tensor in module.state_dict().items():
        _assert_equal(state_dict[key], tensor)


class _Call:
    """Pickles to a call of any function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@BOTH_FORMATS
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"w": torch.ones(2), "x": [x]}])
@pytest.mark.parametrize("function", [os.system, eval, exec], ids=["system", "eval", "exec"])
def test_code_is_refused_and_not_run(save, tmp_path, zipped, wrap, function):
    proof = tmp_path / "proof"
    code = f"touch {proof}" if function is os.system else f"open({str(proof)!r}, 'w').close()"
    path = save(wrap(_Call(function, code)), zipped)
    with pytest.raises(TorchFileError, match=rf"saved\.pth asks for \w+\.{function.__name__}"):
        load_torch_file(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)  # The file is truly harmful where it is not refused.
    assert proof.exists()


@BOTH_FORMATS
def test_a_pickled_module_is_refused_by_name(save, zipped):
    with pytest.raises(TorchFileError, match=r"torch\.nn\.modules\.linear\.Linear.*state_dict"):
        load_torch_file(save(torch.nn.Linear(2, 2), zipped))


class _Weights(collections.OrderedDict):
    """A mapping of a training script."""


def test_a_mapping_of_an_unknown_class_is_read_as_a_mapping(save):
    got = load_torch_file(save(_Weights(w=torch.ones(2))))
    assert list(got) == ["w"]


@dataclasses.dataclass
class _Options:
    """A class of a training script, which is not there when the checkpoint is read."""

    width: int = 3


class _Mode(enum.Enum):
    FAST = "fast"


@BOTH_FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_objects_of_training_scripts_are_read_without_their_classes(save, zipped, protocol):
    weights = {"fc.weight": torch.ones(2, 3)}
    options = argparse.Namespace(
        model="resnet18",
        lr=np.float64(0.1),
        crop=np.arange(6, dtype=">f4").reshape(2, 3),
        size=torch.Size([2, 3]),
        out=pathlib.PurePosixPath("a/b"),
        started=datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        device=torch.device("cpu"),
        dtype=torch.float16,
        seen={1, 2},
        counts=collections.defaultdict(list, a=[1]),
        recent=collections.deque([1, 2], maxlen=2),
        mode=_Mode.FAST,
        options=_Options(),
        loss_fn=torch.nn.functional.relu,
        partial=functools.partial(int, "3"),
    )
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "args": options,
        "state_dict": weights,
        "optimizer": optimizer.state_dict(),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "rng": np.random.default_rng(0).bit_generator.state,
        "best": np.float32(0.5),
        _Mode.FAST: 1,
    }
    got = load_torch_file(save(checkpoint, zipped, pickle_protocol=protocol))
    np.testing.assert_array_equal(got["state_dict"]["fc.weight"], np.ones((2, 3)))
    assert got["best"] == 0.5
    read = got["args"].state
    assert isinstance(got["args"], Foreign)
    assert (read["model"], read["lr"], read["size"]) == ("resnet18", 0.1, (2, 3))
    np.testing.assert_array_equal(read["crop"].value, options.crop)
    assert (read["seen"], read["counts"], list(read["recent"])) == ({1, 2}, {"a": [1]}, [1, 2])
    assert read["options"].kind.endswith("test_torch_file._Options")
    assert got["optimizer"]["state"][0]["exp_avg"].shape == (2, 3)


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (torch.eye(3).to_sparse(), "sparse_tensor"),
        (torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "qtensor"),
        (torch.ones(3, device="meta"), "meta_tensor"),
    ],
    ids=["sparse", "quantised", "meta"],
)
def test_other_tensors_than_dense_ones_come_without_values(save, tensor, kind):
    got = load_torch_file(save({"w": tensor}))["w"]
    assert not isinstance(got, np.ndarray)
    assert kind in got.kind


def test_an_archive_of_torchscript_is_named(tmp_path):
    path = tmp_path / "traced.pt"
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), path)
    with pytest.raises(TorchFileError, match=r"traced\.pt is a TorchScript.*state_dict"):
        load_torch_file(path)


def test_a_conjugated_view_is_not_read_as_it_lies(tmp_path):
    path = tmp_path / "conj.pth"
    torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, path)
    with pytest.raises(TorchFileError, match="conj"):
        load_torch_file(path)


def test_attributes_put_on_admitted_globals_do_not_outlive_the_file(tmp_path):
    # The opcode BUILD sets attributes on whatever lies on the stack, such as an admitted function.
    pickled = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x04\x00\x00\x00markK\x01s\x86b."
    _write_zip(tmp_path / "bad.pth", pickled)
    assert load_torch_file(tmp_path / "bad.pth").mark == 1
    _write_zip(tmp_path / "next.pth", b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.")
    assert not hasattr(load_torch_file(tmp_path / "next.pth"), "mark")


def _write_zip(path, pickled, records=None, order=b"little", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", order)
        for name, data in (records or {}).items():
            archive.writestr(f"archive/data/{name}", data)


def _pickle_of_tensor(offset, shape, strides, numel=4):
    """Returns the pickle of a tensor over storage "0", whose numbers need not make sense."""
    stream = io.BytesIO()
    _Pickler(stream, protocol=2).dump(_Tensor(offset, shape, strides, numel))
    return stream.getvalue()


class _Tensor:
    def __init__(self, offset, shape, strides, numel):
        self.args = _Storage(numel), offset, shape, strides, False, collections.OrderedDict()

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


class _Storage:
    def __init__(self, numel):
        self.numel = numel


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return "storage", torch.FloatStorage, "0", "cpu", value.numel
        return None


def test_a_handmade_tensor_is_read(tmp_path):
    records = {"0": np.arange(4, dtype=np.float32).tobytes()}
    _write_zip(tmp_path / "good.pth", _pickle_of_tensor(1, (3,), (1,)), records)
    assert load_torch_file(tmp_path / "good.pth").tolist() == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((2, (3,), (1,)), "beyond its storage"),
        ((0, (5,), (1,)), "beyond its storage"),
        ((0, (2, 2), (3, 1)), "beyond its storage"),
        ((2**61, (1,), (1,)), "beyond its storage"),
        ((0, (2,), (2**62,)), "beyond its storage"),
        ((-1, (2,), (1,)), "is impossible"),
        ((3, (2,), (-1,)), "is impossible"),
        ((0, (-2,), (1,)), "is impossible"),
        ((0, (2,), (1, 1)), "is impossible"),
        ((0, (1.5,), (1,)), "is impossible"),
        ((0, (2**62, 4), (0, 1)), "repeats the 16 bytes of its storage"),
        ((0, (2,), (1,), 5), "has 16 bytes, expected 20"),
        ((0, (2,), (1,), 2**60), "has 16 bytes, expected"),
        ((0, (2,), (1,), -4), "has -4 elements"),
    ],
    ids=str,
)
def test_a_tensor_beyond_its_storage_is_an_error(tmp_path, numbers, message):
    path = tmp_path / "bad.pth"
    _write_zip(path, _pickle_of_tensor(*numbers), {"0": bytes(16)})
    with pytest.raises(TorchFileError, match=rf"bad\.pth.*{message}"):
        load_torch_file(path)


def test_storages_larger_than_their_file_are_not_reserved(save):
    path = save({"a": torch.ones(100), "b": torch.ones(100)}, zipped=False)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TorchFileError, match="ends after 100 of 400 bytes"):
        load_torch_file(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(TorchFileError, match="of 400 bytes does not fit"):
        load_torch_file(path)


def test_records_that_are_compressed_or_of_other_byte_order_are_errors(tmp_path):
    pickled, records = _pickle_of_tensor(0, (4,), (1,)), {"0": bytes(16)}
    _write_zip(tmp_path / "a.pth", pickled, records, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(TorchFileError, match=r"a\.pth.*compressed"):
        load_torch_file(tmp_path / "a.pth")
    _write_zip(tmp_path / "b.pth", pickled, records, order=b"big")
    with pytest.raises(TorchFileError, match=r"b\.pth.*byte order 'big'"):
        load_torch_file(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo index 2147483647"),  # It would reserve gigabytes.
        (b"\x80\x02(i__main__\nx\n.", "the pickle opcode INST"),
        (b"\x80\x02(ctorch\nfloat32\no.", "the pickle opcode OBJ"),
        (b"\x80\x02\x82\x01.", "the pickle opcode EXT1"),
        (b"\x80\x02ctorch\nfloat32\n)\x81.", "NEWOBJ"),
    ],
    ids=["memo", "INST", "OBJ", "EXT1", "NEWOBJ"],
)
def test_opcodes_that_no_state_dict_needs_are_errors(tmp_path, pickled, message):
    _write_zip(tmp_path / "bad.pth", pickled)
    with pytest.raises(TorchFileError, match=rf"bad\.pth.*{message}"):
        load_torch_file(tmp_path / "bad.pth")


@BOTH_FORMATS
def test_a_file_cut_short_anywhere_is_an_error_that_names_it(save, zipped):
    path = save({"w": torch.ones(3, 4), "b": torch.ones(2, dtype=torch.float16)}, zipped)
    whole = path.read_bytes()
    for length in [*range(len(whole) - 1, 0, -7), 0]:
        path.write_bytes(whole[:length])
        with pytest.raises(TorchFileError, match=r"saved\.pth"):
            load_torch_file(path)


@BOTH_FORMATS
def test_a_damaged_file_never_raises_anything_else(save, zipped):
    path = save({"w": torch.ones(3, 4), "b": torch.ones(2, dtype=torch.float16)}, zipped)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(random.integers(1, 4)):
            damaged[random.integers(len(whole))] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_torch_file(path)
        except TorchFileError as error:
            assert "saved.pth" in str(error)
            refused += 1
    assert refused > 50


def test_a_flipped_bit_in_the_weights_of_a_zip_file_is_found(save):
    path = save({"w": torch.full((64,), 1.25)})
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.full((64,), 1.25).numpy().tobytes()) + 9] ^= 1
    path.write_bytes(whole)
    with pytest.raises(TorchFileError, match="CRC"):
        load_torch_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not weights\n", "it begins with b'not weights"),
        (b"\n<!DOCTYPE html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\x93NUMPY\x01", "a NumPy file"),
        (b"\x1f\x8b\x08", "compressed"),
        (b"\x89HDF\r\n", "HDF5"),
    ],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "other.pth"
    path.write_bytes(content)
    with pytest.raises(TorchFileError, match=rf"(?s)other\.pth.*{message}"):
        load_torch_file(path)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        (".onnx", "of another framework"),
        (".msgpack", "a file of Flax"),
        (".keras", "of another framework"),
        (".npz", r"from_state_dict\(model, dict\(numpy.load"),
    ],
)
def test_files_of_others_are_named_by_their_suffix(tmp_path, suffix, message):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PK\x03\x04 and no more" if suffix == ".keras" else b"\x08\x07")
    if suffix == ".npz":
        np.savez(path, a=np.zeros(2))
    with pytest.raises(TorchFileError, match=message):
        load_torch_file(path)
    torch.save({"a": torch.ones(2)}, path)
    assert load_torch_file(path)["a"].shape == (2,)


def test_a_refusal_is_said_whatever_the_suffix(tmp_path):
    torch.save({"a": _Call(os.system, "true")}, tmp_path / "a.onnx")
    with pytest.raises(TorchFileError, match="runs code"):
        load_torch_file(tmp_path / "a.onnx")


def test_other_pickles_and_archives_are_errors(tmp_path):
    path = tmp_path / "other.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(TorchFileError, match="a pickle, but not one"):
        load_torch_file(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(TorchFileError, match="a zip archive, but not one"):
        load_torch_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_repeats_a_number_endlessly_is_an_error(tmp_path, zipped):
    path = tmp_path / "model.pth"
    tensor = torch.zeros(1).expand(2**40)
    torch.save({"w": tensor}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TorchFileError, match=r"model\.pth.*repeats the 4 bytes"):
        load_torch_file(path)


def test_a_huge_length_in_the_older_format_reserves_no_memory(tmp_path):
    path = tmp_path / "model.pth"
    text = b"\x80\x02X" + (2**31 - 1).to_bytes(4, "little") + b"a."
    path.write_bytes(text)
    tracemalloc.start()
    try:
        with pytest.raises(TorchFileError, match=r"model\.pth is damaged"):
            load_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
