"""Names of the classes of pretrained classifiers."""

import functools
import importlib.resources

from tl_jax.weights import index

# One name per line, in the order of ILSVRC 2012: WordNet's lemmas as timm lists them (Apache-2.0).
_FILES = {1000: "imagenet_classes.txt"}


def class_names(weights: str | int) -> tuple[str, ...] | None:
    """Returns the class names of a pretrained classifier, in the order of its logits.

    Args:
      weights: name of pretrained weights (`architecture` or `architecture.tag`), or the number of
        classes: 1000 means ImageNet-1k.

    Returns:
      The names, or None where they are not known.

    Raises:
      ValueError: if there are no such weights.

    Examples:
      >>> class_names("resnet50")[281]
      'tabby, tabby cat'
    """
    count = weights if isinstance(weights, int) else index.pretrained_config(weights).num_classes
    return _read(_FILES[count]) if count in _FILES else None


@functools.cache
def _read(file: str) -> tuple[str, ...]:
    text = importlib.resources.files("tl_jax.weights").joinpath(file).read_text("utf-8")
    return tuple(text.splitlines())
