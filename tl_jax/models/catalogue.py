"""The catalogue: facts for choosing a network or a set of weights."""

import dataclasses

from tl_jax import arguments, messages
from tl_jax.models import registry
from tl_jax.weights import index


@dataclasses.dataclass(frozen=True)
class Entry:
    """One architecture, or one set of its weights.

    Attributes:
      name: `arch`, or `arch.tag` for weights.
      family: name of the family's file, such as `"resnet"`.
      parameters: number of parameters, with the classifier of the default weights.
      input_size: longer side of the images in pixels.
      classes: number of classes of the weights' classifier; 0 if they have none.
      license: SPDX identifier of the weights in lower case; None where none is stated.
    """

    name: str
    family: str
    parameters: int
    input_size: int
    classes: int
    license: str | None


def catalogue(
    pattern: str = "*",
    *,
    pretrained: bool = False,
    family: str | None = None,
    max_parameters: float | None = None,
    max_input_size: int | None = None,
    classes: int | None = None,
    license: str | None = None,
) -> list[Entry]:
    """Lists networks by their size, input, classes and licence.

    Args:
      pattern: shell wildcards on the name.
      pretrained: list the published weights in place of the architectures. The entry of an
        architecture describes its default weights.
      family: only architectures of this family.
      max_parameters: only networks with at most this many parameters.
      max_input_size: only networks for images of at most this side, in pixels.
      classes: only weights with a classifier of this many classes.
      license: only weights under this licence (SPDX, in lower case), or `"none"` for those that
        state none.

    Raises:
      ValueError: if there is no such family or licence, naming the nearest.

    Examples:
      >>> [entry.name for entry in catalogue("resnet*", max_parameters=6e6)]
      ['resnet10t']
    """
    _check_options(max_parameters, max_input_size, classes)
    license = license.lower() if isinstance(license, str) else license
    licenses = {index.pretrained_config(n).license or "none" for n in index.pretrained_names()}
    for what, value, known in (
        ("family", family, registry.FAMILIES),
        ("licence", license, licenses),
    ):
        if value is not None and value not in known:
            raise ValueError(
                f"no {what} {value!r}"
                + (messages.hint(value, known) or f"; expected one of {', '.join(sorted(known))}")
            )
    entries = [_entry(name) for name in registry.list_models(pattern, pretrained=pretrained)]
    return [
        entry
        for entry in entries
        if (family is None or entry.family == family)
        and (max_parameters is None or entry.parameters <= max_parameters)
        and (max_input_size is None or entry.input_size <= max_input_size)
        and (classes is None or entry.classes == classes)
        and (license is None or (entry.license or "none") == license)
    ]


def _check_options(
    max_parameters: float | None, max_input_size: int | None, classes: int | None
) -> None:
    for name, value in (("max_parameters", max_parameters), ("max_input_size", max_input_size)):
        if value is not None:
            arguments.number(name, value)
    if classes is not None:
        arguments.whole_number("classes", classes, least=0)


def _entry(name: str) -> Entry:
    arch, config = registry.architecture_name(name), index.pretrained_config(name)
    return Entry(
        name=name,
        family=registry.family_of(arch),
        parameters=index.parameter_count(arch),
        input_size=max(config.input_size[1:]),
        classes=config.num_classes,
        license=config.license,
    )
