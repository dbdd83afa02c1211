"""What old duals save inside weight matching: ``python -m bench assignment_warm``.

Every assignment that `match` asks for while it aligns two MLPs trained on MNIST is solved twice,
from the duals of the sweep before and from nothing, in alternating order. Where most units of the
group have just moved, `match` itself starts from nothing; these are not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
from lmc_fast import Assignment, match
from lmc_fast.assignment import solve_together
from lmc_fast.matching import weights
from torch import nn

from bench import record
from bench.instances import network

Duals = tuple[torch.Tensor, torch.Tensor]


class Paired:
    """Stands in for solve_together, one problem at a time, and keeps the times of both ways."""

    def __init__(self) -> None:
        self.solves: list[dict[str, float]] = []

    def __call__(
        self,
        costs: Sequence[torch.Tensor],
        *,
        maximize: bool,
        prefer: Sequence[torch.Tensor],
        initial_duals: Sequence[Duals | None],
    ) -> list[Assignment]:
        def solve(k: int, duals: Duals | None) -> Assignment:
            (found,) = solve_together(
                [costs[k]], maximize=maximize, prefer=[prefer[k]], initial_duals=[duals]
            )
            return found

        answers = []
        for k, duals in enumerate(initial_duals):
            if duals is None:
                answers.append(solve(k, None))
                continue
            ways = {"cold": None, "warm": duals}
            names = list(ways) if len(self.solves) % 2 else list(reversed(ways))
            results, times = {}, {}
            for name in names:
                start = time.process_time()
                results[name] = solve(k, ways[name])
                times[name] = time.process_time() - start
            if not torch.equal(results["warm"].cols, results["cold"].cols):
                raise RuntimeError("a warm start changed the answer")
            self.solves.append({"n": len(costs[k]), **times})
            answers.append(results["warm"])
        return answers


def measure(
    a: nn.Module, b: nn.Module, example: torch.Tensor
) -> tuple[int, list[dict[str, float]]]:
    """The sweeps of one match of `a` and `b`, and the times of its assignments that had duals."""
    paired = Paired()
    with mock.patch.object(weights, "solve_together", paired):
        matching = match(a, b, example_inputs=example, generator=torch.Generator().manual_seed(0))
    return matching.sweeps, paired.solves


def table(results: dict[str, Any]) -> str:
    """One row a width: the solves that had old duals, both ways."""
    lines = [
        "| hidden units | sweeps | solves with old duals | from nothing, ms | warm, ms | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for run in results["runs"]:
        cold, warm = (1e3 * sum(s[way] for s in run["solves"]) for way in ("cold", "warm"))
        lines.append(
            f"| {run['width']} | {run['sweeps']} | {len(run['solves'])} | {cold:.1f} | "
            f"{warm:.1f} | {cold / warm:.2f}x |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench assignment_warm", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=(256, 1024, 2048))
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    runs = []
    for width in args.widths:
        sweeps, solves = measure(network(width, 3, 0), network(width, 3, 1), torch.zeros(2, 784))
        cold, warm = (sum(s[way] for s in solves) for way in ("cold", "warm"))
        runs.append(
            {"width": width, "sweeps": sweeps, "cold_over_warm": cold / warm} | {"solves": solves}
        )
        print(width, sweeps, len(solves), f"{cold:.3f} s {warm:.3f} s", cold / warm)
    record.store("assignment_warm", {"runs": runs})
    return 0
