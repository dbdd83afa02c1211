"""Rectangles and duplicates against other solvers: ``python -m bench assignment_shapes``.

Rectangles are cut from activation correlations and raw grams of MLPs trained on MNIST; duplicates
are random matrices whose rows or columns fall into n / 8 classes of 8 identical ones. One thread,
CPU time, alternating rounds; the peers are those of the assignment benchmark that take rectangles.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch
from lmc_fast import solve_assignment

from bench import record
from bench.assignment import ratios, seconds
from bench.assignment_rivals import LARGEST, OURS, PADDING, SQUARE_ONLY, rivals, shortfalls
from bench.instances import Matrix, instance

SHAPES = (
    (512, 2048),
    (2048, 512),
    (1024, 1100),
    (1100, 1024),
    (2048, 4096),
    (4096, 2048),
)
ROUNDS = 3
FAMILIES = ("act1", "raw1", "duplicate")


def rectangle(name: str, rows: int, cols: int) -> Matrix:
    """The upper left corner of the real instance of that name."""
    width = 1 << (max(rows, cols) - 1).bit_length()
    return np.ascontiguousarray(instance(name, width)[:rows, :cols])


def duplicates(kind: str, n: int) -> Matrix:
    """Uniform numbers in which rows, columns or both are repeated 8 times, in random order."""
    rng = np.random.default_rng(n)
    matrix = rng.random((n, n), dtype=np.float32)
    if kind in ("rows", "both"):
        matrix = matrix[rng.permutation(n) % (n // 8)]
    if kind in ("columns", "both"):
        matrix = matrix[:, rng.permutation(n) % (n // 8)]
    return np.ascontiguousarray(matrix)


def is_suited(solver: str, matrix: Matrix) -> bool:
    """Whether a solver takes a matrix of that shape and would not take most of the run's time."""
    rows, cols = matrix.shape
    if rows != cols and solver in SQUARE_ONLY:
        return False
    size = max(rows, cols) if solver in PADDING else int((rows * cols) ** 0.5)
    return size <= LARGEST.get(solver, 2048 if solver in PADDING else size)


def measure(name: str, matrix: Matrix, solvers: dict[str, Any]) -> dict[str, Any]:
    """Alternating rounds of all solvers on one matrix."""
    certificate = solve_assignment(matrix, maximize=True)
    if certificate.gap:
        raise RuntimeError(f"{name}: not the certified optimum")
    calls = {
        solver: prepare(matrix)
        for solver, prepare in solvers.items()
        if is_suited(solver, matrix) and solver != f"{OURS} certified"
    }
    wrong = shortfalls(matrix, calls, certificate.objective)
    if OURS in wrong:
        raise RuntimeError(f"{name}: not the certified optimum")
    times: dict[str, list[float]] = {solver: [] for solver in calls}
    for _ in range(ROUNDS):
        for solver, call in calls.items():
            times[solver].append(seconds(call))
    return {
        "instance": name,
        "shape": list(matrix.shape),
        "seconds": times,
        "not_optimal_by": wrong,
        "rows_read": certificate.rows_read,
        "list_visits": certificate.list_visits,
        "augmentations": certificate.augmentations,
    }


def table(results: dict[str, Any]) -> str:
    """One row a matrix: medians of ours, SciPy and the best peer, and how much slower they are."""
    lines = [
        "| matrix | shape | ours, ms | SciPy, ms | SciPy / ours "
        "| best peer, ms | best peer / ours | best peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        slower = ratios(run)
        scipy = slower.pop("scipy")
        peer = min((s for s in slower if s not in run["not_optimal_by"]), key=slower.__getitem__)
        ours, theirs, best = (
            1e3 * statistics.median(run["seconds"][name]) for name in (OURS, "scipy", peer)
        )
        shape = " x ".join(map(str, run["shape"]))
        lines.append(
            f"| {run['instance']} | {shape} | {ours:.2f} | {theirs:.1f} | {scipy:.1f}x "
            f"| {best:.2f} | {slower[peer]:.1f}x | {peer} |"
        )
    return "\n".join(lines)


def matrices(family: str, sizes: list[int]) -> list[tuple[str, Matrix]]:
    """Named matrices of one family; `sizes` are those of duplicates."""
    if family == "duplicate":
        return [
            (f"duplicate {kind}", duplicates(kind, n))
            for n in sizes
            for kind in ("rows", "columns", "both")
        ]
    return [(family, rectangle(family, *shape)) for shape in SHAPES]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment_shapes", description=__doc__)
    parser.add_argument("--families", nargs="*", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--sizes", type=int, nargs="*", default=(256, 1024), help="of duplicates")
    parser.add_argument("--lap", help="folder with the package lap, if it is not importable")
    parser.add_argument("--lapx", help="folder with the package lapx, whose module is lap too")
    parser.add_argument("--more", action="store_true", help="keep what is stored of the others")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    solvers, missing = rivals(args.lap, args.lapx)
    stored = record.load("assignment_shapes")["runs"] if args.more else []
    runs = [run for run in stored if run["instance"].partition(" ")[0] not in args.families]
    for family in args.families:
        for name, matrix in matrices(family, args.sizes):
            runs.append(measure(name, matrix, solvers))
            print(table({"runs": runs[-1:]}).splitlines()[-1], flush=True)
            record.store("assignment_shapes", {"missing": missing, "runs": runs})
    return 0
