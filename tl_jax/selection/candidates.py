"""Candidates of a ranking: how they are written, and their networks without the head."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tl_jax import messages, trees
from tl_jax.config import Config
from tl_jax.data.preprocess import Preprocess
from tl_jax.models import pretrained, registry, weights_reader
from tl_jax.models.model import Model, ModelWrapper
from tl_jax.models.network import Network
from tl_jax.models.outputs import logits_and_features
from tl_jax.probes.extract import headless
from tl_jax.run.folder import is_run, load_run
from tl_jax.run.model import DTYPES
from tl_jax.weights.checkpoint import Reading

_SPEC = re.compile(r"(?P<name>.+?)(@(?P<size>\d+))?(:stage(?P<stage>\d+))?")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A row of a ranking, as `NAME@SIZE:stageK` says it.

    Attributes:
      text: as it was written.
      name: timm's name of a network; or a folder of a run or of weights, or a repository of the
        hub.
      image_size: side of the images in pixels; None for that of the configuration or the weights.
      stage: number of the stage whose pooled output are the features; None for the whole network.

    Examples:
      >>> parse("resnet50@160:stage3")
      Candidate(text='resnet50@160:stage3', name='resnet50', image_size=160, stage=3)
    """

    text: str
    name: str
    image_size: int | None = None
    stage: int | None = None


def parse(text: str) -> Candidate:
    """Reads a candidate; a misspelt architecture is an error before anything is computed.

    Raises:
      ValueError: if it has no name, names no architecture, or a stage that its network lacks.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ValueError(f"got the candidate {text!r}; expected NAME, NAME@SIZE or NAME:stageK")
    size, stage = (None if (n := match[key]) is None else int(n) for key in ("size", "stage"))
    candidate = Candidate(text, match["name"], size, stage)
    if size is not None and size < 8:
        raise ValueError(f"got images of {size} pixels in {text!r}; expected 8 or more")
    is_elsewhere = is_run(candidate.name) or re.search("[/:]", candidate.name) is not None
    if not is_elsewhere and not weights_reader.is_checkpoint_folder(candidate.name):
        _check_stage(candidate, registry.architecture(candidate.name).stages)
    return candidate


def _check_stage(candidate: Candidate, stages: Sequence[str]) -> None:
    if candidate.stage is not None and candidate.stage >= len(stages):
        raise ValueError(
            f"{candidate.text} names stage {candidate.stage}; the stages of {candidate.name} are 0 "
            f"to {len(stages) - 1}: {messages.some(list(stages), quoted=False)}"
        )


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A network without its head, with what the scores need.

    Attributes:
      model: the network that returns pooled features.
      variables: its variables.
      preprocess: the evaluation transform.
      stages: dotted names of the modules that end the stages.
      classifier: kernel [D, Z] and bias [Z] of the dense layer that the network's own classes are
        told by from the features; None if there is none.
      no_classifier: why there is none.
      weights: where they come from, a sentence.
    """

    model: Model
    variables: Mapping[str, Any]
    preprocess: Preprocess
    stages: tuple[str, ...]
    classifier: tuple[np.ndarray, np.ndarray] | None
    no_classifier: str
    weights: str

    def probabilities(self, features: np.ndarray) -> np.ndarray | None:
        """Returns those of the network's own classes, float64 [N, Z], for its pooled features.

        They are what the network itself returns, as its classifier is one product; so they need no
        second pass.
        """
        if self.classifier is None:
            return None
        kernel, bias = self.classifier
        logits = np.asarray(features, np.float64) @ kernel + bias
        logits = np.exp(logits - logits.max(1, keepdims=True))
        return np.asarray(logits / logits.sum(1, keepdims=True))


def load(name: str, config: Config) -> Backbone:
    """Reads a network with its weights, and takes its head off.

    Args:
      name: of a candidate. The weights of the configuration's `model` section are for the network
        that it names.
      config: the experiment, of which the image size and the type of the computation are taken.

    Raises:
      ValueError, OSError: if the weights are not found or cannot be read.
    """
    if is_run(name):
        run = load_run(name)
        sized = _sized(run.info.preprocess, config.data.image_size)
        tasks = run.info.example_facts.tasks
        # A run of another task than one of classes has outputs that are no probabilities.
        tells_a_class = len(tasks) == 1 and tasks[0].kind == "multi_class"
        return _backbone(
            run.model, run.variables, sized, run.config.model.name, f"run {name}",
            has_classifier=tells_a_class,
        )  # fmt: skip
    options, weights, reading = config.model, None, Reading()
    if name == options.name:
        weights = options.weights
        reading = Reading(options.checkpoint_key, options.prefix, options.ignore)
    loaded = weights_reader.read(name, weights, reading)
    has_classifier = bool(loaded.record.num_classes)
    model, variables, record = pretrained.build(
        loaded, num_classes=None if has_classifier else 0, dtype=DTYPES[options.dtype]
    )
    sized = Preprocess.of(loaded.config, input_size=config.data.image_size)
    return _backbone(
        model, variables, sized, loaded.name, record.source, has_classifier=has_classifier
    )


def _sized(preprocess: Preprocess, side: int | None) -> Preprocess:
    return preprocess if side is None else dataclasses.replace(preprocess, size=(side, side))


def _backbone(
    model: Model,
    variables: Mapping[str, Any],
    preprocess: Preprocess,
    architecture: str,
    weights: str,
    *,
    has_classifier: bool,
) -> Backbone:
    classifier, reason = None, "its weights have no classifier of single classes"
    if has_classifier and isinstance(model, Network):
        leaves = trees.layer_leaves(variables["params"], model.classifier)
        if leaves["kernel"].ndim == 2 and set(leaves) == {"kernel", "bias"}:
            kernel, bias = (np.asarray(leaves[key], np.float64) for key in ("kernel", "bias"))
            classifier, reason = (kernel, bias), ""
        else:
            reason = "its classifier is no dense layer on the features"
    stages = registry.architecture(architecture).stages if isinstance(model, Network) else ()
    return Backbone(headless(model), variables, preprocess, stages, classifier, reason, weights)


@dataclasses.dataclass(frozen=True)
class Stages(ModelWrapper):
    """A network that returns the means of stages' maps over space, joined: [B, sum of widths].

    Attributes:
      model: the network without its head.
      at: dotted names of modules, shallow to deep; "" is the network's own output.
    """

    at: tuple[str, ...]

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Draws the variables of the network."""
        return self.model.init(*args, **kwargs)

    def apply(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Returns the joined means, float32; layers after the last of them cost nothing."""
        names = [name for name in self.at if name]
        output, maps = logits_and_features(self.model, variables, images, names)
        parts = [output if not name else maps[name] for name in self.at]
        means = [p.astype(jnp.float32).mean((1, 2)) if p.ndim == 4 else p for p in parts]
        return jnp.concatenate([mean.astype(jnp.float32) for mean in means], axis=1)


def of_stages(backbone: Backbone, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Returns the modules that candidates of one network take; "" is its own output.

    Raises:
      ValueError: if a stage does not exist.
    """
    for candidate in candidates:
        if candidate.stage is not None and not backbone.stages:
            raise ValueError(
                f"{candidate.name} has a head of its own, and no stages to choose from"
            )
        _check_stage(candidate, backbone.stages)
    chosen = {candidate.stage for candidate in candidates if candidate.stage is not None}
    stages = tuple(backbone.stages[stage] for stage in sorted(chosen))
    takes_output = any(candidate.stage is None for candidate in candidates)
    return (*stages, "") if takes_output else stages


def features_of(backbone: Backbone, at: Sequence[str]) -> Model:
    """Returns the network that computes what `of_stages` names: itself, if that is its output."""
    return backbone.model if tuple(at) == ("",) else Stages(backbone.model, tuple(at))
