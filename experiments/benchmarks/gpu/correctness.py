"""Whether the card computes what a CPU does: outputs, own gradients, folding."""

import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

from experiments.benchmarks.gpu.case import Case, Scale

# Relative errors allowed against float32 on a CPU, and against the plain forms of what has an own
# derivative: rounding, as between tl_jax and torch on a CPU.
HIGHEST = {"logits": 5e-5, "gradients": 3e-3, "statistics": 1e-4}
# With less precision no error may be larger than this many times that of torch's bfloat16.
OF_TORCH = {"TF32": 1.0, "bfloat16": 1.5}
FOLDING = 1e-4
OWN_FORMS = ("norm_gradient", "pool_gradient", "gelu_memory", "own_convolutions")


def measure(case: Case, scale: Scale) -> Iterator[dict[str, Any]]:
    """Yields the errors of outputs and gradients, by precision and form."""
    import torch

    from experiments.benchmarks import agreement, switches, torch_sides

    low = scale.setting(case, agreement.CHECKED_IMAGES)
    high = dataclasses.replace(low, device="cpu")  # In float32; on the card all the same.
    model = torch_sides.timm_model(high)
    variables = agreement.from_timm(high, model)
    reference = agreement.torch_outputs(high, copy.deepcopy(model))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer = agreement.torch_outputs(low, copy.deepcopy(model), device, bfloat16=True)
    of_peer = _errors(peer, reference)
    yield {"torch's bfloat16": of_peer}
    highest = agreement.jax_outputs(high, variables, "highest")
    for name, outputs in (
        ("highest", lambda: highest),
        ("TF32", lambda: agreement.jax_outputs(high, variables)),
        ("bfloat16", lambda: agreement.jax_outputs(low, variables)),
    ):
        found = _errors(outputs(), reference)
        yield {name: found | {"too_large": _too_large(name, found, of_peer)}}
    with switches.without(OWN_FORMS):
        plain = agreement.jax_outputs(high, variables, "highest")
    found = agreement.errors(highest, plain)
    yield {"plain forms": found | {"too_large": _too_large("highest", found, of_peer)}}
    yield {"folding": _folding(high, variables)}


def _errors(ours: Any, reference: Any) -> dict[str, Any]:
    from experiments.benchmarks import agreement

    found = agreement.errors(ours, reference)
    return found | {"gradients_by_group": agreement.errors_by_group(ours, reference)}


def _too_large(name: str, found: dict[str, Any], of_peer: dict[str, Any]) -> list[str]:
    """Returns which errors are larger than allowed; a NaN is."""
    if name == "highest":
        allowed = HIGHEST
    else:
        allowed = {what: OF_TORCH[name] * of_peer[what] for what in HIGHEST if what in of_peer}
    return [what for what, most in allowed.items() if what in found and not found[what] <= most]


def _folding(setting: Any, variables: Any) -> dict[str, Any]:
    """Returns how far the logits with folded BatchNorm are from those without."""
    import jax

    from experiments.benchmarks import agreement, programs
    from tl_jax.models import layers

    model = programs.make_model(dataclasses.replace(setting, mode="forward"))
    images = programs.make_batch(setting)["image"]
    logits = []
    for when in ("always", "never"):
        with layers.fold_norms(when), jax.default_matmul_precision("highest"):
            logits.append(jax.device_get(jax.jit(layers.folded(model.apply))(variables, images)))
    error = agreement.relative_error(logits[:1], logits[1:])
    return {"logits": error, "too_large": [] if error <= FOLDING else ["logits"]}
