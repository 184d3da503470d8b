"""Errors that are the machine's: too little memory, and devices that JAX cannot use."""

import os
import traceback

import jax


def explain(error: BaseException) -> str | None:
    """Returns what to do about an error of the machine; None if it is another error."""
    text = str(error).strip()
    on_device = isinstance(error, jax.errors.JaxRuntimeError)
    if isinstance(error, MemoryError) or (
        on_device and ("RESOURCE_EXHAUSTED" in text or "Out of memory" in text)
    ):
        where = "the device" if on_device else "this machine"
        cause = text.partition("\n")[0] or type(error).__name__
        return (
            f"the memory of {where} does not suffice: {cause}\n"
            "take smaller batches (train: --data.batch-size, evaluate: --batch-size), smaller "
            "images (--data.image-size) or half the bits (--model.dtype bfloat16); with "
            "--data.cache none, train keeps no images in memory"
        )
    # JAX fails with a bare assertion where a platform that it knows has no device.
    if text.startswith("Unable to initialize backend") or _is_of_the_backends(error):
        wanted = os.environ.get("JAX_PLATFORMS")
        named = f"that the variable JAX_PLATFORMS={wanted} names" if wanted else "that it found"
        cause = f": {text.partition(' (set JAX_PLATFORMS')[0]}" if text else ""
        return (
            f"JAX cannot use the devices {named}{cause}\n"
            "unset JAX_PLATFORMS to take what there is, or set it to cpu; a GPU needs its driver "
            "and JAX's package for it, as in pip install 'jax[cuda12]'"
        )
    return None


def _is_of_the_backends(error: BaseException) -> bool:
    if not isinstance(error, AssertionError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].name == "backends"
