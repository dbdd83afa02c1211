"""Differential property tests of the assignment solver: ``python -m bench fuzz --count 20000``.

Random matrices of all kinds and shapes; the objective is compared with SciPy's, the duals are
checked outside the solver, and other paths (orientation, warm start, double precision) must give
the same columns, and so must `linear_sum_assignment`. Stops at the first failure and says how to
repeat it. --hours runs on.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from lmc_fast import Assignment, linear_sum_assignment, solve_assignment
from numpy.typing import NDArray
from scipy import optimize

from bench import record
from bench.families import FAMILIES, random_matrix

Matrix = NDArray[Any]


def is_certified(cost: Matrix, result: Assignment, maximize: bool) -> bool:
    """Whether the duals prove the assignment optimal for the matrix on its grid."""
    cost = cost.astype(np.float64)
    sign = -1.0 if maximize else 1.0
    rows = np.flatnonzero(result.cols >= 0)
    cols = result.cols[rows]
    slack = sign * (cost - result.u[:, None] - result.v[None, :])
    # Outside the grid the three-term sum is rounded.
    tolerance = 2 * result.moved_by + 1e-15 * np.abs(cost[np.isfinite(cost)]).max(initial=0.0)
    free_rows = np.setdiff1d(np.arange(cost.shape[0]), rows)
    free_cols = np.setdiff1d(np.arange(cost.shape[1]), cols)
    return bool(
        result.gap == 0.0
        and len(rows) == len(set(cols.tolist())) == min(cost.shape)
        and slack.min() >= -tolerance
        and np.abs(slack[rows, cols]).max() <= tolerance
        and not result.u[free_rows].any()
        and not result.v[free_cols].any()
    )


def draw(rng: np.random.Generator, largest: int) -> tuple[str, Matrix, bool]:
    """One matrix, its family and the direction to solve it in."""
    family = FAMILIES[rng.integers(len(FAMILIES))]
    # Lists begin, and copies are looked for, above 320 * 320 entries.
    low = int(rng.choice([1, min(200, largest), min(321, largest)], p=[0.7, 0.2, 0.1]))
    high = 48 if low == 1 else largest
    rows, cols = rng.integers(low, high + 1, 2)
    cost: Matrix = random_matrix(rng, family, rows, cols if rng.random() < 0.5 else rows)
    if rng.random() < 0.3:
        cost = np.asfortranarray(cost)
    if rng.random() < 0.2:
        cost = cost.astype(np.float64)
    if rng.random() < 0.1:
        cost = np.ldexp(cost, int(rng.integers(-60, 60)))
    maximize = bool(rng.random() < 0.5)
    return family, -cost if maximize else cost, maximize


def is_feasible(solve: Callable[..., Any], cost: Matrix, maximize: bool) -> bool:
    try:
        solve(cost, maximize=maximize)
    except ValueError:
        return False
    return True


def check(rng: np.random.Generator, cost: Matrix, maximize: bool) -> str | None:
    """Return what is wrong, None if nothing is."""
    try:
        rows, cols = optimize.linear_sum_assignment(cost, maximize=maximize)
    except ValueError:
        solves = (solve_assignment, linear_sum_assignment)
        feasible = [is_feasible(solve, cost, maximize) for solve in solves]
        return "SciPy finds it infeasible" if any(feasible) else None
    result = solve_assignment(cost, maximize=maximize, regrets=True)
    expected = math.fsum(cost[rows, cols].astype(np.float64))
    scale = float(np.abs(cost[rows, cols]).max(initial=0.0)) * len(rows)
    if abs(result.objective - expected) > 1e-12 * scale:
        return f"objective {result.objective}, SciPy's is {expected}"
    if not is_certified(cost, result, maximize):
        return "the certificate does not hold"
    other = np.ascontiguousarray(cost.T).T if cost.flags.c_contiguous else cost.copy(order="C")
    duals = (rng.standard_normal(cost.shape[0]), rng.standard_normal(cost.shape[1]))
    again = {
        "orientation": solve_assignment(other, maximize=maximize),
        "negation": solve_assignment(-cost, maximize=not maximize),
        "own duals": solve_assignment(cost, maximize=maximize, initial_duals=(result.u, result.v)),
        "random duals": solve_assignment(cost, maximize=maximize, initial_duals=duals),
        "keep": solve_assignment(cost, maximize=maximize, ties="keep", prefer=result.cols),
    }
    for path, answer in again.items():
        if answer.gap != 0.0 or not np.array_equal(answer.cols, result.cols):
            return f"another answer by {path}"
    placed = np.flatnonzero(result.cols >= 0)
    for matrix in (cost, other):
        pairs = linear_sum_assignment(matrix, maximize)
        if not np.array_equal(pairs, (placed, result.cols[placed])):
            return "another answer by linear_sum_assignment"
    return wrong_regret(rng, cost, maximize, result)


def wrong_regret(
    rng: np.random.Generator, cost: Matrix, maximize: bool, result: Assignment
) -> str | None:
    """Solve once more without the pair of a random row."""
    row = rng.choice(np.flatnonzero(result.cols >= 0))
    without = cost.copy()
    without[row, result.cols[row]] = -math.inf if maximize else math.inf
    try:
        loss = abs(result.objective - solve_assignment(without, maximize=maximize).objective)
    except ValueError:
        loss = math.inf
    chosen = cost[result.cols >= 0, result.cols[result.cols >= 0]]
    tolerance = (
        1e-12 * float(np.abs(chosen).max()) * len(chosen) + 4 * len(chosen) * result.moved_by
    )
    if loss != result.regrets[row] and not abs(loss - result.regrets[row]) <= tolerance:
        return f"regret {result.regrets[row]} of row {row}, without its column the loss is {loss}"
    return None


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--hours", type=float, help="run for so long instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--largest", type=int, default=360, help="largest number of rows, columns")
    args = parser.parse_args(argv)
    until = time.monotonic() + 3600 * args.hours if args.hours else math.inf
    counts: Counter[str] = Counter()
    trial = 0
    while time.monotonic() < until if args.hours else trial < args.count:
        rng = np.random.default_rng((args.seed, trial))
        family, cost, maximize = draw(rng, args.largest)
        wrong = check(rng, cost, maximize)
        if wrong:
            print(f"seed ({args.seed}, {trial}), {family} {cost.shape}, {maximize=}: {wrong}")
            return 1
        counts[family] += 1
        trial += 1
        if trial % 1000 == 0:
            print(f"{trial} matrices, all certified and equal to SciPy", flush=True)
    record.store("fuzz", {"matrices": trial, "families": dict(counts), "failures": 0})
    return 0
