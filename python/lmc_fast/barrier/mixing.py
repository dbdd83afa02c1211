"""Weighted sums of networks, for many points at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict


class Mixer:
    """The tensors of many points.

    Attributes
    ----------
    networks
        The networks that some point mixes.
    index, share
        Shapes (K, m): which of them each point mixes, and by how much.
    stack_bytes
        What stacks of all networks take: memory for populations; zero where tensors are mixed
        point by point, which `weighted` sums of stacks beat for many points of small networks.
    """

    def __init__(
        self,
        points: Points,
        corrections: Sequence[Correction],
        names: Sequence[str],
        *,
        max_stack: int,
    ) -> None:
        """Prepare to mix ``names``, stacked where that takes ``max_stack`` bytes at most."""
        used, index = np.unique(points.index, return_inverse=True)
        self.networks: list[StateDict] = [points.anchors[i] for i in used]
        self._corrections = corrections
        self._stacks: dict[str, Tensor] = {}
        device = next(iter(self.networks[0].values())).device
        self.index = torch.from_numpy(index.reshape(points.index.shape)).to(device)
        self.share = torch.from_numpy(points.weight).to(device)
        present = [self.networks[0][name] for name in names]
        size = len(used) * sum(t.numel() * t.element_size() for t in present)
        self.stack_bytes = size if size <= max_stack else 0

    def mixed(self, name: str, part: slice) -> Tensor:
        """Return the tensor ``name`` at some of the points, shape (points, ...)."""
        if self._corrections and name in self._corrections[0].buffers:
            return torch.stack([c.buffers[name] for c in self._corrections[part]])
        if self.stack_bytes:
            if name not in self._stacks:
                self._stacks[name] = torch.stack([network[name] for network in self.networks])
            return self.weighted(self._stacks[name], part)
        like = self.networks[0][name]
        out = like.new_empty(part.stop - part.start, *like.shape)
        for row, networks, shares in zip(
            out, self.index[part].tolist(), self.share[part].tolist(), strict=True
        ):
            first = self.networks[networks[0]][name]
            row.copy_(first)
            for network, share in zip(networks[1:], shares[1:], strict=True):
                row.add_(self.networks[network][name] - first, alpha=share)
        return out

    def weighted(self, stack: Tensor, part: slice) -> Tensor:
        """Return the weighted sums of (networks, ...) at some of the points, (points, ...)."""
        index = self.index[part]
        share = self.share[part].to(stack.dtype).reshape(*index.shape, *[1] * (stack.dim() - 1))
        first = stack[index[:, 0]]
        total = first
        for j in range(1, index.shape[1]):
            # First plus differences: exact where the networks agree.
            total = stack[index[:, j]].sub_(first).mul_(share[:, j]).add_(total)
        return total

    def share_of_last(self) -> Tensor:
        """Return by how much each point mixes the last network, (points,) in its own dtype."""
        like = next(t for t in self.networks[0].values() if t.is_floating_point())
        here = self.index == len(self.networks) - 1
        return (self.share * here).sum(1).to(like.dtype)

    def affine(self, name: str, part: slice) -> tuple[Tensor, Tensor] | None:
        """Return REPAIR's scale and shift of a layer's units, (points, units) each, if any."""
        corrections = self._corrections[part] if self._corrections else ()
        if not any(name in c.affine for c in corrections):
            return None
        shape = next(c.affine[name][0] for c in corrections if name in c.affine)
        unchanged = torch.ones_like(shape), torch.zeros_like(shape)
        pairs = [c.affine.get(name, unchanged) for c in corrections]
        dtype = self.networks[0][f"{name}.weight"].dtype
        scale = torch.stack([scale for scale, _ in pairs])
        shift = torch.stack([shift for _, shift in pairs])
        return scale.to(dtype), shift.to(dtype)
