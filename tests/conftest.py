"""What holds for all tests: they run on the CPU unless told otherwise."""

import os

# Before JAX is first imported: a device that is there would change the numbers compared.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
