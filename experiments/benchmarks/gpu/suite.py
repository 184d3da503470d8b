"""Measures everything about tl_jax on one GPU, in one command of less than nine minutes.

    python -m experiments.benchmarks.gpu [--budget 520]
    python -m experiments.benchmarks.gpu --resume RESULT.json   # what that run had no time for
    python -m experiments.benchmarks.gpu --device cpu --tiny --results FOLDER   # to try it

It needs jax, flax, optax, orbax, torch, torchvision and timm, a C compiler for `torch.compile`, and
some 16 cores. It measures the card and its libraries; whether outputs, gradients and statistics are
those of a CPU; training steps of three networks beside torch's; forward passes of 1, 32 and 256
images; augmentation; cached features and many heads; each of our faster forms on and off; what
TL_JAX_DETERMINISTIC=1 costs; the longest operations of a step; and depthwise convolutions one by
one. The peer is compiled, under autocast to bfloat16 and in channels_last; the backbone under its
head is under `no_grad`, with BatchNorm folded. Batches are 256 images of 224 pixels that lie on the
device. Each side takes 10 warm-ups, then 5 blocks of 20 steps in turn.

Nine minutes do for the first cases alone, because `torch.compile` takes one to three for a network:
go on with `--resume`, or name the cases with `--only`. `--caches FOLDER` keeps what is compiled;
another machine with the same card can use it. Seconds of compilation are then those of reading it.

Every case (`table.py`, the most important first) is a process with a time limit. One that fails or
runs out of memory is written down with its last line, and the others go on. A case is imported
while the one before it runs, and touches the card when its turn comes. Results go to
`gpu-<card>.json` and `gpu-<card>.md` in `experiments/results/benchmarks/` after every case.
"""

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import report
from experiments.benchmarks.gpu import page
from experiments.benchmarks.gpu.case import Case, Scale
from experiments.benchmarks.gpu.table import MODULES, all_cases, one_of_each

LANES = 4  # Cases that share the card at a time.
LEAST_SECONDS = 15  # A case with less time left is not begun.
TEMPORARY = Path(tempfile.gettempdir()) / "tl_jax-gpu-benchmark"


class Process:
    """The process of one case: imported at once, measuring from `start` on."""

    def __init__(self, case: Case, options: argparse.Namespace) -> None:
        options.caches.mkdir(parents=True, exist_ok=True)
        self.case = case
        self.out = options.caches / f"{case.name.replace(' ', '-')}.json"
        self.log = self.out.with_suffix(".log")
        self.out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "experiments.benchmarks.gpu", "--case", case.name]
        command += ["--device", options.device, "--out", str(self.out)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *(["--tiny"] if options.tiny else [])],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **caches(case, options.caches), **switch(case)},
                start_new_session=True,
            )

    def start(self, seconds: float) -> None:
        """Gives the case its turn, and so many seconds."""
        self.began, self.limit = time.monotonic(), min(seconds, self.case.seconds)
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"go\n")
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # It has failed already; `result` says why.

    def is_over(self) -> bool:
        """Returns whether the case has ended; ends it where its time is out."""
        if self.process.poll() is None and time.monotonic() - self.began > self.limit:
            self.stop()
        return self.process.poll() is not None

    def stop(self) -> None:
        """Ends the process and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
            self.process.wait()

    def result(self) -> dict[str, Any]:
        """Returns what the case has measured, how it ended, and the last line of a failure."""
        measured = json.loads(self.out.read_text("utf-8")) if self.out.exists() else {}
        seconds = time.monotonic() - self.began
        found = {"status": "done", "seconds": round(seconds, 1), "result": measured}
        code = self.process.returncode
        if code and seconds > self.limit:
            found |= {"status": "stopped", "error": f"its {self.limit:.0f} s were over"}
        elif code:
            lines = self.log.read_text("utf-8", errors="replace").strip().splitlines()
            last = lines[-1][-400:] if lines else ""
            found |= {"status": "failed", "error": last or f"ended with exit status {code}"}
        return found


def caches(case: Case, folder: Path) -> dict[str, str]:
    """Returns the variables that let cases share what was compiled, in a folder.

    A program of ours that was compiled beside others, when the card was busy, may have the slower
    of two algorithms: such cases keep what they compile to themselves.
    """
    jax_cache = {} if case.shares else {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax")}
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TL_JAX_COMPILATION_CACHE_GB": "0",
        **jax_cache,
    }


def switch(case: Case) -> dict[str, str]:
    """Returns the variable that a deterministic case has."""
    return {"TL_JAX_DETERMINISTIC": "1"} if case.deterministic else {}


class Suite:
    """The results of all cases, and their files."""

    def __init__(self, options: argparse.Namespace, cases: Sequence[Case]) -> None:
        self.options, self.cases = options, cases
        self.begin, self.name = time.monotonic(), "gpu-unknown"
        self.results: dict[str, Any] = {}
        if options.resume:
            self.name = options.resume.stem
            earlier = json.loads(options.resume.read_text("utf-8"))["cases"]
            self.results = {
                name: found for name, found in earlier.items() if found["status"] != "not run"
            }

    def left(self) -> float:
        """Returns the seconds that are left of the budget."""
        return self.options.budget - (time.monotonic() - self.begin)

    def is_done(self, case: Case) -> bool:
        """Returns whether a case need not run: it came to its end in the run that is resumed."""
        return self.results.get(case.name, {}).get("status") == "done"

    def add(self, case: Case, found: dict[str, Any]) -> None:
        """Adds the result of a case, and writes the files anew."""
        self.results[case.name] = found
        line = found.get("error") or page.headline(case.kind, found["result"])
        print(f"{case.name}: {found['status']} after {found['seconds']:.0f} s; {line}", flush=True)
        if case.kind == "facts" and "device" in found["result"]:
            words = found["result"]["device"].lower().split()
            self.name = "gpu-" + "-".join(words[:6]) + ("-tiny" if self.options.tiny else "")
        self.write()

    def write(self) -> None:
        """Writes the results as JSON and Markdown."""
        not_run = {"status": "not run", "seconds": 0.0, "result": {}}
        facts = self.results.get("facts", not_run)["result"]
        names = dict.fromkeys([*(case.name for case in self.cases), *self.results])
        whole = {
            "date": facts.get("date", ""),
            "machine": facts.get("machine", {}),
            "versions": facts.get("versions", {}),
            "seconds": round(time.monotonic() - self.begin, 1),
            "cases": {name: self.results.get(name, not_run) for name in names},
        }
        report.write(self.options.results, self.name, whole)
        text = page.render(whole)
        (self.options.results / f"{self.name}.md").write_text(text, encoding="utf-8")


def run_suite(options: argparse.Namespace) -> None:
    """Runs the cases in their order, those that share the card several at a time."""
    cases = chosen(one_of_each() if options.tiny else all_cases(), options.only)
    if options.caches == TEMPORARY and not options.resume:
        shutil.rmtree(TEMPORARY, ignore_errors=True)
    suite = Suite(options, cases)
    waiting = [case for case in cases if not suite.is_done(case)]
    running: list[Process] = []
    ready: Process | None = None  # Imported, and waits for its turn.
    try:
        while waiting or running or ready:
            if ready is None and waiting:
                ready = Process(waiting.pop(0), options)
            if ready and suite.left() < LEAST_SECONDS:
                ready.stop()
                ready, waiting = None, []
            elif ready and may_start(ready.case, running):
                ready.start(suite.left())
                running.append(ready)
                ready = None
                continue
            for process in [process for process in running if process.is_over()]:
                running.remove(process)
                suite.add(process.case, process.result())
            time.sleep(0.05)
    finally:
        for process in [*running, *([ready] if ready else [])]:
            process.stop()
        suite.write()
    print(f"written to {options.results / suite.name}.json and .md")


def chosen(cases: Sequence[Case], words: Sequence[str]) -> list[Case]:
    """Returns the cases whose name holds one of some words, in the words' order, after the facts.

    Args:
      cases: all of them.
      words: none for all.
    """
    found = [case for case in cases if case.kind == "facts"]
    found += [case for word in words or [""] for case in cases if word in case.name]
    return list(dict.fromkeys(found))


def may_start(case: Case, running: Sequence[Process]) -> bool:
    """Returns whether a case can begin beside those that run."""
    if case.shares and all(process.case.shares for process in running):
        return len(running) < LANES
    return not running


def run_case(options: argparse.Namespace) -> None:
    """Measures one case, and writes what it has after every part."""
    (case,) = [case for case in all_cases() if case.name == options.case]
    scale = Scale(options.device, options.tiny)
    scale.prepare()
    module = importlib.import_module(f"experiments.benchmarks.gpu.{MODULES[case.kind]}")
    from experiments.benchmarks import agreement, torch_sides  # noqa: F401

    torch_sides.import_timm()
    sys.stdin.readline()  # Its turn.
    measured: dict[str, Any] = {}
    for part in module.measure(case, scale):
        measured |= part
        unfinished = options.out.with_suffix(".part")
        unfinished.write_text(json.dumps(measured), encoding="utf-8")
        unfinished.replace(options.out)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny networks, to try the suite itself"
    )
    parser.add_argument("--budget", type=float, default=520.0, help="seconds of the whole command")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORDS",
        help='cases whose name holds one of these, in their order, and facts: "steps resnet50"',
    )
    parser.add_argument("--resume", type=Path, help="result file whose finished cases are kept")
    parser.add_argument(
        "--caches",
        type=Path,
        default=TEMPORARY,
        help="folder of what both sides compile, kept and used again; by default a temporary one",
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the suite, or one case in its process."""
    options = parse(arguments)
    run_case(options) if options.case else run_suite(options)
