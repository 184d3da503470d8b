"""The switches of tl_jax's faster forms: how a program is made without each, by name."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

from tl_jax import onednn
from tl_jax.models.layers import activations, batch_statistics, convolution, folding, max_pool
from tl_jax.transfer.peft import lora


@dataclasses.dataclass(frozen=True)
class Switch:
    """A faster form, and how a program is made without it.

    Attributes:
      about: what the form is, in a few words.
      off: makes contexts; what is traced, lowered and compiled in them goes without the form.
      step_options: options of the training step without the form.
      compiler_options: of XLA, without the form.
    """

    about: str
    off: Callable[[], Sequence[contextlib.AbstractContextManager[Any]]] = tuple
    step_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compiler_options: Mapping[str, bool] = dataclasses.field(default_factory=dict)


# Where the product has no switch, because nobody would turn it off, the function that has a
# derivative of its own is replaced by its plain form, which JAX differentiates.
SWITCHES: dict[str, Switch] = {
    "norm_gradient": Switch(
        "BatchNorm's own derivative",
        lambda: (
            mock.patch.object(batch_statistics, "moments", batch_statistics.moments.fun),
            mock.patch.object(batch_statistics, "normalized", batch_statistics.normalized.fun),
            # Its traces hold the derivatives.
            mock.patch.object(
                batch_statistics, "batch_norm", batch_statistics.batch_norm.__wrapped__
            ),
        ),
    ),
    "pool_gradient": Switch(
        "max pooling's own derivative",
        lambda: (mock.patch.object(max_pool, "max_pool", max_pool.max_pool.fun),),
    ),
    "gelu_memory": Switch(
        "GELU that keeps its input alone",
        lambda: (
            mock.patch.object(activations, "_gelu", activations._plain_gelu),
            mock.patch.object(activations, "_gelu_tanh", activations._plain_gelu_tanh),
        ),
    ),
    "folding": Switch(
        "frozen BatchNorm folded into convolutions", lambda: (folding.fold_norms("never"),)
    ),
    "separate_norms": Switch(
        "BatchNorm apart from convolutions, as on a CPU; folded in its place",
        lambda: (folding.fold_norms("always"),),
    ),
    "gradient_norm": Switch("the logged gradient norm", step_options={"log_grad_norm": False}),
    "lora_gradient": Switch(
        "LoRA's own derivative", lambda: (mock.patch.object(lora, "pays", _never),)
    ),
    "own_convolutions": Switch(
        "convolutions by platform", lambda: (convolution.convolution_form("general"),)
    ),
    "library_depthwise": Switch(
        "the library's depthwise convolutions; shifted products in their place",
        lambda: (convolution.convolution_form("shifted"),),
    ),
    "cublas_products": Switch(
        "matrix products of cuBLAS; XLA chooses between it and Triton in their place",
        compiler_options={"xla_gpu_enable_triton_gemm": True},
    ),
    "fusion_autotuner": Switch(
        "XLA's trial of two compilers for each fusion",
        compiler_options={"xla_gpu_experimental_enable_fusion_autotuner": False},
    ),
    "onednn": Switch("oneDNN's convolutions", lambda: (onednn.switched("off"),)),
}


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


@contextlib.contextmanager
def without(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Context in which programs are made without some forms; yields the options of their step."""
    options: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            for context in SWITCHES[name].off():
                stack.enter_context(context)
            options |= SWITCHES[name].step_options
        yield options


def compiler_options(names: Sequence[str]) -> dict[str, bool]:
    """Returns the options of XLA with which programs are compiled without some forms."""
    return {
        option: value for name in names for option, value in SWITCHES[name].compiler_options.items()
    }
