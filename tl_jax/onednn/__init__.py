"""Convolutions of oneDNN in programs for a CPU: an optional library, built where it is used."""

from tl_jax.onednn.forms import describe, form, used_version
from tl_jax.onednn.switch import switched

__all__ = ["describe", "form", "switched", "used_version"]
