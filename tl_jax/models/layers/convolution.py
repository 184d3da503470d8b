"""Convolution and its two gradients as primitives of jax, lowered in the form of each platform.

The three are bilinear and each is the transpose of the others, so derivatives of every order are
made of them. Which form computes one is decided when a program is lowered: the platform is known
then, and no other form has been traced.
"""

import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from tl_jax import messages, onednn
from tl_jax.models.layers import cpu_convolution, gpu_convolution
from tl_jax.models.layers.general import general_form
from tl_jax.models.layers.geometry import Function, Geometry, Kind
from tl_jax.models.layers.padding import Pads
from tl_jax.models.layers.shifted import shifted_form

Form = Literal["fastest", "general", "shifted"]

_FORM: contextvars.ContextVar[Form] = contextvars.ContextVar("convolution_form", default="fastest")


@contextlib.contextmanager
def convolution_form(form: Form) -> Iterator[None]:
    """Returns a context in which convolutions are traced to be computed in another form.

    A function that was traced before, by `jax.jit` for instance, keeps its form.

    Args:
      form: `"fastest"` is what was measured to be fastest on each platform: the forms of
        `cpu_convolution` and `gpu_convolution`, else XLA's convolution. `"general"` is XLA's
        convolution on every platform, which compiles faster on a CPU and runs slower. `"shifted"`
        is the fastest form, and depthwise convolutions become sums of shifted products on
        accelerators as well; on an H200 that is slower in most shapes.

    Examples:
      >>> with convolution_form("general"):
      ...     shape = jax.eval_shape(
      ...         lambda x, k: convolution(x, k, stride=1, pads=((0, 0), (0, 0))),
      ...         jnp.ones((1, 8, 8, 3)),
      ...         jnp.ones((3, 3, 3, 4)),
      ...     )
      >>> shape.shape
      (1, 6, 6, 4)
    """
    if form not in get_args(Form):
        hint = messages.hint(form, get_args(Form))
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}; got {form!r}{hint}")
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def convolution(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """Convolves maps with a kernel, in the form of the platform and of `convolution_form`.

    Args:
      x: [B, H, W, I].
      kernel: [h, w, I / groups, O], of the same type; its third side decides the groups.
      stride: step in both directions, in pixels.
      pads: rows of zeros before and after the map, then columns.

    Returns:
      [B, H', W', O], of the same type.

    Raises:
      TypeError: if the types differ.
      ValueError: if the channels of maps and kernel do not fit.
    """
    if x.dtype != kernel.dtype:
        raise TypeError(
            f"maps and kernel of a convolution must be of one type; got {x.dtype} and "
            f"{kernel.dtype}: cast one of them"
        )
    groups, rest = divmod(x.shape[3], kernel.shape[2])
    if rest or kernel.shape[3] % groups:
        raise ValueError(
            f"a kernel [h, w, I / groups, O] of {kernel.shape} does not fit maps [B, H, W, I] of "
            f"{x.shape}: I / groups must divide I, and the groups must divide O"
        )
    image, side = (x.shape[1], x.shape[2]), (kernel.shape[0], kernel.shape[1])
    geometry = Geometry(image, side, stride, pads, groups)
    # Read here, because the context of the caller may have ended when the program is lowered.
    precision = jax.config.jax_default_matmul_precision or "default"  # type: ignore[attr-defined]
    return _bind(forward_p, x, kernel, geometry, form=_FORM.get(), precision=precision)


forward_p = Primitive("convolution")
input_gradient_p = Primitive("convolution_input_gradient")
kernel_gradient_p = Primitive("convolution_kernel_gradient")


def _bind(
    primitive: Primitive, a: jax.Array, b: jax.Array, geometry: Geometry, **params: Any
) -> jax.Array:
    # Under `jax.shard_map` the images vary over the devices and the kernel does not; the cast makes
    # the kernel's gradient the sum over them.
    axes = [jax.typeof(each).manual_axis_type.varying for each in (a, b)]
    union = axes[0] | axes[1]
    a, b = (
        lax.pcast(each, tuple(union - own), to="varying") if union != own else each
        for each, own in zip((a, b), axes, strict=True)
    )
    return primitive.bind(a, b, geometry=geometry, **params)


# How a batch axis of `jax.vmap` is merged into the operands of one larger convolution. For each
# operand and the result: the axis, and whether the batch goes inside each group of channels.
_Place = tuple[int, bool]
_IMAGES: _Place = (0, False)
_IN_KERNEL_INPUTS: _Place = (2, False)
_CHANNELS: _Place = (3, False)
_IN_GROUPS: _Place = (3, True)
_PLACES: dict[Kind, tuple[tuple[_Place, _Place], tuple[_Place, _Place]]] = {
    # Where the first operand alone is batched: its place and the result's; then the second alone.
    "forward": ((_IMAGES, _IMAGES), (_IN_GROUPS, _IN_GROUPS)),
    "input_gradient": ((_IMAGES, _IMAGES), (_IN_KERNEL_INPUTS, _IN_GROUPS)),
    "kernel_gradient": ((_IN_GROUPS, _IN_KERNEL_INPUTS), (_IN_GROUPS, _IN_GROUPS)),
}


def _batched(
    primitive: Primitive,
    kind: Kind,
    operands: tuple[jax.Array, jax.Array],
    axes: tuple[int | None, int | None],
    *,
    geometry: Geometry,
    **params: Any,
) -> tuple[jax.Array, int]:
    """Computes a batch of convolutions as one, of more images, channels or groups."""
    a, b = operands
    size = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    groups = geometry.groups
    if axes[1] is None:
        place, result = _PLACES[kind][0]
        a = _merge(a, axes[0], place, groups)
    elif axes[0] is None:
        place, result = _PLACES[kind][1]
        b = _merge(b, axes[1], place, groups)
    else:
        result = _CHANNELS
        a, b = (_merge(x, axis, result, groups) for x, axis in zip(operands, axes, strict=True))
        geometry = dataclasses.replace(geometry, groups=groups * size)
    merged = _bind(primitive, a, b, geometry, **params)
    return _split(merged, size, result, groups), 0


def _merge(x: jax.Array, batch_axis: int | None, place: _Place, groups: int) -> jax.Array:
    assert batch_axis is not None
    axis, in_groups = place
    parts = groups if in_groups else 1
    x = jnp.moveaxis(x, batch_axis, 0)
    size, shape = x.shape[0], x.shape[1:]
    x = x.reshape(size, *shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :])
    x = jnp.moveaxis(x, 0, axis + 1)
    return x.reshape(*shape[:axis], shape[axis] * size, *shape[axis + 1 :])


def _split(x: jax.Array, size: int, place: _Place, groups: int) -> jax.Array:
    axis, in_groups = place
    parts = groups if in_groups else 1
    shape = x.shape
    length = shape[axis] // size
    x = x.reshape(*shape[:axis], parts, size, length // parts, *shape[axis + 1 :])
    x = jnp.moveaxis(x, axis + 1, 0)
    return x.reshape(size, *shape[:axis], length, *shape[axis + 1 :])


def _abstract(kind: Kind, a: Any, b: Any, *, geometry: Geometry, **params: Any) -> Any:
    shape = geometry.result_shape(kind, a.shape, b.shape)
    return a.update(shape=shape, weak_type=False)


def _default(
    kind: Kind, a: jax.Array, b: jax.Array, *, geometry: Geometry, form: Form, precision: str
) -> jax.Array:
    if form == "shifted" and geometry.is_depthwise(kind, a.shape, b.shape):
        return shifted_form(kind, geometry, on_cpu=False)(a, b)
    return general_form(kind, geometry, precision)(a, b)


def _lower_on_cuda(
    kind: Kind, ctx: Any, a: Any, b: Any, *, geometry: Geometry, form: Form, precision: str
) -> Any:
    function = None
    if form != "general":
        function = gpu_convolution.fastest_form(kind, geometry, *ctx.avals_in, precision=precision)
    if function is None:
        function = functools.partial(
            _default, kind, geometry=geometry, form=form, precision=precision
        )
    return mlir.lower_fun(function, multiple_results=False)(ctx, a, b)


def _lower_on_cpu(
    kind: Kind, ctx: Any, a: Any, b: Any, *, geometry: Geometry, form: Form, precision: str
) -> Any:
    function = None
    if form != "general":
        function = _onednn_form(kind, geometry, ctx) or cpu_convolution.fastest_form(
            kind, geometry, *ctx.avals_in, precision=precision
        )
    if function is None:
        function = general_form(kind, geometry, precision)
    return mlir.lower_fun(function, multiple_results=False)(ctx, a, b)


def _onednn_form(kind: Kind, geometry: Geometry, ctx: Any) -> Function | None:
    """Returns oneDNN's form, or None if it has none or if this program cannot call it."""
    # XLA cannot divide a call among devices, and another machine may not have the library.
    if not _has_local_shapes(ctx) or ctx.module_context.lowering_parameters.for_export:
        return None
    (a, b), (result,) = ctx.avals_in, ctx.avals_out
    x, kernel, y = {
        "forward": (a, b, result),
        "input_gradient": (result, b, a),
        "kernel_gradient": (a, result, b),
    }[kind]
    return onednn.form(
        kind, x, kernel, y, stride=geometry.stride, pads=geometry.pads, groups=geometry.groups
    )


def _has_local_shapes(ctx: Any) -> bool:
    """Returns whether shapes are those of one device: it is the only one, or in `shard_map`."""
    context = ctx.module_context.axis_context
    if isinstance(context, mlir.SPMDAxisContext):
        return context.manual_axes == frozenset(context.mesh.axis_names)
    return context.num_devices == 1


def _define(primitive: Primitive, kind: Kind) -> None:
    primitive.def_abstract_eval(functools.partial(_abstract, kind))
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("geometry", "form", "precision")))
    default = functools.partial(_default, kind)
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))
    on_cpu = functools.partial(_lower_on_cpu, kind)
    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    on_cuda = functools.partial(_lower_on_cuda, kind)
    mlir.register_lowering(primitive, on_cuda, platform="cuda")
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive, kind)


_define(forward_p, "forward")
_define(input_gradient_p, "input_gradient")
_define(kernel_gradient_p, "kernel_gradient")

# The transposes: of each primitive for its first operand and its second one, given the cotangent.
ad.defbilinear(
    forward_p,
    lambda ct, x, kernel, **params: _bind(input_gradient_p, ct, kernel, **params),
    lambda ct, x, kernel, **params: _bind(kernel_gradient_p, x, ct, **params),
)
ad.defbilinear(
    input_gradient_p,
    lambda ct, g, kernel, **params: _bind(forward_p, ct, kernel, **params),
    lambda ct, g, kernel, **params: _bind(kernel_gradient_p, ct, g, **params),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, g, **params: _bind(input_gradient_p, g, ct, **params),
    lambda ct, x, g, **params: _bind(forward_p, x, ct, **params),
)
