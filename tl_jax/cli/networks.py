"""The command that lists the networks: `models`."""

from collections.abc import Sequence

from tyro.conf import Positional

from tl_jax.models.catalogue import Entry, catalogue
from tl_jax.models.registry import list_models
from tl_jax.weights import aliases


def models(
    pattern: Positional[str] = "*",
    *,
    pretrained: bool = False,
    family: str | None = None,
    max_parameters: float | None = None,
    max_input_size: int | None = None,
    classes: int | None = None,
    license: str = "any",
) -> None:
    """Lists the networks with their sizes and licences; options narrow the list.

    Args:
      pattern: Shell wildcards, such as "resnet*".
      pretrained: List the published weights (arch.tag) in place of the architectures.
      family: Only this family, such as convnext.
      max_parameters: At most so many million parameters.
      max_input_size: Images of at most this side, in pixels.
      classes: Only weights with this many classes; 0 for those without a classifier.
      license: Only weights under this licence, such as apache-2.0; "none" for weights without a
        stated licence, "any" for all.
    """
    entries = catalogue(
        pattern, pretrained=pretrained, family=family,
        max_parameters=None if max_parameters is None else max_parameters * 1e6,
        max_input_size=max_input_size, classes=classes,
        license=None if license == "any" else license,
    )  # fmt: skip
    if not entries and list_models(pattern, pretrained=pretrained):
        raise ValueError(
            f"no network that matches {pattern!r} fits all options; leave an option out"
        )
    if not entries:
        known = list_models(pretrained=pretrained)
        longer = sum(name.startswith(pattern) for name in known)
        advice = aliases.hint(pattern.strip("*"), known)
        if longer:
            advice = f"; '{pattern}*' matches {longer}"
        raise ValueError(f"no network matches {pattern!r}{advice}")
    print(_table(entries))


def _table(entries: Sequence[Entry]) -> str:
    width = max(len("name"), *(len(entry.name) for entry in entries))
    lines = [f"{'name':<{width}}  {'family':<19} {'params':>8} {'size':>4} {'classes':>7}  licence"]
    for entry in entries:
        lines.append(
            f"{entry.name:<{width}}  {entry.family:<19} {entry.parameters / 1e6:>7.1f}M "
            f"{entry.input_size:>4} {entry.classes:>7}  {entry.license or 'not stated'}"
        )
    families = len({entry.family for entry in entries})
    return "\n".join([*lines, f"{len(entries)} listed, of {families} families"])
