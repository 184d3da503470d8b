"""`python -m tl_jax`."""

import sys

from tl_jax.cli import main

sys.exit(main(sys.argv[1:]))
