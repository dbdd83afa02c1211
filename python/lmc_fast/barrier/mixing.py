"""Weighted sums of stacked networks, for many points at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points


class Mixer:
    """The tensors of many points: sums of the networks' own, stacked once."""

    def __init__(self, points: Points, corrections: Sequence[Correction]) -> None:
        used, index = np.unique(points.index, return_inverse=True)
        self._anchors = [points.anchors[i] for i in used]
        self._corrections = corrections
        self._stacks: dict[str, Tensor] = {}
        device = next(iter(self._anchors[0].values())).device
        self.index = torch.from_numpy(index.reshape(points.index.shape)).to(device)
        self.share = torch.from_numpy(points.weight).to(device)

    def stack(self, name: str) -> Tensor:
        """Return the tensor ``name`` of every network mixed, shape (networks, ...)."""
        if name not in self._stacks:
            self._stacks[name] = torch.stack([anchor[name] for anchor in self._anchors])
        return self._stacks[name]

    def mixed(self, name: str, part: slice) -> Tensor:
        """Return the tensor ``name`` at some of the points, shape (points, ...)."""
        if self._corrections and name in self._corrections[0].buffers:
            return torch.stack([c.buffers[name] for c in self._corrections[part]])
        return self.weighted(self.stack(name), part)

    def weighted(self, stack: Tensor, part: slice) -> Tensor:
        """Return the weighted sums of (networks, ...) at some of the points, (points, ...)."""
        index = self.index[part]
        share = self.share[part].to(stack.dtype).reshape(*index.shape, *[1] * (stack.dim() - 1))
        first = stack[index[:, 0]]
        total = first
        for j in range(1, index.shape[1]):
            # First plus differences: exact where the networks agree.
            total = total + share[:, j] * (stack[index[:, j]] - first)
        return total

    def affine(self, name: str, part: slice) -> tuple[Tensor, Tensor] | None:
        """Return REPAIR's scale and shift of a layer's units, (points, units) each, if any."""
        corrections = self._corrections[part] if self._corrections else ()
        if not any(name in c.affine for c in corrections):
            return None
        shape = next(c.affine[name][0] for c in corrections if name in c.affine)
        unchanged = torch.ones_like(shape), torch.zeros_like(shape)
        pairs = [c.affine.get(name, unchanged) for c in corrections]
        dtype = self.stack(f"{name}.weight").dtype
        scale = torch.stack([scale for scale, _ in pairs])
        shift = torch.stack([shift for _, shift in pairs])
        return scale.to(dtype), shift.to(dtype)
