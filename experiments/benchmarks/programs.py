"""The programs of tl_jax that are timed and compiled: training steps, forward pass, evaluation.

A program is a function of a first argument (the state of the training, or the variables) and a
batch of normalised images: no loader is involved. Nothing here needs torch.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tl_jax import trees
from tl_jax.config import Config, ModelConfig, ParallelConfig
from tl_jax.models import layers
from tl_jax.models.model import Model
from tl_jax.models.registry import create_model
from tl_jax.models.variables import abstract_variables
from tl_jax.run.parallel import divide
from tl_jax.training import optim, sharding, state
from tl_jax.training.step import make_statistics_step, make_train_step
from tl_jax.transfer import freeze, groups
from tl_jax.transfer.peft.base import Adapted
from tl_jax.transfer.peft.lora import LoRA

TRAINING = ("full", "head", "lora")
MODES = (*TRAINING, "forward", "evaluation")
NUM_CLASSES = 1000
LEARNING_RATE, MOMENTUM = 1e-3, 0.9


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
      device: "cpu", in float32 unless `bfloat16` is set, or "gpu", in bfloat16.
      model: timm's name of the architecture.
      mode: "full" trains everything, "head" the classifier alone, "lora" the factors of LoRA
        (rank 8) and the classifier; "forward" computes logits, "evaluation" the statistics of a
        batch.
      batch_size: images of a batch.
      image_size: side of the images, in pixels.
      bfloat16: compute in bfloat16 on a CPU too.
    """

    device: str
    model: str
    mode: str
    batch_size: int
    image_size: int
    bfloat16: bool = False

    @property
    def dtype(self) -> Any:
        """Type of the computation."""
        return jnp.bfloat16 if self.bfloat16 or self.device == "gpu" else jnp.float32

    @property
    def trains(self) -> bool:
        """Whether the program is a training step."""
        return self.mode in TRAINING


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled function and how its first argument is made.

    Attributes:
      fn: `fn(state, batch) -> (state, metrics)`, which takes over the memory of the state, or
        `fn(variables, batch) -> outputs`.
      first: network's variables -> the first argument.
      mesh: the devices.
    """

    fn: Any
    first: Callable[[Any], Any]
    mesh: Mesh


def make_batch(setting: Setting) -> dict[str, np.ndarray]:
    """Returns images as if normalised, float32 [B, H, W, 3], and labels, int32 [B].

    In the evaluation's mode it holds a mask, bool [B], of which all is True.
    """
    rng = np.random.default_rng(0)
    size = setting.image_size
    images = rng.standard_normal((setting.batch_size, size, size, 3), dtype=np.float32)
    labels = rng.integers(0, NUM_CLASSES, setting.batch_size, dtype=np.int32)
    mask = {"mask": np.ones(len(labels), bool)} if setting.mode == "evaluation" else {}
    return {"image": images, "label": labels, **mask}


def make_model(setting: Setting, dtype: Any = None) -> Model:
    """Returns tl_jax's network, with LoRA's factors if the mode trains them."""
    model = create_model(setting.model, num_classes=NUM_CLASSES, dtype=dtype or setting.dtype)
    return Adapted(model, LoRA(rank=8, alpha=8.0)) if setting.mode == "lora" else model


def complete(model: Model, variables: Any) -> Any:
    """Returns the network's variables, with the factors of LoRA if it has any."""
    return model.add_to(jax.random.key(1), variables) if isinstance(model, Adapted) else variables


def freeze_plan(setting: Setting, model: Model, params: Any) -> Any:
    """Returns the labels of what is trained."""
    if setting.mode == "lora":
        labels = groups.by_head(params, [model.classifier])
        return freeze.train_only(labels, groups.select(labels, "added+head"))
    return freeze.plan(params, [model.classifier], train_backbone=setting.mode == "full")


def variable_shapes(setting: Setting) -> Any:
    """Returns the shapes and types of the network's variables, without LoRA's factors."""
    return dict(abstract_variables(create_model(setting.model, num_classes=NUM_CLASSES)))


def random_variables(setting: Setting) -> Any:
    """Returns the network's variables with random kernels, for where only time or memory counts."""
    rng = np.random.default_rng(0)

    def draw(path: trees.Path, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1] == "kernel":
            deviation = (2 / math.prod(leaf.shape[:-1])) ** 0.5
            return deviation * rng.standard_normal(leaf.shape, dtype=np.float32)
        return np.full(leaf.shape, path[-1] in ("scale", "var"), np.float32)

    flat = trees.flatten(variable_shapes(setting))
    return trees.unflatten({path: jnp.asarray(draw(path, leaf)) for path, leaf in flat.items()})


def batch_shapes(setting: Setting) -> Any:
    """Returns the shapes and types of a batch."""
    small = make_batch(dataclasses.replace(setting, batch_size=1))
    return {
        name: jax.ShapeDtypeStruct((setting.batch_size, *array.shape[1:]), array.dtype)
        for name, array in small.items()
    }


def ready(program: Program, setting: Setting, variables: Any) -> tuple[Any, Any]:
    """Returns the arguments of a program, on the devices; nothing else holds their memory."""
    first = jax.tree.map(jnp.copy, program.first(variables))  # A step takes over its memory.
    first = jax.device_put(first, sharding.replicated(program.mesh))
    return first, sharding.put_batch(make_batch(setting), program.mesh)


def make_program(
    setting: Setting, mesh: Mesh, *, parallel: ParallelConfig | None = None, **step_options: Any
) -> Program:
    """Returns the program of a setting over a mesh.

    Args:
      setting: what the program computes.
      mesh: the devices.
      parallel: how a training step is divided over them; None as usual.
      step_options: further options of the step.
    """
    model = make_model(setting)
    if setting.trains:
        return _training(setting, model, mesh, parallel or ParallelConfig(), step_options)

    def outputs_fn(variables: Any, batch: Any) -> jax.Array:
        return layers.folded(model.apply)(variables, batch["image"], train=False)

    is_evaluation = setting.mode == "evaluation"
    step = make_statistics_step(outputs_fn, **step_options) if is_evaluation else outputs_fn
    return Program(sharding.jit_eval_step(step, mesh), lambda variables: variables, mesh)


def compile_program(
    program: Program, setting: Setting, options: Mapping[str, str | bool] | None = None
) -> tuple[Any, dict[str, float]]:
    """Compiles a program for the devices of its mesh; returns it and the seconds of each stage."""
    first = jax.eval_shape(program.first, variable_shapes(setting))
    start = time.perf_counter()
    traced = program.fn.trace(first, batch_shapes(setting))
    stages = {"trace": time.perf_counter() - start}
    start = time.perf_counter()
    lowered = traced.lower()
    stages["lower"] = time.perf_counter() - start
    start = time.perf_counter()
    compiled = lowered.compile(compiler_options=dict(options or {}))
    return compiled, {**stages, "compile": time.perf_counter() - start}


def make_run(
    program: Program, compiled: Any, setting: Setting, variables: Any
) -> Callable[[int], float]:
    """Returns `run(steps)`, which waits for the last step and returns its loss, or a logit."""
    first, batch = ready(program, setting, variables)
    waits = setting.device == "cpu"  # Where steps that do not depend on each other would overlap.

    def run(steps: int) -> float:
        nonlocal first
        for _ in range(steps):
            result = compiled(first, batch)
            if setting.trains:
                first, result = result
            elif waits:
                jax.block_until_ready(result)
        jax.block_until_ready(result)
        if not isinstance(result, Mapping):
            return float(result[0, 0])
        return float(result["loss"] if setting.trains else result["loss_sum"][0])

    return run


def _training(
    setting: Setting, model: Model, mesh: Mesh, parallel: ParallelConfig, step_options: Any
) -> Program:
    shapes = jax.eval_shape(lambda variables: complete(model, variables), variable_shapes(setting))
    plan = freeze_plan(setting, model, shapes["params"])
    rates = {freeze.HEAD: LEARNING_RATE, freeze.BACKBONE: LEARNING_RATE}
    tx = optim.optimizer("sgd", rates, plan, momentum=MOMENTUM)
    division = divide(
        Config(model=ModelConfig(dtype=setting.dtype.dtype.name), parallel=parallel),
        model, shapes, mesh, (setting.image_size, setting.image_size),
    )  # fmt: skip
    step = make_train_step(
        division.model,
        tx,
        plan,
        augment_fn=lambda key, batch: batch["image"],
        seed_key=jax.random.key(0),
        accumulate=division.accumulate,
        rematerialise=division.rematerialise,
        around=division.around,
        reduce=division.reduce,
        **step_options,
    )

    def first(variables: Any) -> Any:
        return state.create(complete(model, variables), tx, plan)

    layouts = None
    if parallel.fsdp > 1:
        layouts = sharding.layouts(mesh, jax.eval_shape(first, variable_shapes(setting)))
    return Program(sharding.jit_train_step(step, mesh, state=layouts), first, mesh)
