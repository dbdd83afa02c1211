"""Where an assignment is solved: the rule that places matrices, and what the GPU takes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from lmc_fast._cuda.assignment import DeviceAssignment, solve
from lmc_fast._cuda.launcher import Launcher, launcher_or_none


@dataclass(frozen=True)
class Placement:
    """Which problems the GPU takes: at least `problems` in a call, `size` rows and columns at most.

    The matrices have to lie on the GPU. One block solves one problem, so a single problem uses one
    multiprocessor and the host's list method is faster; the GPU gains where a launch has many.
    Activation matching sends all groups of a network in one call, weight matching those that do not
    wait for each other, which are seldom more than four. Duals to
    start from and a gap to stop at make no difference to the rule: the kernel takes the first, and
    always goes on to the optimum.
    The numbers are estimates from counted steps, to be replaced by those of ``bench gpu``.
    """

    problems: int
    size: int


PLACEMENT = (Placement(problems=8, size=128), Placement(problems=32, size=512))
"""Anything that fits none of these is solved by the host."""


@dataclass(frozen=True)
class Placed:
    """What one matrix, or batch of them, came to on its device.

    Attributes
    ----------
    matrices : Tensor, (batch, rows, cols)
    solution : DeviceAssignment
        With -1 for a row without partner.
    failure : status, problem, row and column
        Of the first that failed; (0, -1, -1, -1) if none did.
    """

    matrices: Tensor
    solution: DeviceAssignment
    failure: tuple[int, int, int, int]


def placed_here(shapes: Sequence[Sequence[int]]) -> list[bool]:
    """Which of a call's matrices, (..., rows, cols), the placement rule gives to their GPU."""
    result = [False] * len(shapes)
    for place in PLACEMENT:
        fits = [max(shape[-2:]) <= place.size for shape in shapes]
        problems = sum(math.prod(s[:-2]) for s, fit in zip(shapes, fits, strict=True) if fit)
        if problems >= place.problems:
            result = [known or fit for known, fit in zip(result, fits, strict=True)]
    return result


def solve_placed(
    costs: Sequence[object],
    *,
    maximize: bool,
    prefer: Sequence[Tensor] | None = None,
    initial_v: Sequence[Tensor] | None = None,
) -> list[Placed | None]:
    """Solve together what the placement rule leaves on its GPU; None for any other.

    Parameters
    ----------
    costs : sequence of array_like, (..., rows, cols) each
    maximize : bool
    prefer : sequence of int64 Tensor, (..., rows) each, optional
        Among equal optima take the one that agrees with this in most rows, of those the
        lexicographically smallest.
    initial_v : sequence of float64 Tensor, (..., cols) each, optional
        Finite duals of the columns to start from.

    Notes
    -----
    One launch for all matrices of a device, two with `prefer`; one wait, for the status words.
    """
    found: list[Placed | None] = [None] * len(costs)
    members: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for k, cost in enumerate(costs):
        if isinstance(cost, Tensor) and _is_real(cost) and launcher_of(cost) is not None:
            members.setdefault(cost.device, []).append((k, cost))
    for entries in members.values():
        here = placed_here([cost.shape for _, cost in entries])
        chosen = [entry for entry, stays in zip(entries, here, strict=True) if stays]
        launcher = launcher_of(entries[0][1])
        if not chosen or launcher is None:
            continue
        wanted, hints = (
            None if each is None else [each[k] for k, _ in chosen] for each in (prefer, initial_v)
        )
        solved = _solve_all([cost for _, cost in chosen], wanted, hints, maximize, launcher)
        for (k, _), result in zip(chosen, solved, strict=True):
            found[k] = result
    return found


def belongs_here(cost: object) -> bool:
    """Whether the placement rule leaves a matrix, or a batch of them, on its GPU."""
    if not isinstance(cost, Tensor) or not _is_real(cost) or launcher_of(cost) is None:
        return False
    return placed_here([cost.shape])[0]


def _is_real(cost: Tensor) -> bool:
    plain = type(cost) in (Tensor, torch.nn.Parameter) and cost.layout is torch.strided
    return plain and cost.is_floating_point() and cost.ndim >= 2 and cost.numel() > 0


def _solve_all(
    costs: Sequence[Tensor],
    prefer: Sequence[Tensor] | None,
    initial_v: Sequence[Tensor] | None,
    maximize: bool,
    launcher: Launcher,
) -> list[Placed | None]:
    matrices = []
    for cost in costs:
        flat = cost.detach().resolve_neg().reshape(-1, *cost.shape[-2:])
        matrices.append(flat if flat.dtype in (torch.float32, torch.float64) else flat.float())
    squared = [_squared(each, always=prefer is not None) for each in matrices]
    hints = None
    if initial_v is not None:
        # The columns that were added start from 0.
        hints = [
            functional.pad(hint.reshape(len(each), -1), (0, each.shape[2] - hint.shape[-1]))
            for hint, each in zip(initial_v, squared, strict=True)
        ]
    solutions = solve(squared, maximize=maximize, launcher=launcher, initial_v=hints)
    status = [solution.status for solution in solutions]
    if prefer is not None:
        tight = [
            _tight_pairs(cost, solution, wanted.reshape(len(cost), -1), maximize=maximize)
            for cost, solution, wanted in zip(squared, solutions, prefer, strict=True)
        ]
        kept = solve(tight, maximize=False, launcher=launcher)
        solutions = [replace(s, cols=k.cols) for s, k in zip(solutions, kept, strict=True)]
        # No choice among tight pairs: the duals lie outside what float64 holds exactly.
        lost = [s[:, :1].eq(0) & k.status[:, :1].ne(0) for s, k in zip(status, kept, strict=True)]
        status = [torch.cat((s, m), 1) for s, m in zip(status, lost, strict=True)]
    counts = [len(each) for each in status]
    words = torch.split(torch.cat(status).cpu(), counts)
    result: list[Placed | None] = []
    for matrix, wide, solution, word in zip(matrices, squared, solutions, words, strict=True):
        if word[:, 2:].any():
            result.append(None)
            continue
        failure = _first_failure(word, wide.shape[2])
        result.append(Placed(matrix, _cropped(solution, *matrix.shape[1:]), failure))
    return result


def _squared(cost: Tensor, *, always: bool) -> Tensor:
    """Add columns of zeros to a tall matrix, and rows of zeros to a wide one where asked to.

    They change neither the optima nor their order: a row without partner takes an added column.
    """
    rows, cols = cost.shape[1:]
    missing_rows = max(0, cols - rows) if always else 0
    if rows <= cols and not missing_rows:
        return cost
    return functional.pad(cost, (0, max(0, rows - cols), 0, missing_rows))


def _cropped(solution: DeviceAssignment, rows: int, cols: int) -> DeviceAssignment:
    """Take away what `_squared` added; the duals of what has no partner become 0."""
    chosen, u, v = solution.cols, solution.u, solution.v
    if u.shape[1] > rows:
        u, v = u - u[:, -1:], v + u[:, -1:]
    elif v.shape[1] > cols:
        u, v = u + v[:, -1:], v - v[:, -1:]
    chosen = chosen[:, :rows]
    return replace(solution, cols=chosen.where(chosen < cols, -1), u=u[:, :rows], v=v[:, :cols])


def _tight_pairs(
    cost: Tensor, solution: DeviceAssignment, prefer: Tensor, *, maximize: bool
) -> Tensor:
    """The optimal pairs as a problem of its own: 0 where preferred, 1 elsewhere, else forbidden."""
    grid = solution.reports[:, 1, None, None]
    slack = (cost.double() / grid).round() - solution.u[:, :, None] / grid
    tight = slack == solution.v[:, None, :] / grid
    result = torch.where(tight, 1.0, torch.inf).float()
    rows = prefer.shape[1]
    agrees = prefer[:, :, None] == torch.arange(cost.shape[2], device=cost.device)
    result[:, :rows] = result[:, :rows].masked_fill(tight[:, :rows] & agrees, 0.0)
    return result


def launcher_of(cost: Tensor) -> Launcher | None:
    """Who runs the kernel on a tensor's device, if anything does."""
    return launcher_or_none(cost.device, "assignment") if cost.is_cuda else None


def _first_failure(status: Tensor, cols: int) -> tuple[int, int, int, int]:
    """The first of the status words that is not 0."""
    problem = int((status[:, 0] != 0).int().argmax())
    code, where = status[problem, :2].tolist()
    return (code, problem, where // cols, where % cols) if code else (0, -1, -1, -1)
