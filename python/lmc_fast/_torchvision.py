"""torchvision, imported also where its compiled operations were built for another torch."""

from __future__ import annotations

import sys
from types import ModuleType

import torch

_LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision; its models and data sets need none of its compiled operations.

    Where those cannot be loaded torchvision's import fails on the missing declaration of
    non-maximum suppression, which is declared here then.

    Raises
    ------
    ImportError
        If torchvision is not installed.
    """
    try:
        import torchvision
    except RuntimeError:
        for name in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for op in ("nms", "qnms"):
            schema = f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(schema)  # type: ignore[no-untyped-call]
        # A library that is collected takes its declarations with it.
        _LIBRARIES.append(library)
        import torchvision
    return torchvision  # type: ignore[no-any-return]
