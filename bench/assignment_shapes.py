"""Rectangles and duplicates against SciPy: ``python -m bench assignment_shapes``.

Rectangles are cut from activation correlations and raw grams of MLPs trained on MNIST; duplicates
are random matrices whose rows or columns fall into n / 8 classes of 8 identical ones. One thread,
CPU time, alternating rounds.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch
from lmc_fast import linear_sum_assignment, solve_assignment
from scipy import optimize

from bench import record
from bench.assignment import seconds
from bench.instances import Matrix, instance

SHAPES = ((512, 2048), (2048, 512), (1024, 1100), (1100, 1024), (2048, 4096))
ROUNDS = 3


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


def measure(name: str, matrix: Matrix) -> dict[str, Any]:
    """Alternating rounds of both solvers on one matrix."""
    cost = -matrix.astype(np.float64)
    rows, cols = linear_sum_assignment(matrix, maximize=True)
    certificate = solve_assignment(matrix, maximize=True)
    if certificate.gap or not np.isclose(
        matrix[rows, cols].sum(dtype=np.float64), certificate.objective
    ):
        raise RuntimeError(f"{name}: not the certified optimum")
    times: dict[str, list[float]] = {"lmc_fast": [], "scipy": []}
    for _ in range(ROUNDS):
        times["lmc_fast"].append(seconds(lambda: linear_sum_assignment(matrix, maximize=True)))
        times["scipy"].append(seconds(lambda: optimize.linear_sum_assignment(cost)))
    return {"instance": name, "shape": list(matrix.shape), "seconds": times}


def table(results: dict[str, Any]) -> str:
    """One row a matrix: medians of both solvers."""
    lines = ["| matrix | shape | ours, ms | SciPy, ms | ratio |", "|---|---|---|---|---|"]
    for run in results["runs"]:
        ours, scipy = (
            1e3 * statistics.median(run["seconds"][name]) for name in ("lmc_fast", "scipy")
        )
        shape = " x ".join(map(str, run["shape"]))
        lines.append(
            f"| {run['instance']} | {shape} | {ours:.2f} | {scipy:.1f} | {scipy / ours:.1f}x |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment_shapes", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=(256, 1024), help="of duplicates")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = [
        measure(name, rectangle(name, *shape))
        for name in ("act1", "raw1")
        for shape in SHAPES
        if name == "act1" or max(shape) <= 2048
    ]
    runs += [
        measure(f"duplicate {kind}", duplicates(kind, n))
        for n in args.sizes
        for kind in ("rows", "columns", "both")
    ]
    record.store("assignment_shapes", {"runs": runs})
    print(table({"runs": runs}))
    return 0
