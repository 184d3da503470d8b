"""The network of several tasks or inputs: a backbone, a neck, and one head for each task."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from tl_jax import arguments, messages, trees
from tl_jax.heads.branches import equal_gradients
from tl_jax.heads.classifier import WithBackbone
from tl_jax.heads.head import MLP, Coral, Cosine, Linear
from tl_jax.heads.initializers import HeadInit
from tl_jax.heads.neck import Neck
from tl_jax.models import layers
from tl_jax.models.network import Network

HeadKind = Literal["linear", "mlp", "cosine", "coral"]
Weighting = Literal["fixed", "learned", "gradient_normalised"]
Inputs = jax.Array | Mapping[str, jax.Array]
Outputs = jax.Array | dict[str, jax.Array]

LOG_VARIANCES = "log_variances"
_HEADS, _LOSS_WEIGHTS = "heads", "loss_weights"
_NECK = Neck()


@dataclasses.dataclass(frozen=True)
class TaskHead:
    """The head of a task.

    Attributes:
      name: of the task. A single task may be nameless, "": its logits are the network's output.
      outputs: number of logits: classes; levels - 1 of an ordinal task; 1 of a regression.
      kind: one of `tl_jax.heads.head`; "coral" for the cumulative logits of ordered levels.
      hidden: widths of the dense layers of an "mlp".
      dropout: rate before the last layer, and before each other of an "mlp".
      kernel_init: as in `tl_jax.heads.initializers.initializer`; not for "cosine".
      dtype: computation dtype of all layers of an "mlp" but the last.
    """

    name: str
    outputs: int
    kind: HeadKind = "linear"
    hidden: tuple[int, ...] = (1024,)
    dropout: float = 0.0
    kernel_init: HeadInit = "zero"
    dtype: layers.Dtype = jnp.float32

    def __post_init__(self) -> None:
        arguments.text("name", self.name, "'defect'")
        kinds = get_args(HeadKind)
        if self.kind not in kinds:
            raise ValueError(
                f"unknown kind {self.kind!r} of the head of {self.name!r}"
                f"{messages.hint(str(self.kind), kinds)}; expected one of {', '.join(kinds)}"
            )
        self.module(parent=None)  # Checks the numbers.

    def module(self, **options: Any) -> nn.Module:
        """Returns the head; options are those of all modules, `name` and `parent`."""
        if self.kind == "cosine":
            return Cosine(self.outputs, self.dropout, **options)
        if self.kind == "coral":
            return Coral(self.outputs, self.dropout, self.kernel_init, **options)
        if self.kind == "linear":
            return Linear(self.outputs, self.dropout, self.kernel_init, **options)
        return MLP(self.outputs, self.hidden, self.dropout, self.kernel_init, self.dtype, **options)


class TaskNetwork(WithBackbone):
    """A backbone, a neck, and one head for each task.

    All images of a batch pass through the one backbone: the views of all examples as one batch,
    and each scale of an image pyramid after the other. In training its BatchNorm layers thus
    normalise each scale by itself, and their running statistics are updated once for each. A
    masked view is replaced by the example's first one, so that the statistics hold no padding; an
    example without any image has images of zeros.

    Its parameters are `backbone`, whose subtree is timm's, `neck`, `heads.TASK` and
    `loss_weights.log_variances`.

    Attributes:
      classifier: the heads (a class attribute).
      backbone: network of the registry without a classifier: `num_classes=0`, and `global_pool=""`
        unless the pooling is "average".
      neck: pooling, fusion and the other modalities.
      tasks: one head each; the first is the main task. Without any the output is the neck's
        features.
      stages: dotted names of modules of the backbone, such as `("layer2", "layer4")`, whose maps
        are pooled and concatenated; () for its output.
      scales: sizes of the image pyramid, relative to the images; `(1.0,)` for the images alone.
      views: images of an example, at most; 0 if the input is one image.
      weighting: of the losses. "fixed" is left to the loss; "learned": the outputs hold
        "log_variances", one parameter for each task (arXiv:1705.07115); "gradient_normalised":
        each task's gradient by the shared features has the mean norm (`branches.equal_gradients`).

    Raises:
      ValueError: on construction, if the fields contradict each other.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> backbone = create_model("simple_cnn", num_classes=0, global_pool="")
      >>> model = TaskNetwork(backbone, tasks=(TaskHead("kind", 5), TaskHead("age", 1)))
      >>> images = jnp.zeros((2, 16, 16, 3))
      >>> outputs, variables = model.init_with_output(jax.random.key(0), images)
      >>> {name: logits.shape for name, logits in outputs.items()}
      {'kind': (2, 5), 'age': (2, 1)}
      >>> model.new_parts
      ('heads',)
    """

    classifier: ClassVar[str] = _HEADS

    neck: Neck = _NECK
    tasks: tuple[TaskHead, ...] = ()
    stages: tuple[str, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    views: int = 0
    weighting: Weighting = "fixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.backbone, Network) and self.backbone.num_classes:
            raise ValueError(
                f"the backbone has a classifier of {self.backbone.num_classes} classes, and the "
                "heads need features; create the backbone with num_classes=0"
            )
        _check_tasks(self.tasks, self.weighting)
        arguments.names("stages", self.stages, "('layer2', 'layer4')")
        arguments.whole_number("views", self.views, least=0)
        for scale in self.scales:
            arguments.number("a scale", scale)
        if not self.scales or min(self.scales) <= 0 or len(set(self.scales)) < len(self.scales):
            raise ValueError(
                f"scales are {self.scales}; expected positive numbers, each once, as (1.0, 0.5)"
            )

    @property
    def num_classes(self) -> int:
        """Number of logits of the main task; 0 without tasks."""
        return self.tasks[0].outputs if self.tasks else 0

    @property
    def new_parts(self) -> tuple[str, ...]:
        """Dotted names of all modules outside the backbone that have parameters."""
        neck = self.neck
        poolings = [neck.pooling]
        poolings += [neck.scale_fusion] if len(self.scales) > 1 else []
        poolings += [neck.view_fusion] if self.views else []
        learned = any(pooling.is_learned for pooling in poolings) or bool(neck.encoders())
        return (
            *(["neck"] if learned else []),
            *([_HEADS] if self.tasks else []),
            *([_LOSS_WEIGHTS] if self.tasks and self.weighting == "learned" else []),
        )

    @nn.nowrap
    def abstract_inputs(
        self, image_shape: Sequence[int]
    ) -> jax.ShapeDtypeStruct | dict[str, jax.ShapeDtypeStruct]:
        """Returns the shapes and types of all that the network takes.

        Args:
          image_shape: of a batch of single images, [B, H, W, C].
        """
        batch, *image = image_shape
        shape = (batch, self.views, *image) if self.views else (batch, *image)
        inputs = {"image": jax.ShapeDtypeStruct(shape, jnp.float32)}
        if self.views:
            inputs["view_mask"] = jax.ShapeDtypeStruct(shape[:2], jnp.bool_)
        for name, encoder in self.neck.encoders().items():
            dtype = jnp.int32 if name in ("categorical", "tokens") else jnp.float32
            inputs[name] = jax.ShapeDtypeStruct((batch, encoder.columns), dtype)
        return inputs if len(inputs) > 1 else inputs["image"]

    @nn.compact
    def __call__(self, inputs: Inputs, *, train: bool = False) -> Outputs:
        """Computes the outputs of all tasks.

        Args:
          inputs: images [B, H, W, C]; or a dict of "image", [B, V, H, W, C] if there are views, and
            then "view_mask", bool [B, V]; and the inputs of the neck's encoders: "numeric",
            "categorical", "tokens", "vector".
          train: training mode.

        Returns:
          By task, logits [B, outputs] in float32; "log_variances" [tasks] if they are learned. The
          logits alone if the one task is nameless; the features [B, F] without tasks.
        """
        given = self._checked(inputs)
        images = _one_batch(given["image"], given.get("view_mask"))
        maps = [self._maps(resized(images, scale), train=train) for scale in self.scales]
        x = self.neck(maps, given, train=train)
        if not self.tasks:
            return x
        branches = (x,) * len(self.tasks)
        if self.weighting == "gradient_normalised":
            axis_name = self.backbone.axis_name if isinstance(self.backbone, Network) else None
            branches = equal_gradients(x, len(self.tasks), axis_name)
        outputs = {
            task.name: task.module(name=f"{_HEADS}.{task.name}" if task.name else _HEADS)(
                branch, train=train
            )
            for task, branch in zip(self.tasks, branches, strict=True)
        }
        if self.weighting == "learned":
            outputs[LOG_VARIANCES] = _LossWeights(len(self.tasks), name=_LOSS_WEIGHTS)()
        return outputs.get("", outputs)

    def _maps(self, images: jax.Array, *, train: bool) -> dict[str, jax.Array]:
        """Returns the backbone's output under "", or those of the stages by name."""
        if not self.stages:
            return {"": self.backbone(images, train=train)}
        names = [trees.dotted((*self.path, "backbone", stage)) for stage in self.stages]
        with layers.collecting(names) as outputs:
            self.backbone(images, train=train)
        for stage, name in zip(self.stages, names, strict=True):
            if not outputs[name]:
                raise ValueError(
                    f"the backbone has no module {stage!r} to take the output of; stages are its "
                    "modules, as architecture(name).stages lists them"
                )
        return {stage: outputs[name][-1] for stage, name in zip(self.stages, names, strict=True)}

    @nn.nowrap
    def _checked(self, inputs: Inputs) -> dict[str, jax.Array]:
        """Returns the inputs as a dict, which holds what the network takes and nothing else."""
        given = dict(inputs) if isinstance(inputs, Mapping) else {"image": inputs}
        needed = ["image", *self.neck.encoders()]
        missing = [name for name in needed if name not in given]
        unknown = sorted(given.keys() - {*needed, "view_mask"})
        if missing or unknown:
            wrong = f"lack {missing[0]!r}" if missing else f"hold {unknown[0]!r}"
            raise ValueError(
                f"the inputs {wrong}; this network takes {', '.join(needed)}"
                f"{' and view_mask' if self.views else ''}"
            )
        ndim, shape = (5, "[batch, views, height, width, channels]") if self.views else (4, "")
        if given["image"].ndim != ndim:
            shape = shape or "[batch, height, width, channels], because views is 0"
            raise ValueError(f"images have shape {given['image'].shape}; expected {shape}")
        views = given["image"].shape[1] if self.views else 0
        fixed = self.neck.view_fusion.name == "concatenate"
        if views > self.views or (fixed and views < self.views):
            raise ValueError(
                f"got {views} views of each example; the network was made for views={self.views}"
                f"{', all of which are concatenated' if fixed else ' at most'}"
            )
        return given


class _LossWeights(nn.Module):
    """The logarithms of the tasks' variances, zero at first."""

    tasks: int

    @nn.compact
    def __call__(self) -> jax.Array:
        return self.param(LOG_VARIANCES, nn.initializers.zeros, (self.tasks,), jnp.float32)


def resized(images: jax.Array, scale: float) -> jax.Array:
    """Returns images [B, H, W, C] in another size, bicubic with antialiasing; 1 changes nothing."""
    if scale == 1:
        return images
    batch, height, width, channels = images.shape
    size = max(round(height * scale), 1), max(round(width * scale), 1)
    larger = jax.image.resize(
        images.astype(jnp.float32),
        (batch, *size, channels),
        "cubic",
        antialias=True,
        precision=lax.Precision.HIGHEST,
    )
    return larger.astype(images.dtype)


def _one_batch(images: jax.Array, mask: jax.Array | None) -> jax.Array:
    """Returns views [B, V, H, W, C] as images [B * V, H, W, C], without those that are masked.

    The place of a masked view is taken by the example's first one, or by zeros if it has none.
    """
    if images.ndim == 4:
        return images
    if mask is not None:
        shown = mask[..., None, None, None]
        of_example = jnp.argmax(mask, axis=1)[:, None, None, None, None]
        first = jnp.take_along_axis(jnp.where(shown, images, 0), of_example, axis=1)
        images = jnp.where(shown, images, first)
    return images.reshape(-1, *images.shape[2:])


def _check_tasks(tasks: Sequence[TaskHead], weighting: str) -> None:
    if weighting not in get_args(Weighting):
        raise ValueError(
            f"unknown weighting {weighting!r}{messages.hint(str(weighting), get_args(Weighting))}; "
            f"expected one of {', '.join(get_args(Weighting))}"
        )
    names = [task.name for task in tasks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two tasks are named {twice[0]!r}; each needs a name of its own")
    if LOG_VARIANCES in names:
        raise ValueError(f"a task cannot be named {LOG_VARIANCES!r}, which is an output")
    if "" in names and (len(names) > 1 or weighting == "learned"):
        raise ValueError("a task without a name must be the only one, of weighting 'fixed'")
