"""The protocol of networks: what training, evaluation and probes use of one."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Model(Protocol):
    """A network with pure `init` and `apply`, like a Linen module's.

    Networks of the registry, networks with a head of their own, adapted networks, networks that
    predict matched classes only and the rest of a network behind a boundary are models.
    """

    @property
    def num_classes(self) -> int:
        """Number of logits; 0 if the output is pooled features."""

    @property
    def in_channels(self) -> int:
        """Channels of an image."""

    @property
    def classifier(self) -> str:
        """Dotted name of the module whose output is the logits."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Returns fresh variables: `init(key, images)`, as `flax.linen.Module.init`."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the output: `apply(variables, images)`, as `flax.linen.Module.apply`."""
