"""`python -m tl_jax`, which the console script `tl-jax` runs too."""

import sys

from tl_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
