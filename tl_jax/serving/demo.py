"""Serves a page on this machine on which a person asks a run about pictures."""

import sys
from os import PathLike
from pathlib import Path

from tl_jax.serving.answers import Answers
from tl_jax.serving.server import PageServer

PORT = 7860


def demo(
    run_or_model: str | Path,
    *,
    port: int = PORT,
    method: str = "grad_cam",
    weights: str | PathLike[str] | None = None,
    value_range: tuple[float, float] | None = None,
    calibrated: bool = False,
) -> None:
    """Serves a page on which pictures are dropped: what the network says of them, and why.

    The page shows the most probable classes (of other tasks the labels with their thresholds, the
    levels, the number), and a map over the picture that explains one of them; the method and what
    is explained are chosen there. It is at http://127.0.0.1:PORT/ on this machine, and nobody else
    can reach it. From another machine go through SSH: `ssh -L 7860:127.0.0.1:7860 THIS_MACHINE`
    there, and open the same address there.

    The function returns when it is interrupted (Ctrl-C, or the stop button of a notebook).

    Args:
      run_or_model, weights, value_range, calibrated: as in `tl_jax.predict`; a network of one
        picture.
      port: of the address; 0 for any that is free.
      method: of explaining, with which the page begins: a name as in `tl_jax.explain`.

    Raises:
      ValueError, FileNotFoundError: as `tl_jax.predict`; or if there is no such method, or the
        network takes more than one picture.
      OSError: if another program has the port.

    Examples:
      >>> demo("runs/photos")  # doctest: +SKIP
      drop pictures on http://127.0.0.1:7860/ (Ctrl-C ends it)
    """
    with PageServer(port) as server:
        answers = Answers(
            run_or_model, method=method, weights=weights, value_range=value_range,
            calibrated=calibrated,
        )  # fmt: skip
        print("compiling, which takes some seconds ...", file=sys.stderr, flush=True)
        answers.warm_up()
        print(f"drop pictures on {server.url} (Ctrl-C ends it)", flush=True)
        try:
            server.serve(answers.network, answers)
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
