"""What regrets tell of a matching: ``python -m bench assignment_regrets``.

Units of B are noisy copies of units of A with correlation rho over d features; n units each. The
strength of the signal is rho sqrt(d), against sqrt(2 ln n) for the largest chance correlation.
Where it is weak the exact optimum pairs most units wrongly, and the regrets say so beforehand.
"""

from __future__ import annotations

import argparse
import itertools
import time
from typing import Any

import numpy as np
import torch
from lmc_fast import solve_assignment

from bench import record
from bench.instances import Matrix

FEATURES = 256
STRENGTHS = (0.0, 1.6, 2.4, 3.2, 4.0, 4.8, 6.4)
EDGES = (0.0, 0.1, 0.2, 0.4, np.inf)


def planted(n: int, strength: float) -> Matrix:
    """Similarity of n units and their noisy copies, in the same order."""
    rng = np.random.default_rng((n, int(10 * strength)))
    a, noise = rng.standard_normal((2, n, FEATURES), dtype=np.float32)
    rho = np.float32(strength / FEATURES**0.5)
    return np.asarray(a @ (rho * a + np.sqrt(1 - rho**2) * noise).T / FEATURES)


def measure(n: int, strength: float) -> dict[str, Any]:
    """Regrets in units of the mean gain over random pairs, and how many units are paired right."""
    similarity = planted(n, strength)
    seconds = []
    for regrets in (False, True):
        start = time.process_time()
        result = solve_assignment(similarity, maximize=True, regrets=regrets)
        seconds.append(time.process_time() - start)
    ratio = result.regrets / (result.objective / n - similarity.mean(dtype=np.float64))
    right = result.cols == np.arange(n)
    bins = [
        {"from": low, "units": int(inside.sum()), "right": int(right[inside].sum())}
        for low, high in itertools.pairwise(EDGES)
        for inside in [(ratio >= low) & (ratio < high)]
    ]
    return {
        "n": n,
        "strength": strength,
        "right": float(right.mean()),
        "median": float(np.median(ratio)),
        "bins": bins,
        "seconds": seconds[0],
        "seconds_with_regrets": seconds[1],
    }


def table(results: dict[str, Any]) -> str:
    """One row a strength; units and how many of them are right, by their regret."""
    bounds = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(EDGES)]
    head = ["rho sqrt(d)", "paired right", "median regret / gain", *bounds]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for run in results["runs"]:
        cells = [f"{run['strength']:g}", f"{run['right']:.0%}", f"{run['median']:.3f}"]
        for part in run["bins"]:
            share = f", {part['right'] / part['units']:.0%} right" if part["units"] else ""
            cells.append(f"{part['units'] / run['n']:.0%}{share}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment_regrets", description=__doc__)
    parser.add_argument("--n", type=int, default=1024)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = [measure(args.n, strength) for strength in STRENGTHS]
    record.store("assignment_regrets", {"runs": runs})
    print(table({"runs": runs}))
    return 0
