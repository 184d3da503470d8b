"""What the processes of a job must have in common: the folder, the configuration, the data."""

import json
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from tl_jax import config as configuration
from tl_jax import distributed
from tl_jax.config import Config
from tl_jax.run.examples import Examples
from tl_jax.run.record import RunInfo

# A network file system shows a new file after some seconds at the latest.
LONGEST_LOOK_S = 15.0


def check_shared(folder: Path) -> None:
    """Checks that all processes have the same folder: process 0 writes a file, all look for it.

    Raises:
      ValueError: in all processes, if not; it names one that does not see the file.
      OSError: in all processes, if process 0 cannot write there.
    """
    if distributed.is_alone():
        return

    def write() -> str:
        token = f"seen-by-all-{secrets.token_hex(4)}.part"
        (folder / token).touch()
        return token

    token = distributed.first(write)
    sees = distributed.gather([_appears(folder / token), socket.gethostname()])
    distributed.first(lambda: (folder / token).unlink(missing_ok=True))
    for index, (sees_it, host) in enumerate(sees):
        if not sees_it:
            raise ValueError(
                f"process {index} on {host} does not see what process 0 on {sees[0][1]} writes to "
                f"{folder}; take a folder that all of them share, such as one on NFS (--workdir)"
            )


def _appears(path: Path) -> bool:
    start = time.monotonic()
    while not path.exists():
        if time.monotonic() - start > LONGEST_LOOK_S:
            return False
        time.sleep(0.1)
    return True


def check_config(config: Config) -> None:
    """Raises a ValueError in all processes if their configurations differ."""
    if distributed.is_alone():
        return
    texts = distributed.gather(configuration.to_json(config))
    for index, text in enumerate(texts):
        if text != texts[0]:
            parsed = (configuration.from_json(each) for each in (texts[0], text))
            lines = "\n  ".join(configuration.differences(*parsed))
            raise ValueError(
                f"process {index} has another configuration than process 0 (process 0 != process "
                f"{index}):\n  {lines}\nstart all of them with the same command"
            )


def check_data(by_split: Mapping[str, Examples]) -> None:
    """Raises a ValueError in all processes if the examples that they find differ."""
    facts = {
        split: {"images": len(listed.labels), "digest": listed.digest}
        for split, listed in by_split.items()
    }
    distributed.same(facts, "the data", remedy="give all of them the same files, names and labels")


def check_info(info: RunInfo) -> None:
    """Raises a ValueError in all processes if classes, weights or versions of libraries differ."""
    record = json.loads(info.to_json())
    if record["weights"] is not None:
        del record["weights"]["file"]  # Each host has its own copy; its hash is compared.
    distributed.same(
        record,
        "the classes, weights or libraries",
        remedy="give all of them the same data, weights and environment",
    )
