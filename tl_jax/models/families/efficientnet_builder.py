"""From the definition strings of the EfficientNets to the stages of a network.

The strings, and their scaling in width and depth, are those of timm's `_efficientnet_builder.py`.
`decode` reads them and scales the depth, `plan` fixes the size of every block of one network, and
`apply_stages` makes the blocks. A file with blocks of its own passes `apply_stages` their classes
by the code that their strings begin with: `{**BLOCKS, "uir": UniversalInvertedResidual}`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Literal

import jax
from flax import linen as nn

from tl_jax.models import layers
from tl_jax.models.families.efficientnet_blocks import (
    BLOCKS,
    Block,
    BlockPlan,
    BlockSpec,
    KernelSize,
    Parts,
)

Definition = tuple[tuple[str, ...], ...]
Specs = tuple[tuple[BlockSpec, ...], ...]
Plans = tuple[tuple[BlockPlan, ...], ...]

_ACTS = {"re": layers.relu, "r6": layers.relu6, "hs": layers.hard_swish, "sw": layers.silu}
_OPTION = re.compile(r"(n)(re|r6|hs|sw)|([a-z]+)([\d.]+)")
_EXPANDING = ("ir", "er", "uir")


def decode(
    definition: Definition,
    *,
    depth: float | tuple[float, ...] = 1.0,
    rounding: Literal["up", "nearest"] = "up",
    fix_first_last: bool = False,
    experts: int = 1,
    group_size: int | None = None,
) -> Specs:
    """Reads the strings of a network, each stage's in a tuple, and scales its depth.

    Args:
      definition: the strings.
      depth: factor on the number of blocks, of all stages or of each.
      rounding: of the scaled number of blocks.
      fix_first_last: leave the depth of the first and the last stage.
      experts: factor on the number of experts of the CondConvs.
      group_size: of the spatial convolutions whose strings say none.
    """
    last = len(definition) - 1
    factors = depth if isinstance(depth, tuple) else (depth,) * len(definition)
    stages = []
    for i, (strings, factor) in enumerate(zip(definition, factors, strict=True)):
        specs, repeats = zip(*(decode_block(string) for string in strings), strict=True)
        factor = 1.0 if fix_first_last and i in (0, last) else factor
        repeats = _scaled_repeats(repeats, factor, rounding)
        stages.append(
            tuple(
                _adapted(spec, experts, group_size)
                for spec, count in zip(specs, repeats, strict=True)
                for _ in range(count)
            )
        )
    return tuple(stages)


def _adapted(spec: BlockSpec, experts: int, group_size: int | None) -> BlockSpec:
    size = group_size if spec.group_size is None else spec.group_size
    return dataclasses.replace(spec, experts=spec.experts * experts, group_size=size)


@functools.cache
def decode_block(string: str) -> tuple[BlockSpec, int]:
    """Reads one string; returns the block and how often it is repeated.

    The string is the block's kind and then options: `r` repeats, `k` kernel size (`3.5.7` of a
    mixed convolution), `a` and `p` those of the convolutions before and after, `s` stride,
    `e` expansion, `fc` what it counts from, `c` width, `se` squeeze, `n` activation (`re`, `r6`,
    `hs`, `sw`), `gs` group size, `cc` experts, `d1` space to depth, `skip`, `noskip`; and of an
    attention over space `h` heads, `d` size of the keys, `v` stride of keys and values.

    Raises:
      ValueError: if an option is unknown.

    Example:
      >>> block, repeats = decode_block("ir_r2_k3_s2_e6_c24_se0.25")
      >>> block.expansion, repeats
      (6.0, 2)
    """
    kind, *words = string.split("_")
    options = dict(_option(word) for word in words)
    read = options.pop
    spec = BlockSpec(
        kind=kind,
        width=int(read("c")),
        stride=int(read("s")),
        kernel_size=_kernel_size(read("k")),
        start_kernel=_kernel_size(read("a", "0")),
        end_kernel=_kernel_size(read("p", "0")),
        expansion=float(read("e", 1.0)),
        expansion_base=int(read("fc", 0)),
        squeeze=float(read("se", 0.0)),
        act=_ACTS[read("n")] if "n" in options else None,
        skip=read("skip", None),
        group_size=int(read("gs")) if "gs" in options else None,
        experts=int(read("cc", 0)),
        heads=int(read("h", 0)),
        kv_stride=int(read("v", 1)),
        # `d` means two things; where it is the first, nothing is left for the second.
        space_to_depth=kind in ("ds", "ir") and read("d", "0") != "0",
        key_size=int(read("d", 0)),
    )
    repeats = int(read("r"))
    if options:
        raise ValueError(f"{string!r} has unknown options {sorted(options)}")
    return spec, repeats


def _option(word: str) -> tuple[str, str | bool]:
    if word in ("skip", "noskip"):
        return "skip", word == "skip"
    found = _OPTION.fullmatch(word)
    if found is None:
        raise ValueError(f"{word!r} is no option of a block")
    return found[1] or found[3], found[2] or found[4]


def _kernel_size(text: str) -> KernelSize:
    return int(text) if text.isdigit() else tuple(int(size) for size in text.split("."))


def _scaled_repeats(
    repeats: tuple[int, ...], factor: float, rounding: Literal["up", "nearest"]
) -> list[int]:
    """Scales the blocks of a stage, and shares them out from the last string to the first."""
    left, whole = sum(repeats), sum(repeats) * factor
    scaled_left = math.ceil(whole) if rounding == "up" else max(1, round(whole))
    scaled = []
    for count in reversed(repeats):
        scaled.append(max(1, round(count / left * scaled_left)))
        left, scaled_left = left - count, scaled_left - scaled[-1]
    return scaled[::-1]


def plan(
    stages: Specs,
    inputs: int,
    *,
    scaled: Callable[[int], int],
    drop_path_rate: float,
    squeeze_base: Literal["inputs", "hidden"] = "inputs",
    squeeze_round: Callable[[float], int] = round,
) -> Plans:
    """Fixes the sizes of the blocks of one network.

    Args:
      stages: the blocks of each stage.
      inputs: channels that the first block gets.
      scaled: scales and rounds a width.
      drop_path_rate: of the block that would follow the last; it grows from 0 at the first.
      squeeze_base: which channels the squeezed ones are a share of.
      squeeze_round: rounds the number of squeezed channels.
    """
    step = drop_path_rate / sum(map(len, stages))
    planner = _Planner(inputs, scaled, step, squeeze_base, squeeze_round)
    return tuple(
        tuple(planner.next(spec, first=i == 0) for i, spec in enumerate(stage)) for stage in stages
    )


@dataclasses.dataclass
class _Planner:
    """Plans blocks in a row, see `plan`; remembers what the next one gets.

    Attributes:
      inputs: channels that the next block gets.
      drop_path_step: difference between the drop-path rates of two blocks.
      index: number of the next block.
      deep: whether the resolution is halved and the channels are quadrupled, up to a stride.
    """

    inputs: int
    scaled: Callable[[int], int]
    drop_path_step: float
    squeeze_base: Literal["inputs", "hidden"]
    squeeze_round: Callable[[float], int]
    index: int = 0
    deep: bool = False

    def next(self, spec: BlockSpec, *, first: bool) -> BlockPlan:
        inputs, index = self.inputs, self.index
        stride = spec.stride if first else 1
        expansion = spec.expansion if spec.kind in _EXPANDING else 1.0
        begins = spec.space_to_depth and not self.deep
        if self.deep and stride == 2:  # The resolution is halved already.
            self.deep, stride, expansion = False, 1, expansion / 4
        self.deep = self.deep or begins
        self.inputs = width = self.scaled(spec.width) * (4 if self.deep else 1)
        self.index += 1
        hidden = inputs * (4 if begins else 1)
        if spec.kind in _EXPANDING:
            base = self.scaled(spec.expansion_base) if spec.expansion_base else hidden
            hidden = layers.make_divisible(base * expansion)
        return BlockPlan(
            spec=spec,
            width=width,
            hidden=hidden,
            squeezed=self._squeezed(spec, hidden, expansion * (4 if begins else 1)),
            stride=stride,
            shortcut=stride == 1 and inputs == width and _may_skip(spec),
            drop_path=self.drop_path_step * index,
            space_to_depth=begins,
        )

    def _squeezed(self, spec: BlockSpec, hidden: int, expansion: float) -> int:
        if not spec.squeeze:
            return 0
        share = spec.squeeze / (expansion if self.squeeze_base == "inputs" else 1.0)
        return self.squeeze_round(hidden * share)


def _may_skip(spec: BlockSpec) -> bool:
    """Tells whether a definition lets a block have a shortcut."""
    if spec.kind == "dsa":
        return False
    return spec.skip is True if spec.kind == "cn" else spec.skip is not False


class Stage(nn.Module):
    """Blocks one after another, named by their numbers."""

    plans: tuple[BlockPlan, ...]
    parts: Parts
    kinds: Mapping[str, Callable[..., Block]]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, block in enumerate(self.plans):
            x = self.kinds[block.spec.kind](block, self.parts, name=str(i))(x, train=train)
        return x


def apply_stages(
    x: jax.Array,
    plans: Plans,
    parts: Parts,
    kinds: Mapping[str, Callable[..., Block]] = BLOCKS,
    *,
    train: bool,
) -> jax.Array:
    """Applies the stages `blocks.0`, `blocks.1` and so on, in a network's compact method."""
    for i, blocks in enumerate(plans):
        x = Stage(blocks, parts, kinds, name=f"blocks.{i}")(x, train=train)
    return x


def feature_modules(definition: Definition) -> tuple[str, ...]:
    """Returns the names of the last modules of each resolution, as timm's `feature_info`.

    The first is the stem's `bn1`, which is activated, if the first stage has a stride.
    """
    firsts = [decode_block(strings[0])[0] for strings in definition]
    names = ["bn1"] if firsts[0].stride > 1 or firsts[0].space_to_depth else []
    deep = False
    for i, following in enumerate([*firsts[1:], None]):
        deep = firsts[i].space_to_depth or (deep and firsts[i].stride == 1)
        if following is None or (following.stride > 1 and not deep):
            names.append(f"blocks.{i}")
    return tuple(names)


def round_width(width: int, factor: float = 1.0, divisor: int = 8, limit: float = 0.9) -> int:
    """Scales a width to a multiple of `divisor` that is not below `limit` of it, if not 0."""
    return layers.make_divisible(width * factor, divisor, round_limit=limit)
