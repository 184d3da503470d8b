"""Breaks the code in many ways, one at a time, and counts those that a test notices.

Each line of `mutations.jsonl` is a fault as a programmer would make it: an id, a description, a
file, the text to replace, the text that replaces it, and the test files that should fail.

    python -m experiments.mutations
    python -m experiments.mutations --only lora-scale ema-late
"""

import argparse
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIST = Path(__file__).with_name("mutations.jsonl")
# Left out of the copies of the tree. Byte code is copied, because it makes imports quicker.
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", "runs", "build", "site", "shared")
PASSED, FAILED = 0, 1  # Of pytest's exit codes; others say that the tests could not be run.


@dataclasses.dataclass(frozen=True)
class Mutation:
    """One fault.

    Attributes:
      id: short name.
      description: what is wrong with the broken code.
      file: path from the root.
      old, new: the text to replace, which must occur exactly once, and its replacement.
      tests: test files that should notice.
    """

    id: str
    description: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, root: Path) -> None:
        """Edits the file below `root`.

        Raises:
          ValueError: if the file does not hold the old text exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.id}: {self.file} holds the text to replace {text.count(self.old)} times, "
                "expected once; bring the mutation up to date with the code"
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a mutation: the test that failed, or None, and the seconds of the test run."""

    noticed_by: str | None
    seconds: float


def read_mutations(file: Path) -> list[Mutation]:
    """Reads a list of mutations, one JSON object a line."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [Mutation(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def check(mutations: Sequence[Mutation], root: Path) -> None:
    """Raises a ValueError unless ids are unique, every edit applies and all test files exist."""
    ids = [mutation.id for mutation in mutations]
    problems = [f"{id_}: named twice" for id_ in sorted({i for i in ids if ids.count(i) > 1})]
    for mutation in mutations:
        path = root / mutation.file
        count = path.read_text(encoding="utf-8").count(mutation.old) if path.exists() else 0
        if count != 1:
            problems.append(f"{mutation.id}: {mutation.file} holds the old text {count} times")
        missing = [test for test in mutation.tests if not (root / test).exists()]
        problems += [f"{mutation.id}: there is no {test}" for test in missing]
    if problems:
        raise ValueError("mutations that are out of date:\n  " + "\n  ".join(problems))


def run(mutation: Mutation, root: Path, *, timeout: float) -> Outcome:
    """Runs a mutation's tests, up to the first that fails, on a broken copy of the tree.

    Args:
      mutation: the fault.
      root: the tree; it is not changed.
      timeout: seconds after which tests that hang count as having noticed.

    Raises:
      RuntimeError: if the tests could not be run.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(root, copy, ignore=NOT_COPIED, symlinks=True)
        mutation.apply(copy)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        started = time.monotonic()
        try:
            done = subprocess.run(
                [*command, "-p", "no:xdist", "-rfE", *mutation.tests],
                cwd=copy, capture_output=True, text=True, timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(f"no end within {timeout:.0f} s", timeout)
        seconds = time.monotonic() - started
    if done.returncode == PASSED:
        return Outcome(None, seconds)
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{mutation.id}: the tests did not run:\n{done.stdout}\n{done.stderr}")
    return Outcome(found[1], seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line for each mutation and how many were noticed; returns 1 if any was not."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--list", type=Path, default=LIST, help="file of the mutations")
    parser.add_argument("--root", type=Path, default=ROOT, help="tree to break copies of")
    parser.add_argument("--only", nargs="*", help="ids; the default is all")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for each")
    options = parser.parse_args(arguments)
    mutations = read_mutations(options.list)
    unknown = set(options.only or ()) - {mutation.id for mutation in mutations}
    if unknown:
        parser.error(f"no mutation is called {', '.join(sorted(unknown))}")
    mutations = [m for m in mutations if not options.only or m.id in options.only]
    check(mutations, options.root)
    noticed = 0
    for mutation in mutations:
        outcome = run(mutation, options.root, timeout=options.timeout)
        noticed += outcome.noticed_by is not None
        verdict = outcome.noticed_by or "NOT NOTICED"
        print(f"{mutation.id:<20} {outcome.seconds:6.0f} s  {verdict}  ({mutation.description})")
        sys.stdout.flush()
    print(f"{noticed} of {len(mutations)} noticed")
    return int(noticed < len(mutations))


if __name__ == "__main__":
    sys.exit(main())
