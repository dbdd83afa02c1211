"""Linear assignment: one-to-one maps of rows to columns with least cost or greatest similarity."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

import lmc_fast._core as _core
from lmc_fast._cost import CostView, view_cost
from lmc_fast._cuda import assignment as device
from lmc_fast._cuda import placement
from lmc_fast._problem import (
    Problem,
    checked_duals,
    checked_preference,
    like,
    pose,
    raise_failure,
    solve,
)

__all__ = ["Assignment", "linear_sum_assignment", "solve_assignment"]

_NO_BATCH: tuple[int, ...] = ()
_INT64 = np.dtype(np.int64)
_ONE_THREAD = 1 << 16
"""Matrices of at most so many entries are solved by one thread whatever there is."""


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """An optimal assignment and the proof that it is one.

    Arrays are numpy or torch, like the cost matrix; a batch of problems has its leading
    dimensions in front of every shape below (the scalars become arrays).

    Attributes
    ----------
    cols : int64 (rows,)
        The column of each row, -1 for a row without partner.
    objective : float
        Sum of the chosen entries of the matrix as given.
    u, v : float64 (rows,), (cols,)
        Duals: ``u[i] + v[j] <= cost[i, j]`` (``>=`` when maximising) with equality on the chosen
        pairs; 0 for a row or column without partner.
    gap : float
        Certified distance of the chosen assignment from the optimum. It is computed without
        rounding, so 0.0 is a proof, for the matrix on the grid (see `moved`).
    margins : float64 (rows,)
        Under the duals, by how much the second-best choice of each row is worse than the best;
        infinite where there is no second choice. Where every row has a partner this bounds its
        regret from below, at no cost; duals are not unique, and those of a shortest path make many
        margins 0, so a zero alone tells nothing.
    regrets : float64 (rows,) or None
        Where asked for: by how much the objective gets worse if the row may not have its column
        and all others are chosen anew (without partner: if it must have one); infinite where there
        is no other assignment. 0 says that another optimum places the row elsewhere; regrets that
        are small beside the objective's gain over random pairs, that the matrix says little
        about the row.
    grid : float
        Entries were rounded to multiples of this number before solving, so that every sum and
        difference of the solver is exact.
    moved, moved_by : int, float
        How many entries that rounding changed, and the largest change. With ``moved == 0`` the
        certificate holds for the matrix itself, else up to ``2 * rows * moved_by``.
    rows_read, list_visits, augmentations : int
        Work done, regrets included: scans of whole rows (or columns), scans of candidate lists,
        shortest paths searched for the optimum.
    """

    cols: Any
    objective: Any
    u: Any
    v: Any
    gap: Any
    margins: Any
    regrets: Any
    grid: Any
    moved: Any
    moved_by: Any
    rows_read: Any
    list_visits: Any
    augmentations: Any


def linear_sum_assignment(cost: Any, maximize: bool = False) -> tuple[Any, Any]:
    """Solve the linear assignment problem; SciPy's signature and contract.

    Parameters
    ----------
    cost : array_like or torch.Tensor (..., rows, cols)
        Real numbers of any dtype; float32 and float64 are read in place. An infinite entry forbids
        its pair (+inf when minimising, -inf when maximising). Leading dimensions are a batch.
    maximize : bool
        Maximise the sum of the chosen entries instead of minimising it.

    Returns
    -------
    row_ind, col_ind : int64 (..., min(rows, cols))
        Chosen pairs in ascending order of rows: numpy arrays, or for a tensor int64 tensors on its
        device. Of several optima it is the one with the lexicographically smallest ``col_ind``.

    Raises
    ------
    ValueError
        For NaN or the wrong infinity (naming the first), and where no finite assignment exists.
    TypeError
        For entries that are not real numbers.

    Notes
    -----
    Exact, by the methods described in `solve_assignment`, where time and memory stand too. A
    batch of many small matrices on a CUDA device is solved there, one block of threads to each: at
    least 8 of at most 128 rows and columns, or 32 of at most 512
    (``lmc_fast._cuda.placement.PLACEMENT``). All else is solved by
    the CPU. Both give the same answer.

    Examples
    --------
    >>> from lmc_fast import linear_sum_assignment
    >>> linear_sum_assignment([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
    (array([0, 1, 2]), array([1, 0, 2]))
    """
    plain = cost if type(cost) is np.ndarray else _plain_tensor(cost)
    if plain is not None and plain.ndim == 2:
        rows, width = plain.shape
        threads = torch.get_num_threads() if rows * width > _ONE_THREAD else 1
        pairs = np.empty((2, rows), _INT64)
        if _core.solve_matrix(plain, bool(maximize), threads, pairs):
            found = (pairs[0], pairs[1]) if rows <= width else _pairs(pairs[1], rows, width)
            if plain is cost:
                return found
            return torch.from_numpy(found[0]), torch.from_numpy(found[1])
    (placed,) = placement.solve_placed([cost], maximize=bool(maximize))
    if placed is not None:
        if placed.failure[0]:
            raise_failure("linear_sum_assignment", cost.ndim > 2, bool(maximize), *placed.failure)
        chosen = placed.solution.cols.reshape(cost.shape[:-1])
        width = min(cost.shape[-2:])
        paired = chosen.lt(0).byte().argsort(dim=-1, stable=True)[..., :width]
        return paired, chosen.gather(-1, paired)
    view = view_cost("linear_sum_assignment", cost)
    problem = pose(view, certified=False)
    solve("linear_sum_assignment", [problem], maximize=bool(maximize))
    rows, cols = _pairs(problem.cols, view.rows, view.cols)
    return like(view, rows), like(view, cols)


def solve_assignment(
    cost: Any,
    *,
    maximize: bool = False,
    initial_duals: tuple[Any, Any] | None = None,
    max_gap: float = 0.0,
    ties: Literal["first", "keep"] = "first",
    prefer: Any = None,
    regrets: bool = False,
) -> Assignment:
    """Solve the linear assignment problem and return the solution with its certificate.

    Parameters
    ----------
    cost : array_like or torch.Tensor (..., rows, cols)
        As for `linear_sum_assignment`.
    maximize : bool
        Maximise instead of minimise.
    initial_duals : (u, v), optional
        Duals of a similar problem, (..., rows) and (..., cols). A hint: it saves work and never
        changes the optimum.
    max_gap : float
        Stop as soon as the certified gap is at most this; 0 asks for the optimum.
    ties : "first" or "keep"
        Which of several optima: the lexicographically smallest ``cols`` (no partner counts as the
        largest), or the one that agrees with `prefer` in most rows.
    prefer : int array (..., rows), optional
        For ``ties="keep"``: preferred column of each row, -1 for none.
    regrets : bool
        Whether to find every row's exact `Assignment.regrets`, how well it is determined.

    Returns
    -------
    Assignment
        The same ``cols`` and ``gap`` wherever it is solved, and the same bits for every number of
        threads and every instruction set. Matrices on a CUDA device are placed as in
        `linear_sum_assignment`; the device heeds the `initial_duals` of square problems, and solves
        to the optimum whatever the `max_gap`. With `regrets` the CPU solves them.

    Raises
    ------
    ValueError, TypeError
        As for `linear_sum_assignment`, and for options that do not fit the matrix.

    Notes
    -----
    An auction with epsilon scaling (Bertsekas, Annals of Operations Research 14, 1988, 105-123)
    and shortest augmenting paths (Jonker and Volgenant, Computing 38, 1987, 325-340), then one
    reading of the matrix that proves the result. What the solver does is decided by what it finds
    in the matrix:

    - up to 320 * 320 entries it scans whole rows; above that it keeps a list of the best few
      columns of every row, with a bound on all others, and reads a row again only when its bound
      could decide; either way the matrix is read in place;
    - constant rows, constant columns and the dummies of a rectangular problem are bidders that act
      as one;
    - a sample of 64 entries tells whether the matrix is nearly ``r[i] + c[j] + x[i] * y[j]``
      (sorted products); prices then start from the sorted matching;
    - scaling is left out where plain bidding leaves less than an eighth of the rows free (a
      sixteenth with lists).

    The worst case is O(n**3); on similarities of networks the matrix is read about three to
    thirteen times. Beside the matrix at most a tenth of its size is used from n = 1024 on, in
    either order of its entries and with regrets too; it is copied only where its lines in memory
    are shorter than 1024 and more than their length, or the largest entry is below 1e-27 or above
    1e36. Ctrl-C interrupts a solve within 0.2 s.

    A regret is the length of the shortest cycle of reduced costs through the row's pair (Murty,
    Operations Research 16, 1968, 682-687), found by a search from both of its ends on lists of the
    5 to 24 least reduced costs of every row and column; rows are read again where a list is too
    short. Rows that some optimum places elsewhere, dead units above all, need no search, and the
    three largest sets of pairs that optima mix are one place each to the other searches. All
    regrets together take three readings of the matrix and about O(n**1.5) steps on similarities,
    O(n**3) at worst.

    Examples
    --------
    A regret is little or much beside what the optimum gains per row over random pairs. Here row 0
    is where it belongs, but of the other two the matrix does not tell which is which; `match` calls
    units with at most a tenth of that gain undetermined.

    >>> import numpy as np
    >>> from lmc_fast import solve_assignment
    >>> similarity = np.array([[0.9, 0.1, 0.2], [0.1, 0.5, 0.49], [0.2, 0.49, 0.5]])
    >>> result = solve_assignment(similarity, maximize=True, regrets=True)
    >>> result.cols, result.regrets.round(2)
    (array([0, 1, 2]), array([1.  , 0.02, 0.02]))
    >>> gain = result.objective / 3 - similarity.mean()
    >>> result.regrets <= 0.1 * gain
    array([False,  True,  True])
    """
    op = "solve_assignment"
    if regrets and max_gap:
        raise ValueError(f"[{op}] expected max_gap=0 with regrets=True, which are of an optimum")
    if ties not in ("first", "keep"):
        raise ValueError(f"[{op}] expected ties='first' or 'keep', got {ties!r}")
    if (prefer is not None) != (ties == "keep"):
        raise ValueError(f"[{op}] prefer= and ties='keep' go together; give both or neither")
    if not 0 <= max_gap < math.inf:
        raise ValueError(f"[{op}] expected a finite max_gap >= 0, got {max_gap}")
    if initial_duals is not None and (
        not isinstance(initial_duals, Sequence) or len(initial_duals) != 2
    ):
        raise TypeError(f"[{op}] expected initial_duals=(u, v)")
    if not regrets and placement.belongs_here(cost):
        preferred = hint = None
        if prefer is not None:
            preferred = [
                torch.from_numpy(checked_preference(op, cost.shape, prefer)).to(cost.device)
            ]
        if initial_duals is not None:
            _, start = checked_duals(op, cost.shape, initial_duals)
            hint = [torch.from_numpy(start).to(cost.device)]
        (placed,) = placement.solve_placed(
            [cost], maximize=bool(maximize), prefer=preferred, initial_v=hint
        )
        if placed is not None:
            return _from_device(op, cost.shape, placed, maximize=bool(maximize))
    view = view_cost(op, cost)
    problem = pose(
        view,
        prefer=None if prefer is None else checked_preference(op, view.shape, prefer),
        initial_duals=None
        if initial_duals is None
        else checked_duals(op, view.shape, initial_duals),
        regrets=regrets,
    )
    solve(op, [problem], maximize=bool(maximize), keep=prefer is not None, max_gap=float(max_gap))
    return _from_host(problem)


def solve_together(
    costs: Sequence[torch.Tensor],
    *,
    maximize: bool,
    prefer: Sequence[torch.Tensor],
    initial_duals: Sequence[tuple[torch.Tensor, torch.Tensor] | None] | None = None,
) -> list[Assignment]:
    """Solve problems of any sizes, each as `solve_assignment` does with ``ties="keep"``.

    Parameters
    ----------
    costs : sequence of Tensor, (..., rows, cols) each
    maximize : bool
    prefer : sequence of int64 Tensor, (..., rows) each
        Columns from 0 on; like the duals not checked.
    initial_duals : sequence of (u, v) or None, optional
        Finite duals to start from, of those problems that have some.

    Notes
    -----
    Those that lie on a CUDA device and that the placement rule leaves there are solved in one call,
    and the others in one that shares them among the threads.
    """
    op = "solve_assignment"
    duals = initial_duals or [None] * len(costs)
    placed = _placed(costs, maximize, prefer, duals)
    hosted = {
        k: pose(
            view_cost(op, costs[k]),
            prefer=np.ascontiguousarray(prefer[k].cpu().numpy(), _INT64),
            initial_duals=None
            if known is None
            else (known[0].cpu().numpy(), known[1].cpu().numpy()),
        )
        for k, (here, known) in enumerate(zip(placed, duals, strict=True))
        if here is None
    }
    solve(op, list(hosted.values()), maximize=maximize, keep=True)
    return [
        _from_host(hosted[k])
        if here is None
        else _from_device(op, costs[k].shape, here, maximize=maximize)
        for k, here in enumerate(placed)
    ]


def _placed(
    costs: Sequence[torch.Tensor],
    maximize: bool,
    prefer: Sequence[torch.Tensor],
    duals: Sequence[tuple[torch.Tensor, torch.Tensor] | None],
) -> Sequence[placement.Placed | None]:
    """Solve what belongs on a device there; None for all else."""
    if all(placement.launcher_of(cost) is None for cost in costs):
        return [None] * len(costs)
    hints = None
    if any(known is not None for known in duals):
        # A start from 0 is as good as any.
        hints = [
            cost.new_zeros((*cost.shape[:-2], cost.shape[-1]), dtype=torch.float64)
            if known is None
            else known[1].to(cost.device)
            for known, cost in zip(duals, costs, strict=True)
        ]
    wanted = [each.to(cost.device) for each, cost in zip(prefer, costs, strict=True)]
    return placement.solve_placed(costs, maximize=maximize, prefer=wanted, initial_v=hints)


def _plain_tensor(cost: Any) -> NDArray[Any] | None:
    """Return a tensor that is a plain array in the processor's memory as such an array."""
    if (
        type(cost) is torch.Tensor
        and cost.dtype in (torch.float32, torch.float64)
        and cost.is_cpu
        and cost.layout is torch.strided
        and not (cost.requires_grad or cost.is_neg())
        and not torch._C._functorch.is_functorch_wrapped_tensor(cost)
    ):
        return cost.numpy()
    return None


def _pairs(
    cols: NDArray[np.int64], rows: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column indices of the chosen pairs."""
    if rows <= width:
        ascending = np.arange(rows)
        return ascending if cols.ndim == 1 else np.broadcast_to(ascending, cols.shape).copy(), cols
    chosen = np.nonzero(cols >= 0)[-1].reshape(*cols.shape[:-1], width)
    return chosen, np.take_along_axis(cols, chosen, axis=-1)


def _from_host(problem: Problem) -> Assignment:
    view = problem.view
    objective, gap, grid, moved, moved_by, rows_read, visits, paths = _scalars(
        view, problem.reports
    )
    return Assignment(
        cols=like(view, problem.cols),
        objective=objective,
        u=like(view, problem.u),
        v=like(view, problem.v),
        gap=gap,
        margins=like(view, problem.margins),
        regrets=like(view, problem.regrets),
        grid=grid,
        moved=moved,
        moved_by=moved_by,
        rows_read=rows_read,
        list_visits=visits,
        augmentations=paths,
    )


def _from_device(
    op: str, shape: torch.Size, placed: placement.Placed, *, maximize: bool
) -> Assignment:
    if placed.failure[0]:
        raise_failure(op, len(shape) > 2, maximize, *placed.failure)
    batch, solution = shape[:-2], placed.solution
    objective = device.objective(placed.matrices, solution.cols).reshape(batch)
    gap, grid, moved, moved_by, paths, scanned = solution.reports.T.reshape(-1, *batch)
    scalars = {
        "objective": objective,
        "gap": gap,
        "grid": grid,
        "moved": moved.long(),
        "moved_by": moved_by,
        "rows_read": scanned.long(),
        "list_visits": torch.zeros_like(moved, dtype=torch.int64),
        "augmentations": paths.long(),
    }
    margins = device.margins(placed.matrices, solution, maximize=maximize)
    return Assignment(
        cols=solution.cols.reshape(*batch, -1),
        u=solution.u.reshape(*batch, -1),
        v=solution.v.reshape(*batch, -1),
        margins=margins.reshape(*batch, -1),
        regrets=None,
        **(scalars if batch else {name: value.item() for name, value in scalars.items()}),
    )


def _scalars(view: CostView, reports: NDArray[np.float64]) -> list[Any]:
    counts = (3, 5, 6, 7)
    if view.batch_shape == _NO_BATCH:
        return [int(x) if k in counts else x for k, x in enumerate(reports.tolist())]
    columns = np.moveaxis(reports, -1, 0)
    return [
        like(view, np.ascontiguousarray(column, dtype=np.int64 if k in counts else np.float64))
        for k, column in enumerate(columns)
    ]
