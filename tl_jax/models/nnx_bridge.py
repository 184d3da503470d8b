"""Networks as modules of Flax NNX, and back to Linen's variables."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import errors, nnx
from flax import linen as nn

from tl_jax import arguments, messages, trees
from tl_jax.models.variables import abstract_variables
from tl_jax.weights.state_dict import check_variables

_VARIABLE = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


class NNXNetwork(nnx.Module):
    """A network of Linen that holds its variables, under their own paths, as NNX modules do.

    `module(images)` evaluates. In training mode, `module(images, train=True)` or after
    `module.train()`, it also updates the running statistics of BatchNorm and draws dropout from
    `rngs`. The parameters are `nnx.Param` and the statistics `nnx.BatchStat`.

    Attributes:
      network: the network of Linen.
      deterministic: evaluate in calls that do not say `train`; `train()` and `eval()` of this
        module, or of one that holds it, set this.
      rngs: the stream "dropout"; None if nothing is drawn.
    """

    def __init__(
        self, network: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None
    ) -> None:
        self.network = network
        self.deterministic = True
        self.rngs = nnx.data(rngs)
        # As arrays of jax, because NNX writes into those of NumPy, which may be the caller's.
        merged = trees.merge(
            *(
                jax.tree.map(lambda x, kind=_VARIABLE[name]: kind(jnp.asarray(x)), dict(tree))
                for name, tree in variables.items()
            )
        )
        for name, tree in merged.items():
            setattr(self, name, nnx.data(tree))

    def __call__(self, images: jax.Array, *, train: bool | None = None) -> jax.Array:
        """Applies the network to images [B, H, W, C]; see the class for `train`."""
        train = not self.deterministic if train is None else train
        variables = from_nnx(self)
        try:
            return self._train(variables, images) if train else self._evaluate(variables, images)
        except errors.ScopeParamShapeError as error:
            raise ValueError(
                f"a parameter has another shape than the network's: {error}. To replace the "
                "classifier, load the network with num_classes=N; or with num_classes=0, as a part "
                "of a module that has an nnx.Linear after it"
            ) from error

    def _evaluate(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        evaluated: Any = self.network.apply(variables, images)
        return evaluated

    def _train(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        keys = {} if self.rngs is None else {"dropout": self.rngs.dropout()}
        try:
            applied: Any = self.network.apply(
                variables, images, train=True, mutable=["batch_stats"], rngs=keys
            )
        except errors.InvalidRngError as error:
            raise ValueError(
                "the network drops values in training and has no random stream; make the module "
                "with to_nnx(model, variables, rngs=nnx.Rngs(dropout=0))"
            ) from error
        logits, updated = applied
        statistics = dict(nnx.to_flat_state(nnx.state(self, nnx.BatchStat)))
        for path, value in trees.flatten(updated.get("batch_stats", {})).items():
            statistics[path][...] = value
        return logits


def to_nnx(
    model: nn.Module, variables: Mapping[str, Any], *, rngs: nnx.Rngs | None = None
) -> NNXNetwork:
    """Makes an NNX module of a network and its variables.

    Paths are the variables' own: `variables["params"]["layer1"]["0"]["conv1"]["kernel"]` is
    `module.layer1["0"]["conv1"]["kernel"]`, an `nnx.Param`.

    Args:
      model: a network of `create_model`, or one with a head (`Classifier`, `Fused`).
      variables: its params and batch_stats.
      rngs: with the stream "dropout", for networks that drop values in training.

    Raises:
      TypeError: if the model is not a network of Linen.
      ValueError: if the variables are not this network's; it names those that differ.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> model, images = create_model("simple_cnn", num_classes=5), jnp.ones((1, 16, 16, 3))
      >>> variables = model.init(jax.random.key(0), images)
      >>> module = to_nnx(model, variables)
      >>> bool((module(images) == model.apply(variables, images)).all())
      True
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            "to_nnx takes a network of create_model and then its variables, but the network is "
            f"{arguments.kind(model)}; of an adapted network take its model and merged variables"
        )
    check_variables(variables, function="to_nnx")
    _check_rngs(rngs)
    expected, given = (
        {trees.dotted(path): tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}
        for tree in (abstract_variables(model), variables)
    )
    differing = [name for name in expected | given if expected.get(name) != given.get(name)]
    if differing:
        raise ValueError(
            f"the variables are not this network's: {messages.some(differing)} are missing, have "
            "another shape, or are not the network's; load or draw them for this network"
        )
    return NNXNetwork(model, variables, rngs)


def _check_rngs(rngs: Any) -> None:
    if rngs is not None and not isinstance(rngs, nnx.Rngs):
        raise TypeError(
            f"rngs is {arguments.kind(rngs)}; expected streams of random keys, such as "
            "nnx.Rngs(dropout=0)"
        )
    # A stream "default" serves for all others.
    if rngs is not None and not {"dropout", "default"} & set(rngs):
        raise ValueError(
            "rngs has no stream 'dropout', which the network draws from; make it with "
            "nnx.Rngs(dropout=0)"
        )


def from_nnx(module: NNXNetwork) -> dict[str, Any]:
    """Returns the variables of Linen that a module of `to_nnx` holds now.

    They are `{"params": ..., "batch_stats": ...}`, `batch_stats` only if there are any:
    `module.network` applies them, `to_state_dict` exports them.

    Raises:
      TypeError: if the module is another.

    Examples:
      >>> from tl_jax.models.registry import create_model
      >>> model = create_model("simple_cnn", num_classes=5)
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
      >>> jax.tree.all(jax.tree.map(jnp.array_equal, from_nnx(to_nnx(model, variables)), variables))
      True
    """
    if not isinstance(module, NNXNetwork):
        raise TypeError(
            f"from_nnx takes a module of to_nnx, but got {arguments.kind(module)}; of a larger "
            "module give the part that to_nnx made"
        )
    collections = {
        name: nnx.to_pure_dict(nnx.state(module, kind)) for name, kind in _VARIABLE.items()
    }
    return {name: tree for name, tree in collections.items() if tree or name == "params"}
