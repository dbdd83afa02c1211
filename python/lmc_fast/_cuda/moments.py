"""The device side of `CrossMoments`: accumulators that the kernels add to, read when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lmc_fast._cuda.cross_correlation import accumulate, imprecise_channels, overflowed
from lmc_fast._cuda.launcher import Launcher
from lmc_fast._cuda.pieces import MomentBuffers, Update


class CentralMoments(NamedTuple):
    """What the buffers hold, about the means, in float64; and how far to trust it."""

    samples: int
    mean_x: Tensor
    mean_y: Tensor
    m2_x: Tensor
    m2_y: Tensor
    cross: Tensor
    overflowed: bool
    imprecise: int


class DeviceMoments:
    """Moments of one layer that have not left the device yet."""

    def __init__(self, p: int, q: int, device: torch.device) -> None:
        self.count = 0
        self.exact = True  # no product of halves yet
        self.buffers = MomentBuffers.zeros(p, q, device)

    def central(self) -> CentralMoments:
        """Read the buffers; the one place that waits for the device."""
        n = self.count
        (sum_x, square_x), (sum_y, square_y) = self.buffers.sums
        shift_x, shift_y = (normaliser[0].double() for normaliser in self.buffers.normalisers)
        bad = imprecise = 0
        if not self.exact:
            flags = torch.stack((overflowed(self.buffers), imprecise_channels(self.buffers, n)))
            bad, imprecise = flags.tolist()
        return CentralMoments(
            samples=n,
            mean_x=shift_x + sum_x / n,
            mean_y=shift_y + sum_y / n,
            m2_x=(square_x - sum_x.square() / n).clamp_min(0),
            m2_y=(square_y - sum_y.square() / n).clamp_min(0),
            cross=torch.addr(self.buffers.cross, sum_x, sum_y, alpha=-1 / n),
            overflowed=bool(bad),
            imprecise=int(imprecise),
        )


def add(
    layers: Sequence[tuple[DeviceMoments, Tensor, Tensor]], *, launcher: Launcher, mode: str
) -> None:
    """Add one batch of every layer, all layers together; nothing is read back.

    Accumulators that come several times take as many rounds: blocks of one launch would add to them
    at once.
    """
    while layers:
        now: dict[int, tuple[DeviceMoments, Tensor, Tensor]] = {}
        later = [layer for layer in layers if now.setdefault(id(layer[0]), layer) is not layer]
        accumulate(
            [Update(x, y, held.buffers, held.count == 0) for held, x, y in now.values()],
            launcher=launcher,
            mode=mode,
        )
        for held, x, y in now.values():
            held.count += x.numel() // x.shape[1] if x.shape[1] else 0
            held.exact &= mode == "exact" or torch.float64 in (x.dtype, y.dtype)
        layers = later
