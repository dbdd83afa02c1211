"""Sparsity of gradient descent solutions and their barrier, by learning rate up to divergence."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from lmc_fast.charts import trend
from lmc_fast.studies.study import Check, Context, Result, Row, Study
from lmc_fast.studies.teacher_student_width import descend, initial_students, pair_barriers
from lmc_fast.teacher_student import population_loss

SILENT = 0.01
"""A unit is silent where its norm is under this share of the largest in its network."""


def _measure(context: Context, width: int, rate: float, pairs: int, steps: int) -> dict[str, Any]:
    teacher = torch.eye(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(context.seed * 1000 + width)
    start = initial_students(2 * pairs, width, teacher, scale=1.0, generator=generator)
    students = descend(
        start,
        teacher,
        lr=rate * 4 / width,
        steps=steps,
        progress=context.progress,
        label=f"m={width} lr={rate:g} d/m",
    )
    loss = population_loss(students, teacher)
    initial = population_loss(start, teacher)
    kept = torch.isfinite(loss) & (loss < 10 * initial)
    both = kept[:pairs] & kept[pairs:]
    norms = students[kept].norm(dim=2)
    silent = (norms < SILENT * norms.max(1, keepdim=True).values).double().mean(1)
    _, aligned = pair_barriers(students[:pairs][both], students[pairs:][both], teacher)
    return {
        "diverged": float((~kept).double().mean()),
        "sparsity": float(silent.mean()) if len(silent) else None,
        "sparsity_error": float(silent.std() / len(silent) ** 0.5) if len(silent) > 1 else None,
        "loss": float(loss[kept].mean()) if len(silent) else None,
        "aligned": float(aligned.mean()) if len(aligned) else None,
        "aligned_error": float(aligned.std() / len(aligned) ** 0.5) if len(aligned) > 1 else None,
    }


def _run(context: Context) -> Result:
    pairs = context.choose(quick=10, default=100, full=1000)
    steps = context.choose(quick=400, default=3000, full=20_000)
    widths = context.choose(quick=[8], default=[8, 12, 16])
    rates = context.choose(
        quick=[1.0, 2.5, 3.0],
        default=[0.25, 0.5, 1.0, 1.5, 2.0, 2.3, 2.5, 2.6, 2.7, 2.8, 2.9, 3.0, 3.1, 3.2, 3.4, 3.7],
    )
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for width in widths:
        found[str(width)] = {
            f"{rate:g}": context.part(
                f"lr-sparsity/m{width}-lr{rate:g}",
                (pairs, steps),
                partial(_measure, context, width, rate, pairs, steps),
            )
            for rate in rates
        }
    rows, checks = [], []
    for m, sweep in found.items():
        alive = {r: v for r, v in sweep.items() if v["diverged"] < 0.5}
        rows += [
            Row(f"m={m} lr={r} d/m sparsity", v["sparsity"], spread=v["sparsity_error"])
            for r, v in alive.items()
        ]
        rows += [
            Row(f"m={m} lr={r} d/m aligned barrier", v["aligned"], spread=v["aligned_error"])
            for r, v in alive.items()
            if v["aligned"] is not None
        ]
        small = max(v["sparsity"] for r, v in alive.items() if float(r) <= 1)
        top = max(alive, key=lambda r: alive[r]["sparsity"])
        checks.append(
            Check(
                f"m={m}: sparsity jumps as the learning rate nears divergence",
                alive[top]["sparsity"] > small + 0.02,
                f"at most {small:.3f} up to lr = d/m, {alive[top]['sparsity']:.3f} at {top} d/m",
            )
        )
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)

    def by_rate(sweep: dict[str, dict[str, Any]], key: str) -> list[float]:
        return [math.nan if v["aligned"] is None else v[key] or 0.0 for v in sweep.values()]

    for ax, key, label in (
        (left, "sparsity", "share of silent units"),
        (right, "aligned", "aligned barrier"),
    ):
        trend(
            rates,
            {f"m={m}": by_rate(sweep, key) for m, sweep in found.items()},
            errors={f"m={m}": by_rate(sweep, f"{key}_error") for m, sweep in found.items()},
            xlabel="learning rate / (d/m)",
            ylabel=label,
            ax=ax,
        )
    return Result(
        rows,
        checks,
        {
            "pairs": pairs,
            "steps": steps,
            "M": 4,
            "d": 4,
            "silent": f"norm under {SILENT:g} of the network's largest",
            "diverged": "loss not finite or above 10 times its start; such networks are left out",
            "spread": "standard error",
        },
        found,
        figure,
    )


STUDY = Study(
    "lr-sparsity",
    "The sparsity of gradient descent solutions jumps as the learning rate grows, and moves the "
    "barrier",
    "Zhan, Li, Wu, arXiv 2503.06001",
    _run,
)
