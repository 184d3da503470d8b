"""The options of a command that several processes run together."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import tyro

from tl_jax.distributed import PEER_TIMEOUT_S, START_TIMEOUT_S, initialize, is_first


@dataclasses.dataclass(frozen=True)
class Joining:
    """How a command finds the other processes of its job.

    Attributes:
      distributed: Run as one of several processes: "auto" where JAX finds the others (SLURM, Open
        MPI, Kubernetes, Cloud TPU), else HOST:PORT,COUNT,ID: the place where process 0 listens, the
        number of processes, and which one this is, from 0.
      start_timeout: Seconds in which all processes must have come.
      peer_timeout: Seconds of silence after which a process counts as dead; the others then end
        with the status 75.
    """

    distributed: str | None = None
    start_timeout: int = START_TIMEOUT_S
    peer_timeout: int = PEER_TIMEOUT_S

    def join(self) -> None:
        """Joins the job, if there is one; call it before any use of JAX.

        Processes after the first print nothing on standard output.
        """
        if self.distributed is None:
            return
        initialize(
            self.distributed, start_timeout=self.start_timeout, peer_timeout=self.peer_timeout
        )
        if not is_first():
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


# Fields are options without a prefix: --distributed, not --processes.distributed.
Processes = Annotated[Joining, tyro.conf.arg(name="")]
ALONE = Joining()
