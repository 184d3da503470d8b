"""The methods of explaining by name, and the one that a user means."""

from collections.abc import Sequence

from tl_jax import arguments, messages
from tl_jax.explanations.attention import Attention
from tl_jax.explanations.cam import GradCAM, GradCAMPlusPlus, HiResCAM
from tl_jax.explanations.gradients import IntegratedGradients, Saliency, SmoothGrad
from tl_jax.explanations.method import Method
from tl_jax.explanations.occlusion import Occlusion

METHODS: dict[str, type[Method]] = {
    cls.name: cls
    for cls in (
        GradCAM,
        GradCAMPlusPlus,
        HiResCAM,
        Saliency,
        SmoothGrad,
        IntegratedGradients,
        Occlusion,
        Attention,
    )
}


def resolve(
    methods: str | Method | Sequence[str | Method], stage: str | None, stages: Sequence[str]
) -> tuple[Method, ...]:
    """Returns the methods that are named, in their order, with the stage whose maps they take.

    Args:
      methods: a method, or several: names of `METHODS`, or methods with options of their own.
      stage: dotted name of a module for the named methods that take one; None for the last stage.
        A stage of a backbone may be called without "backbone." before it.
      stages: those of the network.

    Raises:
      TypeError: if a method is neither a name nor a `Method`.
      ValueError: if there is no such method, none, one twice, or none that takes the stage.

    Examples:
      >>> resolve(["grad_cam", "saliency"], None, ("layer3", "layer4"))
      (GradCAM(stage='layer4'), Saliency())
      >>> resolve("grad_cam", "layer3", ("backbone.layer3", "backbone.layer4"))
      (GradCAM(stage='backbone.layer3'),)
    """
    listed = [methods] if isinstance(methods, str | Method) else list(methods)
    if stage is not None and f"backbone.{stage}" in stages:
        stage = f"backbone.{stage}"
    found = tuple(_resolve(each, stage, stages) for each in listed)
    names = [method.name for method in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"got the methods {names}; expected at least one, and each once")
    if stage is not None and not any(isinstance(m, str) and METHODS[m].takes_stage for m in listed):
        raise ValueError(
            f"got the stage {stage!r} for {', '.join(names)}, which take no maps of a stage or "
            "name their own; leave it out, or add a class activation map, such as 'grad_cam'"
        )
    return found


def _resolve(method: str | Method, stage: str | None, stages: Sequence[str]) -> Method:
    if isinstance(method, Method):
        return method
    if not isinstance(method, str):
        raise TypeError(
            f"a method is {arguments.kind(method)}; expected a name, such as 'grad_cam', or a "
            "method with its options, such as SmoothGrad(samples=50)"
        )
    if method not in METHODS:
        raise ValueError(
            f"unknown method {method!r}{messages.hint(method, METHODS)}; expected one of "
            f"{', '.join(METHODS)}"
        )
    cls = METHODS[method]
    if not cls.takes_stage:
        return cls()
    usual = "" if cls is Attention else stages[-1]
    return cls(usual if stage is None else stage)  # type: ignore[call-arg]
