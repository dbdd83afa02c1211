"""Linear assignment against other solvers: ``python -m bench assignment``.

Runs alternate between the solvers in one process with one thread; ratios are taken within a round
and their median is reported. Of small matrices a solver's first call in a round is not timed: it
would pay for the caches that another solver has filled. Every answer's objective is checked against
ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from lmc_fast import solve_assignment

from bench import record
from bench.assignment_rivals import LARGEST, OURS, Call, rivals, shortfalls
from bench.instances import CONTROLS, REAL, Matrix, instance

SIZES = (64, 256, 1024, 2048, 4096)
ROUNDS = {64: 15, 256: 9, 1024: 3, 2048: 1, 4096: 1, 8192: 1}


def seconds(call: Call, calls: int = 1) -> float:
    """CPU time of one call on all threads, averaged over `calls`: the machine may be shared."""
    start = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - start) / calls


def measure(name: str, n: int, solvers: dict[str, Any]) -> dict[str, Any]:
    """Alternating rounds of all solvers on one instance."""
    matrix: Matrix = instance(name, n)
    certificate = solve_assignment(matrix, maximize=True)
    calls = {}
    for solver, prepare in solvers.items():
        # Sorted products are the worst case of most solvers.
        slow = name == "mw" and n > 256 and solver != "scipy" and not solver.startswith(OURS)
        if n <= LARGEST.get(solver, n) and not slow:
            calls[solver] = prepare(matrix)
    rounds: dict[str, list[float]] = {solver: [] for solver in calls}
    rounds["sum"] = []
    repeats = max(1, 20_000 // n**2) if n > 64 else 5
    for _ in range(ROUNDS[n]):
        for solver, call in calls.items():
            many = repeats if solver.startswith(OURS) or n <= 256 else 1
            if n <= 256:
                call()
            rounds[solver].append(seconds(call, many))
        rounds["sum"].append(seconds(lambda: float(matrix.sum()), 3))
    wrong = shortfalls(matrix, calls, certificate.objective) if n <= 1024 else {}
    return {
        "instance": name,
        "n": n,
        "seconds": rounds,
        "not_optimal_by": wrong,
        "gap": certificate.gap,
        "moved": certificate.moved,
        "rows_read": certificate.rows_read / n,
        "list_visits": certificate.list_visits / n,
        "augmentations": certificate.augmentations / n,
    }


def ratios(run: dict[str, Any]) -> dict[str, float]:
    """Median over rounds of each solver's time divided by ours."""
    ours = run["seconds"][OURS]
    return {
        solver: statistics.median(t / o for t, o in zip(times, ours, strict=True))
        for solver, times in run["seconds"].items()
        if not solver.startswith(OURS) and times
    }


def table(results: dict[str, Any]) -> str:
    """Speed against SciPy and the best peer, by size."""
    lines = [
        "| n | real: SciPy / ours, median (worst) | real: best peer / ours, median (worst) "
        "| controls: SciPy / ours, worst | controls: best peer / ours, worst "
        "| real: ours / one float32 sum, median |",
        "|---|---|---|---|---|---|",
    ]
    for n in sorted({run["n"] for run in results["runs"]}):
        scipy: dict[bool, list[float]] = {True: [], False: []}
        peer: dict[bool, list[float]] = {True: [], False: []}
        sums = []
        for run in results["runs"]:
            if run["n"] != n:
                continue
            real = run["instance"] in REAL
            ratio = ratios(run)
            total = ratio.pop("sum")
            scipy[real].append(ratio.pop("scipy"))
            valid = [r for s, r in ratio.items() if s not in run["not_optimal_by"]]
            peer[real] += [min(valid)] if valid else []
            if real:
                sums.append(1 / total)
        lines.append(
            f"| {n} | {statistics.median(scipy[True]):.1f} ({min(scipy[True]):.1f}) "
            f"| {statistics.median(peer[True]):.1f} ({min(peer[True]):.1f}) "
            f"| {_worst(scipy[False])} | {_worst(peer[False])} "
            f"| {statistics.median(sums):.0f} |"
        )
    return "\n".join(lines)


def _worst(ratios: list[float]) -> str:
    return f"{min(ratios):.2f}" if ratios else "-"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--instances", nargs="*", default=(*REAL, *CONTROLS))
    parser.add_argument("--lap", help="folder with the package lap, if it is not importable")
    parser.add_argument("--lapx", help="folder with the package lapx, whose module is lap too")
    parser.add_argument("--name", default="assignment", help="name of the stored results")
    parser.add_argument("--more", action="store_true", help="keep what is stored of the others")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    solvers, missing = rivals(args.lap, args.lapx)
    asked = {(n, name) for n in args.sizes for name in args.instances}
    stored = record.load(args.name)["runs"] if args.more else []
    runs = [run for run in stored if (run["n"], run["instance"]) not in asked]
    for n in args.sizes:
        for name in args.instances:
            if name == "mw" and n > 1024:
                continue
            runs.append(measure(name, n, solvers))
            shown = {k: round(v, 2) for k, v in ratios(runs[-1]).items()}
            ours = 1e3 * statistics.median(runs[-1]["seconds"][OURS])
            print(f"{n:5d} {name:8s} {ours:9.3f} ms", shown, flush=True)
            record.store(args.name, {"missing": missing, "runs": runs})
    print(table({"runs": runs}))
    return 0
