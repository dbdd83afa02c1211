"""Cross moments on CUDA: plan the launches of csrc/cuda/cross_correlation.cu.

Only the launcher needs a GPU; the tests put one that runs on the host in its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lmc_fast._cuda.launcher import Launcher
from lmc_fast._cuda.pieces import (
    MAX_ROWS,
    MAX_SLAB_ROWS,
    WARPS,
    MomentBuffers,
    Piece,
    Update,
    piece_of,
    split,
)

MODES = ("float32", "fast", "exact")
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}

WIDE = 1024
"""Layers with so many channels on both sides are multiplied by torch in exact mode.

Such a product is bound by arithmetic, and cuBLAS uses the larger double-precision products that
Hopper adds to the one the kernel takes (8 x 8 x 4, the only one before it). An estimate, until
``bench gpu`` has measured both.
"""

_DESCRIBED = 28
_THREADS = 32 * WARPS
_STAGES = 3
_OVERFLOW = 1
_MIN_SLAB_ROWS = 512
_WAVES = 4
_WORKSPACE_BYTES = 1 << 29
# Half a unit in the last place of the lower half is 2^-25: within 2^-22 of values of this size.
_SMALLEST_RMS = 2.0**-3


class _Operand(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("normaliser", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("stride", ctypes.c_longlong),
        ("channels", ctypes.c_int),
        ("aligned", ctypes.c_int),
    )


class _Layer(ctypes.Structure):
    _fields_ = (
        ("operands", _Operand * 2),
        ("moments", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("spatial", ctypes.c_int),
        ("slab_rows", ctypes.c_int),
        ("slabs", ctypes.c_int),
        ("tile", ctypes.c_int),
        ("type", ctypes.c_int),
        ("first_block", ctypes.c_int),
        ("first_tile", ctypes.c_int),
        ("exact", ctypes.c_int),
        ("padding", ctypes.c_int),
    )


class _Table(ctypes.Structure):
    _fields_ = (("layers", ctypes.c_void_p), ("count", ctypes.c_int))


class _Description(ctypes.Structure):
    _fields_ = (
        ("to", ctypes.c_void_p),
        ("count", ctypes.c_int),
        ("padding", ctypes.c_int),
        ("layer", _Layer * _DESCRIBED),
    )


_LAYER_BYTES = ctypes.sizeof(_Layer)
_PLACE_BYTES = 32


def accumulate(updates: Sequence[Update], *, launcher: Launcher, mode: str = "float32") -> None:
    """Add the moments of every layer's (x, y) to its buffers.

    x and y are (n, channels), or (n, channels, ...) with n and the trailing axes as rows;
    row-major, channels-last and NCHW memory is read in place. All layers go in one launch, whatever
    their number, sizes and memory orders, and whether they are the first rows of their buffers;
    then one adds the launch's parts. In exact mode, and for float64 input in any mode, the products
    are those of float64, by a kernel of the same kind; there layers of at least `WIDE` channels go
    through torch, one by one. Fast mode rounds layers of more than 64 channels alone: narrower ones
    are bound by memory. No buffers may come twice.

    Parameters
    ----------
    updates : sequence of Update
    launcher : Launcher
    mode : {"float32", "fast", "exact"}

    Notes
    -----
    2 n p q operations for each of three products (one in fast mode) on the tensor cores, n (p + q)
    elements read. The result does not depend on the schedule. When a workspace does not fit, the
    rows are taken in smaller pieces, at last layer by layer.
    """
    pieces = [piece_of(update, exact=mode == "exact") for update in updates]
    pieces = [piece for piece in pieces if piece.rows and piece.buffers.cross.numel()]
    # The largest tiles first: the others fill in beside them.
    pieces.sort(key=lambda piece: -piece.tile)
    fresh = [piece for piece in pieces if piece.first]
    if fresh:
        _prepare(fresh, launcher)
    by_torch = [piece for piece in pieces if piece.exact and _width(piece) >= WIDE]
    for piece in by_torch:
        _accumulate_wide(piece)
    exact = [piece for piece in pieces if piece.exact and _width(piece) < WIDE]
    for group in (exact, [piece for piece in pieces if not piece.exact]):
        if group:
            _accumulate_together(group, launcher, mode, _WORKSPACE_BYTES)


def _width(piece: Piece) -> int:
    """The channels of the narrower side."""
    return min(side.channels for side in piece.sides)


def imprecise_channels(buffers: MomentBuffers, count: int) -> Tensor:
    """How many channels, of both sides, are too small for their scale: an int64 scalar tensor."""
    total = torch.zeros((), dtype=torch.int64, device=buffers.cross.device)
    for sums, normaliser in zip(buffers.sums, buffers.normalisers, strict=True):
        rms = (sums[1] / count).sqrt() * normaliser[1]
        total += ((rms > 0) & (rms < _SMALLEST_RMS)).sum()
    return total


def overflowed(buffers: MomentBuffers) -> Tensor:
    """Whether a value was too large for its scale: a bool scalar tensor."""
    return (buffers.status[0] & _OVERFLOW) != 0


def _describe(
    pieces: Sequence[Piece], launcher: Launcher, *, workspace: int = 0, prepare: bool = False
) -> tuple[_Table, Tensor]:
    """Write the pieces' descriptions to a table on the device, which the caller keeps alive."""
    device = pieces[0].buffers.cross.device
    memory = torch.empty(len(pieces) * _LAYER_BYTES, dtype=torch.uint8, device=device)
    block = tile = offset = 0
    for start in range(0, len(pieces), _DESCRIBED):
        part = pieces[start : start + _DESCRIBED]
        description = _Description(to=memory.data_ptr() + start * _LAYER_BYTES, count=len(part))
        for layer, piece in zip(description.layer, part, strict=False):
            _fill(layer, piece)
            layer.first_block = block
            layer.first_tile = tile
            layer.workspace = workspace + offset
            block += piece.warps // WARPS if prepare else piece.slabs * piece.tiles
            tile += piece.tiles
            offset += 0 if prepare else piece.workspace_bytes
        launcher.launch("correlation_describe", (1, 1, 1), 32, 0, description)
    return _Table(layers=memory.data_ptr(), count=len(pieces)), memory


def _fill(layer: _Layer, piece: Piece) -> None:
    for operand, side, normaliser, sums in zip(
        layer.operands, piece.sides, piece.buffers.normalisers, piece.buffers.sums, strict=True
    ):
        start = piece.first_image * side.stride * side.data.element_size()
        operand.data = side.data.data_ptr() + start
        operand.normaliser = normaliser.data_ptr()
        operand.sums = sums.data_ptr()
        operand.stride = side.stride
        operand.channels = side.channels
        operand.aligned = side.aligned
    layer.moments = piece.buffers.cross.data_ptr()
    layer.status = piece.buffers.status.data_ptr()
    layer.rows = piece.rows
    layer.spatial = piece.spatial
    layer.slab_rows = piece.slab_rows
    layer.slabs = piece.slabs
    layer.tile = piece.tile
    layer.type = TYPES[piece.dtype]
    layer.exact = piece.exact


def _prepare(pieces: Sequence[Piece], launcher: Launcher) -> None:
    # Rows are counted in 32 bits: of more, the sample is taken from the first.
    pieces = [replace(piece, rows=min(piece.rows, MAX_ROWS)) for piece in pieces]
    table, _memory = _describe(pieces, launcher, prepare=True)
    blocks = sum(piece.warps for piece in pieces) // WARPS
    launcher.launch("correlation_prepare", (blocks, 1, 1), _THREADS, _LAYER_BYTES, table)


def _accumulate_together(
    pieces: Sequence[Piece], launcher: Launcher, mode: str, workspace_bytes: int
) -> None:
    """Run all pieces in one round, or in as many as their workspace needs."""
    largest = max(piece.tile for piece in pieces)
    # A block's time goes with rows x tile; all blocks are to take about as long.
    work = sum(piece.tiles * piece.rows * piece.tile for piece in pieces)
    share = -(-work // (launcher.multiprocessors * _WAVES * (1 if largest == 128 else 2)))
    pieces = [replace(piece, slab_rows=_slab_rows(share // piece.tile)) for piece in pieces]
    need = sum(piece.workspace_bytes for piece in pieces)
    queues = [
        list(split(piece, workspace_bytes * piece.workspace_bytes // max(need, workspace_bytes)))
        for piece in pieces
    ]
    while any(queues):
        current = [queue.pop(0) for queue in queues if queue]
        try:
            _run(current, launcher, mode)
        except torch.OutOfMemoryError:
            if any(piece.slabs > 1 for piece in current):
                _accumulate_together(current, launcher, mode, min(workspace_bytes, need) // 4)
            elif len(current) > 1:
                for piece in current:
                    _accumulate_together([piece], launcher, mode, 1)
            else:
                raise


def _slab_rows(rows: int) -> int:
    return -(-min(max(rows, _MIN_SLAB_ROWS), MAX_SLAB_ROWS) // 128) * 128


def _run(pieces: Sequence[Piece], launcher: Launcher, mode: str) -> None:
    size = sum(piece.workspace_bytes for piece in pieces)
    device = pieces[0].buffers.cross.device
    workspace = torch.empty(size, dtype=torch.uint8, device=device)
    table, _memory = _describe(pieces, launcher, workspace=workspace.data_ptr())
    sizes = {piece.tile for piece in pieces}
    blocks = sum(piece.slabs * piece.tiles for piece in pieces)
    tiles = sum(piece.tiles for piece in pieces)
    if pieces[0].exact:
        kernel = "correlation_exact"
        shared = max(map(_exact_shared_bytes, sizes))
    else:
        arithmetic = "fast" if mode == "fast" and 128 in sizes else "float32"
        kernel = f"correlation_{arithmetic}_{max(64, *sizes)}"
        shared = max(_shared_bytes(tile, split=mode != "fast" or tile < 128) for tile in sizes)
    launcher.launch(kernel, (blocks, 1, 1), _THREADS, shared, table)
    launcher.launch("correlation_reduce", (tiles, 1, 1), _THREADS, _LAYER_BYTES, table)


def _shared_bytes(tile: int, *, split: bool) -> int:
    """Shared memory of a tile: its layer and place, raw input, the halves of two stages, scales."""
    depth = 2048 // tile
    halves = max(depth * (tile + 8), tile * (depth + 8))
    raw = _LAYER_BYTES + _PLACE_BYTES + _STAGES * 2 * 2048 * 4
    return raw + 2 * 2 * (2 if split else 1) * halves * 2 + 2 * 2 * tile * 4


def _exact_shared_bytes(tile: int) -> int:
    """As `_shared_bytes`, of the products of float64: two stages of both sides."""
    return _LAYER_BYTES + _PLACE_BYTES + 2 * 2 * (1024 // tile) * (tile + 4) * 8


def _accumulate_wide(piece: Piece) -> None:
    """Add a piece's moments in float64 through torch, at most 2^26 elements at a time."""
    step = max(1, (1 << 26) // max(1, sum(t.data[0].numel() for t in piece.sides)))
    images = len(piece.sides[0].data)
    for start in range(0, images, step):
        shifted = []
        for side, normaliser, sums in zip(
            piece.sides, piece.buffers.normalisers, piece.buffers.sums, strict=True
        ):
            rows = side.data[start : start + step].movedim(1, -1).reshape(-1, side.channels)
            rows = rows.double() - normaliser[0].double()
            sums += torch.stack((rows.sum(0), rows.square().sum(0)))
            shifted.append(rows)
        piece.buffers.cross.addmm_(shifted[0].T, shifted[1])
