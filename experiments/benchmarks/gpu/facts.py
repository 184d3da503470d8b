"""The card, its libraries, and how fast it copies and multiplies."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the card's name, then copy bandwidth and bfloat16 products of both libraries."""
    import jax
    import torch

    from experiments.benchmarks import report

    del case
    device = jax.devices()[0]
    yield {
        "device": device.device_kind,
        "memory_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "jax_platform": device.client.platform_version,
        "torch_cuda": torch.version.cuda,
        "torch_device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "cudnn_of_torch": torch.backends.cudnn.version(),
        **report.facts(("jax", "jaxlib", "flax", "optax", "torch", "torchvision", "timm")),
    }
    side, values = (64, 2**16) if scale.tiny else (8192, 2**30)
    yield {"jax": _rates(_jax_runs(side, values), side, values, scale.steps)}
    yield {"torch": _rates(_torch_runs(side, values, scale), side, values, scale.steps)}


def _rates(
    runs: tuple[Callable[[int], None], Callable[[int], None]], side: int, values: int, steps: int
) -> dict[str, float]:
    copy_seconds, product_seconds = (_seconds(run, steps) for run in runs)
    return {
        "copy_gigabytes_per_second": 2 * 2 * values / copy_seconds / 1e9,  # Read and written.
        "bfloat16_teraflops": 2 * side**3 / product_seconds / 1e12,
    }


def _seconds(run: Callable[[int], None], steps: int) -> float:
    run(steps)
    start = time.perf_counter()
    run(steps)
    return (time.perf_counter() - start) / steps


def _jax_runs(side: int, values: int) -> tuple[Callable[[int], None], Callable[[int], None]]:
    import jax
    import jax.numpy as jnp

    array = jnp.zeros(values, jnp.bfloat16)
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16) / side**0.5
    negate = jax.jit(lambda x: -x)
    multiply = jax.jit(lambda a, b: a @ b)

    def copies(steps: int) -> None:
        for _ in range(steps):
            result = negate(array)
        jax.block_until_ready(result)

    def products(steps: int) -> None:
        result = matrix
        for _ in range(steps):
            result = multiply(result, matrix)
        jax.block_until_ready(result)

    return copies, products


def _torch_runs(
    side: int, values: int, scale: Scale
) -> tuple[Callable[[int], None], Callable[[int], None]]:
    import torch

    device = "cuda" if scale.device == "gpu" else "cpu"
    array = torch.zeros(values, dtype=torch.bfloat16, device=device)
    matrix = torch.randn(side, side, device=device).to(torch.bfloat16) / side**0.5

    def copies(steps: int) -> None:
        for _ in range(steps):
            result = -array
        result[0].item()

    def products(steps: int) -> None:
        result = matrix
        for _ in range(steps):
            result = result @ matrix
        result[0, 0].item()

    return copies, products
