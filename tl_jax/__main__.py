"""`python -m tl_jax`, which the console script `tl-jax` runs too."""

import sys

from tl_jax import interrupt


def main() -> int:
    """Runs the command that the process was started with, and returns its exit status."""
    line, resumes = "interrupted", sys.argv[1:2] == ["train"]
    if resumes:
        line += "; the same command goes on from the newest checkpoint"
    with interrupt.ends_the_process(line, resumes=resumes):
        # Imported here: the imports take seconds, in which Ctrl-C must be clean too.
        from tl_jax.cli import main as run

        return run()


if __name__ == "__main__":
    sys.exit(main())
