"""Groups of parameters (stages by depth, the head, patterns), and the selection of some of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tl_jax import arguments, messages, trees
from tl_jax.models import outputs
from tl_jax.models.model import Model, new_parts
from tl_jax.models.variables import abstract_variables
from tl_jax.transfer.peft.base import is_added

HEAD, BACKBONE = "head", "backbone"
_STAGE = "stage"
# What a selection may name besides groups and patterns.
SELECTION_WORDS = ("all", HEAD, "last:N", "batch_norm", "norms", "biases", "added")


def by_head(params: trees.Tree, head: Iterable[str]) -> dict[str, Any]:
    """Labels every parameter "head" or "backbone".

    Args:
      params: the parameters.
      head: dotted names of the modules that are the head, such as `["fc"]`.

    Raises:
      ValueError: if a name in `head` matches no parameter.
    """
    return trees.label(params, [(name, HEAD) for name in head] + [("*", BACKBONE)])


def by_depth(
    model: Model, stages: Sequence[str], head: Iterable[str] | None = None
) -> dict[str, Any]:
    """Labels every parameter "stage0", "stage1" and so on, or "head".

    Stage k holds the modules that are called after stage k - 1 has returned and until stage k has
    returned, so the stem belongs to stage 0. Modules after the last stage belong to it, except the
    head.

    Args:
      model: a network.
      stages: dotted names of the modules that end the stages, shallow to deep, as
        `architecture(name).stages` lists them.
      head: dotted names of the modules that are the head; the default is `new_parts(model)`, for
        most networks the classifier.

    Returns:
      A tree of labels, like the tree of the network's parameters.

    Raises:
      ValueError: if `stages` names no module, or a name in `head` matches no parameter.

    Examples:
      >>> from tl_jax.models.registry import architecture, create_model
      >>> groups = by_depth(create_model("resnet50"), architecture("resnet50").stages)
      >>> groups["layer4"]["0"]["conv1"]["kernel"]
      'stage4'
    """
    with outputs.recording() as calls:
        params = abstract_variables(model)["params"]
    first_calls = {call.path: call for call in reversed(calls)}
    ends = {trees.dotted(path): call.end for path, call in first_calls.items() if path}
    outputs.check_names(stages, list(ends))
    labels = {}
    heads = new_parts(model) if head is None else head
    for path, label in trees.flatten(by_head(params, heads)).items():
        if label != HEAD:
            module = next(path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in first_calls)
            depth = sum(ends[stage] <= first_calls[module].start for stage in stages)
            label = f"{_STAGE}{min(depth, len(stages) - 1)}"
        labels[path] = label
    return trees.unflatten(labels)


def regroup(groups: trees.Tree, patterns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns groups with new ones added: group name -> patterns on dotted names.

    Patterns are those of `trees.matches`; a new group takes its parameters from the old ones.

    Raises:
      ValueError: if a pattern matches no parameter, or a parameter falls into two new groups.

    Examples:
      >>> groups = {"conv1": {"kernel": "stage0"}, "fc": {"kernel": "head", "bias": "head"}}
      >>> regroup(groups, {"biases": ["*.bias"]})
      {'conv1': {'kernel': 'stage0'}, 'fc': {'kernel': 'head', 'bias': 'biases'}}
    """
    rules = [(pattern, name) for name, several in patterns.items() for pattern in several]
    new = trees.flatten(trees.label(groups, [*rules, ("*", "")]))
    return trees.unflatten({p: new[p] or label for p, label in trees.flatten(groups).items()})


def group_names(groups: trees.Tree) -> list[str]:
    """Returns the names of the groups: stages from shallow to deep, others, the head.

    >>> group_names({"a": "head", "b": "stage10", "c": "stage2", "d": "slow"})
    ['stage2', 'stage10', 'slow', 'head']
    """
    labels = trees.flatten(groups)
    for path, label in labels.items():
        arguments.text(f"the group of {trees.dotted(path)}", label, "'stage0' or 'head'")
    names = set(labels.values())
    stages = sorted(filter(is_stage, names), key=_depth)
    others = sorted(names - {*stages, HEAD})
    return [*stages, *others, *([HEAD] if HEAD in names else [])]


def is_stage(group: str) -> bool:
    """Returns whether a group is one of the stages of `by_depth`."""
    return group.startswith(_STAGE) and group.removeprefix(_STAGE).isdigit()


def _depth(stage: str) -> int:
    return int(stage.removeprefix(_STAGE))


def select(
    groups: trees.Tree, selection: str, batch_stats: trees.Tree | None = None
) -> frozenset[str]:
    """Returns the dotted names of the parameters that a selection describes.

    Args:
      groups: labels of every parameter, from `by_depth`, `by_head`, `regroup` or `trees.label`.
      selection: one of these, or several joined by "+": "all"; the name of a group ("head",
        "stage2"); "last:N", the N deepest stages of `by_depth`; "batch_norm", scale and bias of
        BatchNorm; "norms", those of all normalisation layers; "biases"; "added", the parameters
        that an adaptation added; a pattern on dotted names ("layer4.*.conv1").
      batch_stats: the running statistics, whose layers are the BatchNorm layers; None if there are
        none.

    Raises:
      ValueError: if a part of the selection matches no parameter.

    Examples:
      >>> params = {"conv1": {"kernel": 0, "bias": 0}, "fc": {"kernel": 0, "bias": 0}}
      >>> sorted(select(by_head(params, ["fc"]), "head+biases"))
      ['conv1.bias', 'fc.bias', 'fc.kernel']
    """
    arguments.text("selection", selection, "'head+last:1'")
    labels = {trees.dotted(path): label for path, label in trees.flatten(groups).items()}
    norms = _norm_params(groups, batch_stats or {})
    selected: set[str] = set()
    for part in map(str.strip, selection.split("+")):
        names = _select_part(part, labels, norms)
        if not names:
            choices = list(dict.fromkeys([*SELECTION_WORDS, *group_names(groups)]))
            raise ValueError(
                f"{part!r} of the selection {selection!r} matches no parameter"
                f"{messages.hint(part, [*choices, *labels])}; name some of {', '.join(choices)}, "
                "or patterns on dotted names, joined by '+'"
            )
        selected |= names
    return frozenset(selected)


def _select_part(part: str, labels: Mapping[str, str], norms: Mapping[str, set[str]]) -> set[str]:
    """Returns the names that one part of a selection describes, among names with group labels."""
    if part == "all":
        return set(labels)
    if part in norms:
        return norms[part]
    if part == "biases":
        return {name for name in labels if name.rpartition(".")[2] == "bias"}
    if part == "added":
        return {name for name in labels if is_added(name)}
    if part.startswith("last:"):
        stages = sorted(filter(is_stage, set(labels.values())), key=_depth)
        count = part.removeprefix("last:")
        if not stages:
            raise ValueError(
                f"{part!r} needs groups by depth, got {sorted(set(labels.values()))}; label the "
                "parameters with `by_depth`"
            )
        if not count.isdigit() or not 1 <= int(count) <= len(stages):
            raise ValueError(f"{part!r} must name 1 to {len(stages)} stages, such as 'last:1'")
        return {name for name, label in labels.items() if label in stages[-int(count) :]}
    if part in labels.values():
        return {name for name, label in labels.items() if label == part}
    return {name for name in labels if trees.matches(name, part)}


def _norm_params(groups: trees.Tree, batch_stats: trees.Tree) -> dict[str, set[str]]:
    """Returns the scales and biases of BatchNorm layers, and of all normalisation layers."""
    batch_norms = {path[:-1] for path in trees.flatten(batch_stats)}
    affine = [path for path in trees.flatten(groups) if path[-1] in ("scale", "bias")]
    norms = batch_norms | {path[:-1] for path in affine if path[-1] == "scale"}
    return {
        "batch_norm": {trees.dotted(path) for path in affine if path[:-1] in batch_norms},
        "norms": {trees.dotted(path) for path in affine if path[:-1] in norms},
    }
