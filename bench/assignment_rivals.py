"""Other solvers behind one face: prepare(similarity) -> call() -> columns, or (rows, columns).

Converting the input to what a solver likes best is in `prepare` and not timed. In columns alone,
-1 stands for a row without one.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lmc_fast import linear_sum_assignment, solve_assignment
from scipy import optimize

from bench.instances import Matrix

Call = Callable[[], Any]
Prepare = Callable[[Matrix], Call]

OURS = "lmc_fast"


def objective(matrix: Matrix, answer: Any) -> float:
    """The sum of the chosen entries, if as many are chosen as can be; else -inf."""
    if isinstance(answer, tuple):
        rows, cols = map(np.asarray, answer)
    else:
        cols = np.asarray(answer)
        rows = np.flatnonzero(cols >= 0)
        cols = cols[rows]
    pairs = min(matrix.shape)
    if not len(rows) == len(set(rows.tolist())) == len(set(cols.tolist())) == pairs:
        return -np.inf
    return float(matrix[rows, cols].sum(dtype=np.float64))


def shortfalls(matrix: Matrix, calls: dict[str, Call], optimum: float) -> dict[str, float]:
    """By how much the answers that are not optimal fall short of the optimum."""
    short = {solver: optimum - objective(matrix, call()) for solver, call in calls.items()}
    return {solver: by for solver, by in short.items() if abs(by) > 1e-6 * abs(optimum)}


def _ours(matrix: Matrix) -> Call:
    return lambda: linear_sum_assignment(matrix, maximize=True)


def _ours_certified(matrix: Matrix) -> Call:
    return lambda: solve_assignment(matrix, maximize=True).cols


def _scipy(matrix: Matrix) -> Call:
    cost = -matrix.astype(np.float64)
    return lambda: optimize.linear_sum_assignment(cost)


def _torch_linear_assignment(matrix: Matrix) -> Call:
    solver = importlib.import_module("torch_linear_assignment")
    cost = torch.from_numpy(-matrix)[None]
    return lambda: solver.batch_linear_assignment(cost)[0].numpy()


def _lapjv(matrix: Matrix) -> Call:
    solver = importlib.import_module("lapjv")
    cost = -matrix
    return lambda: solver.lapjv(cost)[0]


def _ortools(matrix: Matrix) -> Call:
    """Integer costs only: scaled to 2**31 steps, so its optimum is near the true one."""
    graph = importlib.import_module("ortools.graph.python.linear_sum_assignment")
    n = len(matrix)
    rows, cols = (x.ravel() for x in np.indices((n, n)))
    cost = np.rint(-matrix.astype(np.float64) * (2.0**31 / np.abs(matrix).max())).astype(np.int64)

    def call() -> Any:
        solver = graph.SimpleLinearSumAssignment()
        solver.add_arcs_with_cost(rows, cols, cost.ravel())
        solver.solve()
        return np.array([solver.right_mate(i) for i in range(n)])

    return call


def _pot(matrix: Matrix) -> Call:
    solver = importlib.import_module("ot")
    cost = -matrix.astype(np.float64)
    mass = np.ones(len(matrix))
    return lambda: solver.emd(mass, mass, cost, numItermax=10_000_000).argmax(axis=1)


def _module_lap(folder: str | None) -> Any:
    """The module `lap` of one of the two packages that have that name."""
    kept = {k: sys.modules.pop(k) for k in list(sys.modules) if k.partition(".")[0] == "lap"}
    if folder:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module("lap")
    finally:
        if folder:
            sys.path.remove(folder)
        for name in [k for k in sys.modules if k.partition(".")[0] == "lap"]:
            del sys.modules[name]
        sys.modules.update(kept)


def _lap_columns(solve: Any) -> Prepare:
    """Of lapjv, which returns (cost, columns of rows, rows of columns)."""

    def prepare(matrix: Matrix) -> Call:
        cost = np.ascontiguousarray(-matrix, dtype=np.float64)
        return lambda: np.asarray(solve(cost, extend_cost=True)[1])

    return prepare


def _lap_pairs(solve: Any, dtype: type) -> Prepare:
    """Of what returns (cost, rows, columns)."""

    def prepare(matrix: Matrix) -> Call:
        cost = np.ascontiguousarray(-matrix, dtype=dtype)
        return lambda: solve(cost, extend_cost=True)[1:]

    return prepare


def rivals(lap: str | None, lapx: str | None) -> tuple[dict[str, Prepare], list[str]]:
    """Every solver that can be imported, and the names of those that cannot."""
    found: dict[str, Prepare] = {OURS: _ours, "lmc_fast certified": _ours_certified}
    found["scipy"] = _scipy
    missing = []
    for name, module, prepare in (
        ("torch-linear-assignment", "torch_linear_assignment", _torch_linear_assignment),
        ("lapjv", "lapjv", _lapjv),
        ("ortools", "ortools.graph.python.linear_sum_assignment", _ortools),
        ("POT", "ot", _pot),
    ):
        if importlib.util.find_spec(module.partition(".")[0]):
            found[name] = prepare
        else:
            missing.append(name)
    try:
        found["lap"] = _lap_columns(_module_lap(lap).lapjv)
    except ImportError:
        missing.append("lap")
    try:
        module_lapx = _module_lap(lapx)
        found["lapx lapjv"] = _lap_columns(module_lapx.lapjv)
        found["lapx lapjvx"] = _lap_pairs(module_lapx.lapjvx, np.float64)
        for name in ("lapjvs", "lapjvr", "lapjvh"):
            found[f"lapx {name}"] = _lap_pairs(getattr(module_lapx, name), np.float32)
    except (ImportError, AttributeError):
        missing.append("lapx")
    return found, missing


LARGEST = {
    "POT": 256,
    "ortools": 256,
    "torch-linear-assignment": 1024,
    "lapjv": 1024,
    "lap": 1024,
    "lapx lapjv": 2048,
    "lapx lapjvx": 2048,
}
"""Widths above which a rival would take most of the run's time."""

SQUARE_ONLY = ("lapjv", "ortools", "POT")
PADDING = ("lap", "lapx lapjv", "lapx lapjvx", "lapx lapjvs")
"""Rivals that make a rectangle a square: its longer side counts."""
