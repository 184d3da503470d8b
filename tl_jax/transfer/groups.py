"""Groups of parameters: stages by depth, head, and whatever patterns name; and their selection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax import linen as nn

from tl_jax import messages, trees
from tl_jax.models import layers
from tl_jax.transfer.peft.base import added
from tl_jax.weights.state_dict import abstract_variables

HEAD, BACKBONE = "head", "backbone"
_STAGE = "stage"
# What a selection may name beside groups and patterns.
WORDS = ("all", HEAD, "last:N", "batch_norm", "norms", "biases", "added")


def by_head(params: trees.Tree, head: Iterable[str]) -> dict[str, Any]:
    """Labels every parameter "head" or "backbone".

    Args:
      params: the parameters.
      head: dotted names of the modules that are the head, such as `["fc"]`.

    Raises:
      ValueError: if a name of `head` matches no parameter.
    """
    return trees.label(params, [(name, HEAD) for name in head] + [("*", BACKBONE)])


def by_depth(
    model: nn.Module, stages: Sequence[str], head: Iterable[str] | None = None
) -> dict[str, Any]:
    """Labels every parameter "stage0", "stage1" and so on, or "head".

    Stage k is all that is called after the output of stage k - 1 and up to that of stage k,
    so the stem belongs to stage 0; what comes after the last stage belongs to it, but for the head.

    Args:
      model: a network.
      stages: dotted names of the modules whose outputs end the stages, shallow to deep, as
        `architecture(name).stages` lists them.
      head: dotted names of the modules that are the head; the default is `model.classifier`.

    Returns:
      A tree of labels in the form of the network's parameters.

    Raises:
      ValueError: if a name of `stages` is that of no module, or one of `head` matches no parameter.

    Example:
      >>> groups = by_depth(create_model("resnet50"), architecture("resnet50").stages)
      >>> groups["layer4"]["0"]["conv1"]["kernel"]
      'stage4'
    """
    params, reached = _call_order(model, stages)
    by_name = trees.flatten(by_head(params, [model.classifier] if head is None else head))
    labels = {}
    for path, label in by_name.items():
        owner = next(path[:n] for n in range(len(path) - 1, -1, -1) if path[:n] in reached)
        labels[path] = HEAD if label == HEAD else f"{_STAGE}{reached[owner]}"
    return trees.unflatten(labels)


def _call_order(
    model: nn.Module, stages: Sequence[str]
) -> tuple[trees.Tree, dict[trees.Path, int]]:
    """Returns abstract parameters, and by module how many stages end before it is called."""
    ended: list[str] = []
    reached: dict[trees.Path, int] = {(): 0}

    def note(module: nn.Module, args: tuple[Any, ...], proceed: Callable[..., Any]) -> Any:
        del args
        reached.setdefault(module.path, min(len(ended), len(stages) - 1))
        output = proceed()
        name = trees.dotted(module.path)
        if name in stages and name not in ended:
            ended.append(name)
        return output

    with nn.intercept_methods(layers.around_calls(note)):
        params = abstract_variables(model)["params"]
    for stage in stages:
        if stage not in ended:
            known = [trees.dotted(path) for path in reached if path]
            raise ValueError(f"the network has no module {stage!r}{messages.hint(stage, known)}")
    return params, reached


def regroup(groups: trees.Tree, patterns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Returns groups with new ones: name -> patterns on dotted names (`trees.matches`).

    Raises:
      ValueError: if a pattern matches no parameter, or a parameter falls into two new groups.
    """
    rules = [(pattern, name) for name, found in patterns.items() for pattern in found]
    new = trees.flatten(trees.label(groups, [*rules, ("*", "")]))
    return trees.unflatten({p: new[p] or label for p, label in trees.flatten(groups).items()})


def names_of(groups: trees.Tree) -> list[str]:
    """Returns the names of the groups, shallow to deep, then the others, then the head."""
    found = set(trees.flatten(groups).values())
    depths = sorted(int(name.removeprefix(_STAGE)) for name in found if is_stage(name))
    staged = [f"{_STAGE}{depth}" for depth in depths]
    others = sorted(found - {*staged, HEAD})
    return [*staged, *others, *([HEAD] if HEAD in found else [])]


def is_stage(group: str) -> bool:
    """Says whether a group is one of `by_depth`'s stages."""
    return group.startswith(_STAGE) and group.removeprefix(_STAGE).isdigit()


def select(
    groups: trees.Tree, selection: str, batch_stats: trees.Tree | None = None
) -> frozenset[str]:
    """Returns the dotted names of the parameters that a selection describes.

    Args:
      groups: labels of every parameter, from `by_depth`, `by_head`, `regroup` or `trees.label`.
      selection: one of these, or several with "+" between them: "all"; the name of a group
        ("head", "stage2"); "last:N", the N deepest stages of `by_depth`; "batch_norm", scale and
        bias of BatchNorm; "norms", those of all normalisation layers; "biases"; "added", what an
        adaptation added; a pattern on dotted names ("layer4.*.conv1").
      batch_stats: the running statistics, by which "batch_norm" is told; None if there are none.

    Raises:
      ValueError: if a part of the selection matches no parameter.

    Example:
      >>> select(by_head(params, ["fc"]), "head+biases")                     # doctest: +SKIP
    """
    labels = {trees.dotted(path): label for path, label in trees.flatten(groups).items()}
    norms = _norms(groups, batch_stats or {})
    chosen: set[str] = set()
    for part in selection.split("+"):
        found = _part(part.strip(), labels, norms)
        if not found:
            known = list(dict.fromkeys([*WORDS, *names_of(groups)]))
            raise ValueError(
                f"{part.strip()!r} of the selection {selection!r} matches no parameter"
                f"{messages.hint(part.strip(), [*known, *labels])}; name some of {', '.join(known)}, "
                "or patterns on dotted names, with '+' between them"
            )
        chosen |= found
    return frozenset(chosen)


def _part(part: str, labels: Mapping[str, str], norms: Mapping[str, set[str]]) -> set[str]:
    if part == "all":
        return set(labels)
    if part in norms:
        return norms[part]
    if part == "biases":
        return {name for name in labels if name.rpartition(".")[2] == "bias"}
    if part == "added":
        return {name for name in labels if added(name)}
    if part.startswith("last:"):
        return _last(part, labels)
    if part in labels.values():
        return {name for name, label in labels.items() if label == part}
    return {name for name in labels if trees.matches(name, part)}


def _last(part: str, labels: Mapping[str, str]) -> set[str]:
    depths = {int(g.removeprefix(_STAGE)) for g in labels.values() if is_stage(g)}
    count = part.removeprefix("last:")
    if not count.isdigit() or not 1 <= int(count) <= len(depths):
        raise ValueError(
            f"{part!r} must name 1 to {len(depths)} stages, such as 'last:1'"
            if depths
            else f"{part!r} needs groups by depth (`by_depth`), and these are none"
        )
    last = {f"{_STAGE}{depth}" for depth in sorted(depths)[-int(count) :]}
    return {name for name, label in labels.items() if label in last}


def _norms(groups: trees.Tree, batch_stats: trees.Tree) -> dict[str, set[str]]:
    """Returns the parameters of BatchNorm layers, and of all normalisation layers."""
    batch_norms = {path[:-1] for path in trees.flatten(batch_stats)}
    paths = list(trees.flatten(groups))
    affine = [path for path in paths if path[-1] in ("scale", "bias")]
    scaled = {path[:-1] for path in affine if path[-1] == "scale"}
    return {
        "batch_norm": {trees.dotted(p) for p in affine if p[:-1] in batch_norms},
        "norms": {trees.dotted(p) for p in affine if p[:-1] in batch_norms | scaled},
    }
