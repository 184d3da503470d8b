"""`python -m tl_jax.onednn` builds oneDNN's convolutions, and says what it found."""

import sys

from tl_jax.onednn import build, library


def main() -> int:
    """Builds and loads the library; returns 0, or 1 if that is not possible here."""
    loaded = library.load()
    if isinstance(loaded, build.UnavailableError):
        print(f"not built: {loaded}", file=sys.stderr)
        return 1
    ingredients = build.find()
    print(f"oneDNN {loaded.version}: {ingredients.library}")
    print(f"built: {build.build(ingredients)}")
    code = loaded.implementation(
        "forward",
        [(16, 32, 32, 64), (3, 3, 64, 64), (16, 32, 32, 64)],
        is_bfloat16=False,
        stride=(1, 1),
        pads=(1, 1, 1, 1),
        groups=1,
        parts=1,
    )
    print(f"a 3x3 convolution runs as {code or 'none of its codes'} on this CPU")
    return 0


if __name__ == "__main__":
    sys.exit(main())
