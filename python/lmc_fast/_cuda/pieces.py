"""The rows of one layer that a launch takes: where they lie in memory, and how they are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

WARPS = 8
"""Warps of a block."""

MAX_SLAB_ROWS = 16384
MAX_ROWS = 1 << 30
"""Of one launch."""


class Update(NamedTuple):
    """One layer's new rows.

    Attributes
    ----------
    x, y : Tensor, (n, p, ...) and (n, q, ...)
    buffers : MomentBuffers
        What the moments are added to.
    first : bool
        Whether the buffers are empty: shifts and scales are then set from a sample of these rows.
    """

    x: Tensor
    y: Tensor
    buffers: MomentBuffers
    first: bool


@dataclass(frozen=True)
class MomentBuffers:
    """Device accumulators of one layer: what the kernels add to.

    Attributes
    ----------
    normalisers : pair of Tensor, (2, p) and (2, q) float32
        Shift and scale (a power of two) of every channel, fixed by the first update.
    sums : pair of Tensor, (2, p) and (2, q) float64
        Sum and sum of squares of the shifted values.
    cross : Tensor, (p, q) float64
        Sum of products of the shifted values.
    status : Tensor, (1,) int32
        Bit 0: a value left the range of the split.
    """

    normalisers: tuple[Tensor, Tensor]
    sums: tuple[Tensor, Tensor]
    cross: Tensor
    status: Tensor

    @staticmethod
    def zeros(p: int, q: int, device: torch.device) -> MomentBuffers:
        """Empty accumulators for `p` and `q` channels."""

        def make(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return MomentBuffers(
            normalisers=(make(2, p, dtype=torch.float32), make(2, q, dtype=torch.float32)),
            sums=(make(2, p), make(2, q)),
            cross=make(p, q),
            status=make(1, dtype=torch.int32),
        )


@dataclass(frozen=True)
class Side:
    data: Tensor
    stride: int
    channels: int
    aligned: bool


@dataclass(frozen=True)
class Piece:
    """Rows of one layer that one launch takes.

    Attributes
    ----------
    exact : bool
        Whether the products are float64's.
    """

    sides: tuple[Side, Side]
    buffers: MomentBuffers
    first: bool
    exact: bool
    rows: int
    spatial: int
    first_image: int = 0
    slab_rows: int = MAX_SLAB_ROWS

    @property
    def dtype(self) -> torch.dtype:
        return self.sides[0].data.dtype

    @property
    def tile(self) -> int:
        largest = max(side.channels for side in self.sides)
        return 32 if largest <= 32 else 64 if largest <= 64 or self.exact else 128

    @property
    def warps(self) -> int:
        """Warps of the preparation, one to a channel, in whole blocks."""
        return WARPS * -(-sum(side.channels for side in self.sides) // WARPS)

    @property
    def tiles(self) -> int:
        return math.prod(-(-side.channels // self.tile) for side in self.sides)

    @property
    def slabs(self) -> int:
        return -(-self.rows // self.slab_rows)

    @property
    def workspace_bytes(self) -> int:
        channels = sum(side.channels for side in self.sides)
        values = self.slabs * (self.tiles * self.tile**2 + 2 * channels)
        return (8 if self.exact else 4) * values


def _memory_order(tensor: Tensor) -> tuple[int, int] | None:
    """(spatial, stride) of memory that the kernels read in place; None where a copy is needed."""
    channels = tensor.shape[1]
    spatial = math.prod(tensor.shape[2:])
    if tensor.ndim == 2:
        return (0, tensor.stride(0)) if channels == 1 or tensor.stride(1) == 1 else None
    inner = tensor[0]
    if inner.is_contiguous():
        return (spatial, tensor.stride(0)) if spatial > 1 else (0, tensor.stride(0))
    last = tensor.movedim(1, -1)
    if last.is_contiguous():
        return (0, channels)
    return None


def piece_of(update: Update, *, exact: bool) -> Piece:
    x, y, buffers, first = update
    if x.dtype != y.dtype:
        wider = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
        x, y = x.to(wider), y.to(wider)
    rows = x.shape[0] * math.prod(x.shape[2:])
    exact = exact or x.dtype == torch.float64
    if rows == 0:
        nothing = Side(x, 0, 0, False), Side(y, 0, 0, False)
        return Piece(nothing, buffers, first, exact, 0, 0)
    orders = _memory_order(x), _memory_order(y)
    if orders[0] is None or orders[1] is None or orders[0][0] != orders[1][0]:
        x, y = x.contiguous(), y.contiguous()
        orders = _memory_order(x), _memory_order(y)
    spatial = orders[0][0] if orders[0] else 0
    sides = tuple(
        Side(t, order[1], t.shape[1], _is_aligned(t, order[1], spatial))
        for t, order in zip((x, y), orders, strict=True)
        if order is not None
    )
    return Piece((sides[0], sides[1]), buffers, first, exact, rows, spatial)


def _is_aligned(tensor: Tensor, stride: int, spatial: int) -> bool:
    whole = stride % 4 == 0 and spatial % 4 == 0
    return whole and tensor.data_ptr() % (4 * tensor.element_size()) == 0


def split(piece: Piece, workspace_bytes: int) -> Iterator[Piece]:
    """Cut a piece between images so that each part's workspace fits; one slab is the least."""
    slab_bytes = replace(piece, rows=1).workspace_bytes
    step = min(piece.slab_rows * max(1, workspace_bytes // slab_bytes), MAX_ROWS)
    image = max(piece.spatial, 1)
    step = max(step // image, 1) * image
    for start in range(0, piece.rows, step):
        yield replace(
            piece,
            rows=min(step, piece.rows - start),
            first_image=piece.first_image + start // image,
        )
