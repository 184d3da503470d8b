"""Imports timm, the reference that tests, benchmarks and the weight index compare with."""

from types import ModuleType

import torch

_SCHEMA = "{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def import_timm() -> ModuleType:
    """Returns the `timm` module, importable also beside a CPU build of torch.

    torchvision's wheels from the package registry are built for CUDA; beside a CPU torch their
    compiled operators do not load, and `import timm` fails with "operator torchvision::nms does
    not exist". Declaring the two schemas is enough: no classification model calls them.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for op in ("nms", "qnms"):
            library.define(_SCHEMA.format(op=op))
        _LIBRARIES.append(library)
    import timm

    return timm


# A torch.library.Library drops its schemas when it is collected.
_LIBRARIES: list[torch.library.Library] = []
