"""The pretrained stem for images with other numbers of channels."""

from collections.abc import Mapping

import numpy as np

_RGB = 3


def adapt_stem(
    state_dict: Mapping[str, np.ndarray], stem: str, in_channels: int
) -> dict[str, np.ndarray]:
    """Returns a state dict whose first convolution takes images of `in_channels` channels.

    One channel: the kernel is summed over red, green and blue, so that a gray image gives what its
    three equal channels gave. More: the kernel is repeated along its inputs, cut to the number, and
    scaled by 3 / in_channels, so that the sums keep their size (timm's `adapt_input_conv`). A stem
    that folds pixels into channels keeps its folds.

    Args:
      state_dict: under timm's keys; not changed.
      stem: dotted name of the first convolution.
      in_channels: channels of the images.

    Raises:
      ValueError: if there is no such kernel, or it cannot be repeated.

    Examples:
      >>> adapt_stem({"conv1.weight": np.ones((8, 3, 7, 7))}, "conv1", 1)["conv1.weight"].shape
      (8, 1, 7, 7)
    """
    key = f"{stem}.weight"
    if key not in state_dict:
        raise ValueError(
            f"the weights have no {key}, which must be adapted to in_channels={in_channels}; is "
            f"{stem!r} the first convolution?"
        )
    kernel = np.asarray(state_dict[key], np.float32)
    inputs = kernel.shape[1]
    if in_channels in (_RGB, inputs):
        return dict(state_dict)
    if in_channels == 1 and inputs % _RGB == 0:
        outputs, _, *sides = kernel.shape
        folds = kernel.reshape(outputs, inputs // _RGB, _RGB, *sides)
        return {**state_dict, key: folds.sum(axis=2)}
    if inputs != _RGB:
        raise ValueError(
            f"{key} takes {inputs} channels and cannot be adapted to {in_channels}: weights of "
            "3 channels can be adapted to any number, others to 1"
        )
    repeated = np.tile(kernel, (1, -(-in_channels // _RGB), 1, 1))[:, :in_channels]
    return {**state_dict, key: repeated * (_RGB / in_channels)}
