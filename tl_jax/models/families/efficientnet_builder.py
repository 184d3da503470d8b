"""Builds the stages of a network from the definition strings of the EfficientNets.

The strings, and their scaling in width and depth, are those of timm's `_efficientnet_builder.py`.
`define` splits a text into them, `decode` reads them and scales the depth, `plan` fixes the size of
every block of one network, and `apply_stages` makes the blocks. A family with blocks of its own
passes `apply_stages` their classes by the code that their strings begin with:
`{**BLOCKS, "uir": UniversalInvertedResidual}`.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
    LayerFactory,
)

Definition = tuple[tuple[str, ...], ...]
Specs = tuple[tuple[BlockSpec, ...], ...]
Plans = tuple[tuple[BlockPlan, ...], ...]

_ACTS = {"re": layers.relu, "r6": layers.relu6, "hs": layers.hard_swish, "sw": layers.silu}
_OPTION = re.compile(r"(n)(re|r6|hs|sw)|([a-z]+)([\d.]+)")
_EXPANDING = ("ir", "er", "uir")


def define(text: str) -> Definition:
    """Returns a definition from a text with a line for each stage and spaces between the blocks.

    Examples:
      >>> define("ds_r1_k3_s2_c16\\nir_r1_k3_s2_e4_c24 ir_r1_k3_s1_e3_c24")
      (('ds_r1_k3_s2_c16',), ('ir_r1_k3_s2_e4_c24', 'ir_r1_k3_s1_e3_c24'))
    """
    return tuple(tuple(line.split()) for line in text.strip().splitlines())


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
      group_size: of the spatial convolutions whose strings state none.
    """
    last = len(definition) - 1
    factors = depth if isinstance(depth, tuple) else (depth,) * len(definition)
    stages = []
    for i, (strings, factor) in enumerate(zip(definition, factors, strict=True)):
        decoded = [decode_block(string) for string in strings]
        factor = 1.0 if fix_first_last and i in (0, last) else factor
        repeats = _scaled_repeats([count for _, count in decoded], factor, rounding)
        blocks: list[BlockSpec] = []
        for (spec, _), count in zip(decoded, repeats, strict=True):
            size = group_size if spec.group_size is None else spec.group_size
            spec = dataclasses.replace(spec, experts=spec.experts * experts, group_size=size)
            blocks += [spec] * count
        stages.append(tuple(blocks))
    return tuple(stages)


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

    Examples:
      >>> block, repeats = decode_block("ir_r2_k3_s2_e6_c24_se0.25")
      >>> block.expansion, repeats
      (6.0, 2)
    """
    kind, *words = string.split("_")
    skip: bool | None = None
    options: dict[str, str] = {}
    for word in words:
        if word in ("skip", "noskip"):
            skip = word == "skip"
            continue
        match = _OPTION.fullmatch(word)
        if match is None:
            raise ValueError(f"{string!r}: {word!r} is not an option of a block; see decode_block")
        options[match[1] or match[3]] = match[2] or match[4]
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
        skip=skip,
        group_size=int(read("gs")) if "gs" in options else None,
        experts=int(read("cc", 0)),
        heads=int(read("h", 0)),
        kv_stride=int(read("v", 1)),
        # `d` means two things; where it is the first, nothing remains for the second.
        space_to_depth=kind in ("ds", "ir") and read("d", "0") != "0",
        key_size=int(read("d", 0)),
    )
    repeats = int(read("r"))
    if options:
        raise ValueError(f"{string!r} has unknown options {sorted(options)}; see decode_block")
    return spec, repeats


def _kernel_size(text: str) -> KernelSize:
    return int(text) if text.isdigit() else tuple(int(size) for size in text.split("."))


def _scaled_repeats(
    repeats: Sequence[int], factor: float, rounding: Literal["up", "nearest"]
) -> list[int]:
    """Scales the blocks of a stage, and distributes them from the last string to the first."""
    remaining = sum(repeats)
    scaled = remaining * factor
    scaled_remaining = math.ceil(scaled) if rounding == "up" else max(1, round(scaled))
    counts: list[int] = []
    for count in reversed(repeats):
        counts.append(max(1, round(count / remaining * scaled_remaining)))
        remaining -= count
        scaled_remaining -= counts[-1]
    return counts[::-1]


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
    drop_path_step = drop_path_rate / sum(map(len, stages))
    index = 0
    # Whether the resolution is halved and the channels are quadrupled, up to the next stride.
    is_deep = False
    plans = []
    for specs in stages:
        blocks = []
        for i, spec in enumerate(specs):
            stride = spec.stride if i == 0 else 1
            expansion = spec.expansion if spec.kind in _EXPANDING else 1.0
            to_depth = spec.space_to_depth and not is_deep
            if is_deep and stride == 2:  # The resolution is halved already.
                is_deep, stride, expansion = False, 1, expansion / 4
            is_deep = is_deep or to_depth
            width = scaled(spec.width) * (4 if is_deep else 1)
            hidden = inputs * (4 if to_depth else 1)
            if spec.kind in _EXPANDING:
                base = scaled(spec.expansion_base) if spec.expansion_base else hidden
                hidden = layers.make_divisible(base * expansion)
            share = spec.squeeze
            if squeeze_base == "inputs":
                share /= expansion * (4 if to_depth else 1)
            may_skip = spec.skip is True if spec.kind == "cn" else spec.skip is not False
            blocks.append(
                BlockPlan(
                    spec=spec,
                    width=width,
                    hidden=hidden,
                    squeezed=squeeze_round(hidden * share) if spec.squeeze else 0,
                    stride=stride,
                    shortcut=may_skip and spec.kind != "dsa" and stride == 1 and inputs == width,
                    drop_path=drop_path_step * index,
                    space_to_depth=to_depth,
                )
            )
            inputs = width
            index += 1
        plans.append(tuple(blocks))
    return tuple(plans)


class Stage(nn.Module):
    """Blocks one after another, named by their numbers."""

    plans: tuple[BlockPlan, ...]
    make: LayerFactory
    kinds: Mapping[str, Callable[..., Block]]

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, plan in enumerate(self.plans):
            x = self.kinds[plan.spec.kind](plan, self.make, name=str(i))(x, train=train)
        return x


def apply_stages(
    x: jax.Array,
    plans: Plans,
    make: LayerFactory,
    kinds: Mapping[str, Callable[..., Block]] = BLOCKS,
    *,
    train: bool,
) -> jax.Array:
    """Applies the stages `blocks.0`, `blocks.1` and so on, in a network's compact method."""
    for i, blocks in enumerate(plans):
        x = Stage(blocks, make, kinds, name=f"blocks.{i}")(x, train=train)
    return x


def feature_modules(definition: Definition) -> tuple[str, ...]:
    """Returns the names of the last modules of each resolution, as timm's `feature_info`.

    The first is the stem's `bn1`, which is activated, if the first stage has a stride.
    """
    firsts = [decode_block(strings[0])[0] for strings in definition]
    names = ["bn1"] if firsts[0].stride > 1 or firsts[0].space_to_depth else []
    is_deep = False
    for i, (first, following) in enumerate(zip(firsts, [*firsts[1:], None], strict=True)):
        is_deep = first.space_to_depth or (is_deep and first.stride == 1)
        if following is None or (following.stride > 1 and not is_deep):
            names.append(f"blocks.{i}")
    return tuple(names)


def round_width(width: float, factor: float = 1.0, divisor: int = 8, limit: float = 0.9) -> int:
    """Scales a width to a multiple of `divisor` that is at least `limit` times the exact width."""
    return layers.make_divisible(width * factor, divisor, round_limit=limit)
