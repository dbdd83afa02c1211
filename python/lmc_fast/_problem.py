"""Assignment problems as the solver on the CPU takes them: checked, with room for the answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import lmc_fast._core as _core
from lmc_fast._cost import CostView

_INFEASIBLE, _INVALID = 1, 2


@dataclass(frozen=True, slots=True)
class Problem:
    """Matrices of one shape and the arrays that receive their answers.

    Attributes
    ----------
    view : CostView
    cols : int64 (..., rows)
    reports : float64 (..., 8)
        Objective, gap, grid, moved, moved_by, rows_read, list_visits, augmentations.
    prefer : int64 (..., rows) or None
    initial_duals : float64 (..., rows) and (..., cols), or None
    u, v, margins, regrets : float64 (..., rows) or (..., cols), or None where not asked for
    """

    view: CostView
    cols: NDArray[np.int64]
    reports: NDArray[np.float64]
    prefer: NDArray[np.int64] | None = None
    initial_duals: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
    u: NDArray[np.float64] | None = None
    v: NDArray[np.float64] | None = None
    margins: NDArray[np.float64] | None = None
    regrets: NDArray[np.float64] | None = None


def pose(
    view: CostView,
    *,
    prefer: NDArray[np.int64] | None = None,
    initial_duals: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    certified: bool = True,
    regrets: bool = False,
) -> Problem:
    """Make room for the answers to the matrices of a view.

    Parameters
    ----------
    view : CostView
    prefer, initial_duals : as in `Problem`, optional
    certified, regrets : bool
        Whether duals and margins are wanted, and regrets.
    """
    batch, by_row, by_col = view.batch_shape, view.shape[:-1], (*view.batch_shape, view.cols)
    return Problem(
        view,
        np.empty(by_row, dtype=np.int64),
        np.empty((*batch, 8)),
        prefer,
        initial_duals,
        np.empty(by_row) if certified else None,
        np.empty(by_col) if certified else None,
        np.empty(by_row) if certified else None,
        np.empty(by_row) if regrets else None,
    )


def solve(
    op: str,
    problems: Sequence[Problem],
    *,
    maximize: bool,
    keep: bool = False,
    max_gap: float = 0.0,
) -> None:
    """Solve all problems in one call: the threads share them, unless they are few and large."""
    batches = []
    for p in problems:
        view = p.view
        initial_u, initial_v = p.initial_duals or (None, None)
        batches.append(
            _core.AssignmentBatch(
                view.address,
                view.float64,
                view.batch,
                view.batch_stride,
                view.rows,
                view.cols,
                view.row_stride,
                view.col_stride,
                p.prefer,
                initial_u,
                initial_v,
                p.cols,
                p.reports,
                p.u,
                p.v,
                p.margins,
                p.regrets,
            )
        )
    status, k, problem, row, col = _core.solve_assignments(
        batches, maximize, keep, max_gap, torch.get_num_threads()
    )
    if status:
        raise_failure(op, bool(problems[k].view.batch_shape), maximize, status, problem, row, col)


def raise_failure(
    op: str, batched: bool, maximize: bool, status: int, problem: int, row: int, col: int
) -> None:
    """Raise what the status of a problem without an answer says."""
    where = f" in problem {problem} of the batch" if batched else ""
    if status == _INVALID:
        wrong = "+inf" if maximize else "-inf"
        raise ValueError(
            f"[{op}] cost contains invalid numeric entries: expected neither NaN nor {wrong}, "
            f"found one first at row {row}, column {col}{where}"
        )
    if status == _INFEASIBLE:
        raise ValueError(
            f"[{op}] cost matrix is infeasible{where}: the infinite entries leave no complete "
            "assignment; give some forbidden pairs a finite cost"
        )
    raise KeyboardInterrupt


def like(view: CostView, array: NDArray[Any] | None) -> Any:
    """Return an array as what the cost matrix was, on its device."""
    if array is None or view.device is None:
        return array
    tensor = torch.from_numpy(array)
    return tensor if view.device.type == "cpu" else tensor.to(view.device)


def _to_numpy(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _check_shape(op: str, expected: tuple[int, ...], name: str, array: NDArray[Any]) -> None:
    if array.shape != expected:
        raise ValueError(f"[{op}] expected {name} of shape {expected}, got {array.shape}")


def checked_preference(op: str, shape: tuple[int, ...], prefer: Any) -> NDArray[np.int64]:
    array = _to_numpy(prefer)
    _check_shape(op, tuple(shape[:-1]), "prefer", array)
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{op}] expected prefer of an integer dtype, got {array.dtype}")
    if array.size and not (array.min() >= -1 and array.max() < shape[-1]):
        raise ValueError(f"[{op}] expected prefer within -1..{shape[-1] - 1}")
    return np.ascontiguousarray(array, dtype=np.int64)


def checked_duals(
    op: str, shape: Sequence[int], given: tuple[Any, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    (*batch, rows, cols) = shape
    return _dual(op, (*batch, rows), "u", given[0]), _dual(op, (*batch, cols), "v", given[1])


def _dual(op: str, shape: tuple[int, ...], name: str, values: Any) -> NDArray[np.float64]:
    array = _to_numpy(values)
    _check_shape(op, shape, f"initial dual {name}", array)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"[{op}] expected real initial duals, got dtype {array.dtype}")
    array = np.ascontiguousarray(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"[{op}] expected finite initial duals, got a NaN or infinity in {name}")
    return array
