"""Weights at a web address: torch's cache first, whole files only, and messages that help."""

import dataclasses
import hashlib

import pytest
import torch

from tl_jax.weights import download, index, sources
from tl_jax.weights.sources import WeightsError, read_weights

NAME = "torchvision/alexnet.tv_in1k"


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path):
    """An address (of a local file) whose name states the hash of what is there."""
    torch.save({"a.weight": torch.arange(3.0)}, tmp_path / "w.pth")
    digest = hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest()
    path = (tmp_path / "w.pth").rename(tmp_path / f"w-{digest[:8]}.pth")
    return path.as_uri()


def test_a_file_is_fetched_once_into_torchs_cache(published, cache, monkeypatch):
    assert download.cached(published) is None
    path = download.fetch(published)
    assert path.parent == cache
    assert list(cache.iterdir()) == [path]
    monkeypatch.setattr(download.urllib.request, "urlopen", None)
    assert download.cached(published) == path


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert download.cache_folder() == tmp_path / "c" / "torch" / "hub" / "checkpoints"


def test_another_file_than_the_name_states_is_refused_and_not_kept(tmp_path, cache):
    (tmp_path / "w-00000000.pth").write_bytes(b"something else")
    with pytest.raises(download.DownloadError, match="begins with .*, expected 00000000"):
        download.fetch((tmp_path / "w-00000000.pth").as_uri())
    assert list(cache.iterdir()) == []


def test_an_address_that_cannot_be_reached_leaves_nothing(tmp_path, cache):
    with pytest.raises(download.DownloadError, match="cannot be reached"):
        download.fetch((tmp_path / "absent-00000000.pth").as_uri())
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(published, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(download.DownloadError, match="cannot be downloaded to"):
        download.fetch(published)


def test_weights_of_torchvision_come_from_their_address(published, monkeypatch):
    config = index.pretrained_config(NAME)
    monkeypatch.setattr(
        sources.index, "pretrained_config", lambda name: dataclasses.replace(config, url=published)
    )
    state_dict, record = read_weights(NAME)
    assert list(state_dict["a.weight"]) == [0, 1, 2]
    assert record.source == f"url {published}"
    assert len(record.sha256) == 64


def test_a_failed_download_says_what_to_do(monkeypatch):
    def fail(url):
        raise download.DownloadError(f"{url} cannot be reached (no network)")

    monkeypatch.setattr(sources.download, "fetch", fail)
    with pytest.raises(WeightsError, match=r"alexnet-owt-7be5be79\.pth where there is a network"):
        read_weights(NAME)


def test_the_hub_is_refused_for_what_is_not_there():
    with pytest.raises(WeightsError, match="not on the hub; leave weights at 'auto'"):
        read_weights(NAME, "hub")


@pytest.fixture
def alexnet(published, monkeypatch):
    """The weights of AlexNet are those of the local address."""
    config = dataclasses.replace(index.pretrained_config(NAME), url=published)
    monkeypatch.setitem(index._configs(), NAME, config)
    return published.rpartition("/")[2]


def test_a_file_that_was_changed_in_the_cache_is_refused_with_both_hashes(alexnet, cache):
    read_weights(NAME)
    torch.save({"a.weight": torch.zeros(3)}, cache / alexnet)
    digest = hashlib.sha256((cache / alexnet).read_bytes()).hexdigest()[:8]
    expected = alexnet.partition("-")[2].partition(".")[0]
    message = f"SHA-256 begins with {digest}, expected {expected} as its name states; delete"
    with pytest.raises(WeightsError, match=message):
        read_weights(NAME)
    (cache / alexnet).write_bytes(b"cut")
    with pytest.raises(WeightsError, match=f"expected {expected}"):
        read_weights(NAME)


def test_a_copy_of_a_published_file_is_checked_by_its_name(alexnet, tmp_path):
    torch.save({"a.weight": torch.zeros(3)}, tmp_path / "mine-20260101.pth")
    assert read_weights(NAME, tmp_path / "mine-20260101.pth")[1].source == "file"
    assert read_weights(NAME, tmp_path / alexnet)[1].source == "file"
    (tmp_path / "mine-20260101.pth").rename(tmp_path / alexnet)
    with pytest.raises(WeightsError, match="the published file of this name; if it is another, re"):
        read_weights(NAME, tmp_path / alexnet)
