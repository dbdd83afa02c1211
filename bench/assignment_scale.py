"""One large assignment: ``python -m bench assignment_scale --width 28672``.

Correlations of two sets of synthetic units, the second a shuffled, noisy copy of the first. The
time is compared with one float32 sum over the matrix, the extra memory with the matrix itself.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import numpy as np
from lmc_fast import solve_assignment

from bench import record
from bench.instances import Matrix


def planted(n: int, samples: int, share: float) -> tuple[Matrix, Matrix]:
    """Correlation matrix (n, n), and the column that row i was copied to."""
    rng = np.random.default_rng(n)
    a = rng.standard_normal((n, samples), dtype=np.float32)
    order = rng.permutation(n)
    noise = rng.standard_normal((n, samples), dtype=np.float32)
    b = (share * a + np.float32(np.sqrt(1 - share**2)) * noise)[order]
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    matrix = np.empty((n, n), dtype=np.float32)
    for begin in range(0, n, 1024):
        np.matmul(a[begin : begin + 1024], b.T, out=matrix[begin : begin + 1024])
    return matrix, np.argsort(order)


def peak_memory() -> int:
    """Bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seconds_of_sum(matrix: Matrix) -> float:
    start = time.perf_counter()
    float(matrix.sum())
    return time.perf_counter() - start


def table(results: dict[str, Any]) -> str:
    """One row: the time in sums over the matrix, the memory in matrices."""
    return "\n".join(
        [
            "| n | seconds | float32 sums over the matrix | extra memory | gap | units recovered |",
            "|---|---|---|---|---|---|",
            f"| {results['n']} | {results['seconds']:.2f} | {results['sums']:.1f} | "
            f"{results['extra_memory']:.1%} | {results['gap']:g} | {results['recovered']:.1%} |",
        ]
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment_scale", description=__doc__)
    parser.add_argument("--width", type=int, default=28672)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument(
        "--share", type=float, default=0.5, help="correlation of a unit's two copies"
    )
    args = parser.parse_args(argv)
    matrix, truth = planted(args.width, args.samples, args.share)
    sums = [seconds_of_sum(matrix) for _ in range(3)]
    before = peak_memory()
    start = time.perf_counter()
    result = solve_assignment(matrix, maximize=True)
    seconds = time.perf_counter() - start
    results = {
        "n": args.width,
        "seconds": seconds,
        "sum_seconds": sums,
        "sums": seconds / sorted(sums)[1],
        "extra_memory": (peak_memory() - before) / matrix.nbytes,
        "gap": result.gap,
        "moved": result.moved,
        "rows_read": result.rows_read / args.width,
        "list_visits": result.list_visits / args.width,
        "recovered": float((result.cols == truth).mean()),
        "positive_margins": float((result.margins > 0).mean()),
    }
    print(results)
    record.store("assignment_scale", results)
    return 0
