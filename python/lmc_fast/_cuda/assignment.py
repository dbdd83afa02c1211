"""Linear assignment on CUDA: one block to a problem, all problems in one launch."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmc_fast._cuda.launcher import Launcher

_THREADS = 256
_WARPS = _THREADS // 32
_MAX_GROUPS = 32
_REPORT_FIELDS = 6


MAX_SIZE = 2048
"""Columns whose state fits into the 99 kB of shared memory that every supported device has."""


class _Group(ctypes.Structure):
    _fields_ = (
        ("cost", ctypes.c_void_p),
        ("batch_stride", ctypes.c_longlong),
        ("row_stride", ctypes.c_longlong),
        ("column_stride", ctypes.c_longlong),
        ("initial_v", ctypes.c_void_p),
        ("columns", ctypes.c_void_p),
        ("u", ctypes.c_void_p),
        ("v", ctypes.c_void_p),
        ("reports", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
        ("rows", ctypes.c_int),
        ("cols", ctypes.c_int),
        ("first_block", ctypes.c_int),
        ("float64", ctypes.c_int),
    )


class _Params(ctypes.Structure):
    _fields_ = (
        ("groups", ctypes.c_int),
        ("maximize", ctypes.c_int),
        ("group", _Group * _MAX_GROUPS),
    )


@dataclass(frozen=True)
class DeviceAssignment:
    """Solutions of a batch of problems, on their device.

    Attributes
    ----------
    cols : Tensor, (batch, rows) int64
        The lexicographically smallest optimum.
    u, v : Tensor, (batch, rows) and (batch, cols) float64
        Duals in the units of the matrix.
    reports : Tensor, (batch, 6) float64
        Gap, grid, moved, moved_by, paths, rows scanned by paths.
    status : Tensor, (batch, 2) int64
        0 solved, 1 infeasible, 2 invalid entry; and the flat index of that entry.
    """

    cols: Tensor
    u: Tensor
    v: Tensor
    reports: Tensor
    status: Tensor


def solve(
    costs: Sequence[Tensor],
    *,
    maximize: bool,
    launcher: Launcher,
    initial_v: Sequence[Tensor | None] | None = None,
) -> list[DeviceAssignment]:
    """Solve batches of problems, (batch, rows, cols) each, rows <= cols <= 2048.

    Parameters
    ----------
    costs : sequence of Tensor, float32 or float64, any strides
        One launch serves up to 32 of them.
    maximize : bool
    initial_v : sequence of Tensor or None, (batch, cols) float64 each, optional
        Duals of the columns to start from, finite; only square problems heed them.

    Notes
    -----
    Nothing is read back: the caller looks at the status words when it needs the result. Memory
    beyond the results: none.
    """
    results = []
    for start in range(0, len(costs), _MAX_GROUPS):
        part = costs[start : start + _MAX_GROUPS]
        hints = [None if initial_v is None else initial_v[start + k] for k in range(len(part))]
        hints = [None if hint is None else hint.contiguous() for hint in hints]
        outputs = [_outputs(cost) for cost in part]
        params = _Params(groups=len(part), maximize=maximize)
        blocks = shared = 0
        # The longest first, so that the others fill in beside them.
        order = sorted(range(len(part)), key=lambda k: -part[k].shape[2])
        for group, k in zip(params.group, order, strict=False):
            cost, out, hint = part[k], outputs[k], hints[k]
            batch, rows, cols = cost.shape
            group.cost = cost.data_ptr()
            group.batch_stride, group.row_stride, group.column_stride = cost.stride()
            group.initial_v = None if hint is None else hint.data_ptr()
            group.columns = out.cols.data_ptr()
            group.u, group.v = out.u.data_ptr(), out.v.data_ptr()
            group.reports, group.status = out.reports.data_ptr(), out.status.data_ptr()
            group.rows, group.cols = rows, cols
            group.first_block = blocks
            group.float64 = cost.dtype == torch.float64
            blocks += batch
            shared = max(shared, _shared_bytes(rows, cols))
        if blocks:
            launcher.launch("assignment", (blocks, 1, 1), _THREADS, shared, params)
        results += outputs
    return results


def margins(cost: Tensor, result: DeviceAssignment, *, maximize: bool) -> Tensor:
    """By how much every row's second choice is worse under the duals, (batch, rows) float64."""
    slack = cost.double() - result.u[:, :, None] - result.v[:, None, :]
    slack = -slack if maximize else slack
    chosen = result.cols[:, :, None]
    slack.scatter_(
        2, chosen.clamp_min(0), slack.gather(2, chosen.clamp_min(0)).where(chosen < 0, torch.inf)
    )
    return slack.amin(2)


def objective(cost: Tensor, cols: Tensor) -> Tensor:
    """Sum of the chosen entries, (batch,) float64."""
    paired = cost.gather(2, cols[:, :, None].clamp_min(0))[:, :, 0]
    return paired.double().where(cols >= 0, 0.0).sum(1)


def _outputs(cost: Tensor) -> DeviceAssignment:
    batch, rows, cols = cost.shape

    def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=cost.device)

    return DeviceAssignment(
        cols=empty(batch, rows, dtype=torch.int64),
        u=empty(batch, rows),
        v=empty(batch, cols),
        reports=empty(batch, _REPORT_FIELDS),
        status=empty(batch, 2, dtype=torch.int64),
    )


def _shared_bytes(rows: int, cols: int) -> int:
    """Duals, distances, matching, queue and two sets of reduction slots of one problem."""
    wide = rows + 2 * cols + 2 * _WARPS
    narrow = 2 * _WARPS + 3 * cols + rows + 1
    return 8 * wide + 4 * narrow
