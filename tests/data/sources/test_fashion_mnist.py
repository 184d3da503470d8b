"""Fashion-MNIST: idx files in a folder and in a Debian package, and the real set if installed."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tl_jax.data.sources import debian, fashion_mnist
from tl_jax.data.sources.open import open_source, split_names

ARCHIVES = Path("/var/cache/apt/archives")
REAL = [fashion_mnist.INSTALLED] * fashion_mnist.INSTALLED.is_dir() + sorted(
    ARCHIVES.glob("dataset-fashion-mnist_*.deb") if ARCHIVES.is_dir() else ()
)
COUNTS = {"train": 20, "t10k": 10}


def idx(values):
    shape = struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(bytes([0, 0, 8, values.ndim]) + shape + values.tobytes())


@pytest.fixture
def values():
    """Images and labels of both files."""
    rng = np.random.default_rng(0)
    return {
        prefix: (rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count) % 10)
        for prefix, count in COUNTS.items()
    }


@pytest.fixture
def files(values):
    contents = {}
    for prefix, (images, labels) in values.items():
        contents[f"{prefix}-images-idx3-ubyte.gz"] = idx(images)
        contents[f"{prefix}-labels-idx1-ubyte.gz"] = idx(labels.astype(np.uint8))
    return contents


@pytest.fixture
def folder(tmp_path, files):
    root = tmp_path / "мода 1"
    root.mkdir()
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


def write_package(path, files, *, kind="xz"):
    """Writes a Debian package: an `ar` archive of three members, padded to even lengths."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{kind}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd"}
    members[f"data.tar.{kind}"] = data.getvalue()
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in members.items():
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))
    return path


@pytest.mark.parametrize("kind", ["xz", "gz"])
def test_a_folder_and_a_package_hold_the_same(tmp_path, folder, files, values, kind):
    package = write_package(tmp_path / "dataset.deb", files, kind=kind)
    for place in (folder, package):
        for split, prefix in (("train", "train"), ("test", "t10k")):
            source = open_source(f"fashion_mnist:{place}", split)
            assert (source.name, source.split) == (f"fashion_mnist:{place}", split)
            assert source.class_names[9] == "Ankle boot"
            np.testing.assert_array_equal(source.labels(), values[prefix][1])
            for i in (0, 9):
                np.testing.assert_array_equal(source[i]["image"][..., 1], values[prefix][0][i])


def test_slices_count_in_the_files_order(folder, values):
    source = open_source(f"fashion_mnist:{folder}", "train[75%:]+test[:2]")
    assert len(source) == 7
    np.testing.assert_array_equal(source[0]["image"][..., 0], values["train"][0][15])
    np.testing.assert_array_equal(source[6]["image"][..., 0], values["t10k"][0][1])


def test_there_is_no_validation_split_of_its_own(folder):
    assert split_names(f"fashion_mnist:{folder}") == ("train", "test")
    with pytest.raises(ValueError, match=r"no split 'validation' .*train, test .*train\[:90%\]"):
        open_source(f"fashion_mnist:{folder}", "validation")


def test_without_the_files_the_error_says_how_to_get_them(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt-get download dataset-fashion-mnist"):
        open_source("fashion_mnist", "train")
    monkeypatch.setattr(fashion_mnist, "INSTALLED", folder)
    assert open_source("fashion_mnist", "train").name == "fashion_mnist"


def test_a_missing_file_is_named(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="lacks t10k-labels-idx1-ubyte.gz: install"):
        open_source(f"fashion_mnist:{folder}", "train")


def test_damaged_files_are_named(folder, files):
    name = "train-images-idx3-ubyte.gz"
    content = gzip.decompress(files[name])
    damaged = [
        files[name][:200],
        b"no gzip",
        gzip.compress(content[:-1]),
        gzip.compress(b"\0\0\x0d\x03" + content[4:]),  # Of floats.
        gzip.compress(b""),
    ]
    for each in damaged:
        (folder / name).write_bytes(each)
        with pytest.raises(ValueError, match=r"train images of .*fetch the file again"):
            open_source(f"fashion_mnist:{folder}", "train")


def test_what_is_no_package_is_refused(tmp_path, files):
    path = tmp_path / "a.deb"
    path.write_bytes(b"a zip, perhaps")
    with pytest.raises(ValueError, match="not a Debian package"):
        open_source(f"fashion_mnist:{path}", "train")
    content = write_package(path, files).read_bytes()
    path.write_bytes(content[:100])
    with pytest.raises(ValueError, match="not a complete Debian package"):
        open_source(f"fashion_mnist:{path}", "train")


def test_a_package_packed_otherwise_says_to_unpack_it(tmp_path, files):
    path = write_package(tmp_path / "a.deb", files)
    path.write_bytes(path.read_bytes().replace(b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd\0\0"))
    with pytest.raises(ValueError, match="dpkg-deb -x a.deb"):
        debian.read_files(path, lambda name: True)


@pytest.mark.parametrize("size", [b"-60", b"many", b""])
def test_a_package_with_an_impossible_length_ends_at_once(tmp_path, size):
    header = b"debian-binary".ljust(48) + size.ljust(10) + b"`\n"
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + header)
    with pytest.raises(ValueError, match=r"a\.deb has no data\.tar: it is not a complete"):
        debian.read_files(tmp_path / "a.deb", lambda name: True)


def test_members_that_lead_elsewhere_are_read_in_memory_or_passed_over(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            link = tarfile.TarInfo(f"link{kind.decode()}")
            link.type, link.linkname = kind, str(tmp_path / "secret")
            archive.addfile(link)
        for name in ("../outside", str(tmp_path / "absolute")):
            file = tarfile.TarInfo(name)
            file.size = 2
            archive.addfile(file, io.BytesIO(b"ab"))
    (tmp_path / "secret").write_bytes(b"mine")
    size = str(len(stream.getvalue())).encode()
    header = b"data.tar".ljust(48) + size.ljust(10) + b"`\n"
    (tmp_path / "a.deb").write_bytes(b"!<arch>\n" + header + stream.getvalue())
    read = debian.read_files(tmp_path / "a.deb", lambda name: True)
    assert set(read.values()) == {b"ab"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.deb", "secret"]
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_set_is_what_is_published():
    source = open_source(f"fashion_mnist:{REAL[0]}", "train+test")
    labels, train = source.labels(), source.images[:60_000]
    assert np.bincount(labels[:60_000]).tolist() == [6000] * 10
    assert np.bincount(labels[60_000:]).tolist() == [1000] * 10
    # The authors' figure begins with a boot and two T-shirts.
    assert labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert abs(train.mean() / 255 - 0.2860) < 1e-4
    assert abs(train.std() / 255 - 0.3530) < 1e-4
