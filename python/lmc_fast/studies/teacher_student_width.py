"""Barrier between two students of one teacher, by width: closed form, many independent pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lmc_fast import linear_sum_assignment
from lmc_fast.charts import trend
from lmc_fast.progress import progress_bar
from lmc_fast.studies.study import Check, Context, Result, Row, Study
from lmc_fast.teacher_student import population_gradient, population_loss

ALPHAS = 25


def descend(
    units: Tensor, teacher: Tensor, *, lr: float, steps: int, progress: bool, label: str
) -> Tensor:
    """Run gradient descent on the population loss of a batch of students (..., m, d)."""
    for _ in progress_bar(range(steps), desc=label, unit="step", show=progress, leave=False):
        units = units - lr * population_gradient(units, teacher)
    return units


def pair_barriers(a: Tensor, b: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Chord barriers of pairs (n, m, d) as they are, and after one assignment per pair."""
    _, columns = linear_sum_assignment(a @ b.transpose(1, 2), maximize=True)
    aligned = b.gather(1, columns.unsqueeze(2).expand_as(b))
    return _barriers(a, b, teacher), _barriers(a, aligned, teacher)


def _barriers(a: Tensor, b: Tensor, teacher: Tensor) -> Tensor:
    alphas = torch.linspace(0, 1, ALPHAS, dtype=a.dtype)
    loss = torch.stack([population_loss(torch.lerp(a, b, t), teacher) for t in alphas], dim=1)
    excess: Tensor = loss - torch.lerp(loss[:, :1], loss[:, -1:], alphas)
    return excess.amax(1)


def initial_students(
    count: int, width: int, teacher: Tensor, *, scale: float, generator: torch.Generator
) -> Tensor:
    """Draw students (count, width, d) from N(0, I / d), times M / width and `scale`."""
    neurons, d = teacher.shape
    drawn = torch.randn(count, width, d, generator=generator, dtype=torch.float64)
    return drawn / math.sqrt(d) * neurons / width * scale


def _sweep(
    context: Context, teacher_width: int, widths: list[int], pairs: int, steps: int, scale: float
) -> dict[int, dict[str, Any]]:
    teacher = torch.eye(teacher_width, dtype=torch.float64)
    found = {}
    for width in widths:

        def measure(width: int = width) -> dict[str, Any]:
            generator = torch.Generator().manual_seed(context.seed * 1000 + width)
            start = initial_students(2 * pairs, width, teacher, scale=scale, generator=generator)
            students = descend(
                start,
                teacher,
                lr=teacher_width / width,
                steps=steps,
                progress=context.progress,
                label=f"M={teacher_width} m={width}",
            )
            naive, aligned = pair_barriers(students[:pairs], students[pairs:], teacher)
            return {
                "naive": float(naive.mean()),
                "naive_error": float(naive.std() / pairs**0.5),
                "aligned": float(aligned.mean()),
                "aligned_error": float(aligned.std() / pairs**0.5),
                "median": float(aligned.median()),
                "zero_share": float((aligned < 1e-8).double().mean()),
                "end_loss": float(population_loss(students, teacher).mean()),
            }

        key = f"teacher-student/M{teacher_width}-m{width}"
        found[width] = context.part(key, (scale, pairs, steps), measure)
    return found


def _slope(found: dict[int, dict[str, Any]], first: int) -> float:
    """Least-squares exponent of the aligned barrier in the width, from `first` on."""
    chosen = [w for w in found if w >= first and found[w]["aligned"] > 0]
    x = torch.tensor(chosen, dtype=torch.float64).log()
    y = torch.tensor([found[w]["aligned"] for w in chosen], dtype=torch.float64).log()
    x = x - x.mean()
    return float((x * y).sum() / (x * x).sum())


def _run(context: Context) -> Result:
    pairs = context.choose(quick=10, default=200, full=2000)
    steps = context.choose(quick=400, default=2500, full=10_000)
    four = context.choose(quick=[4, 6, 8, 16], default=[4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24])
    six = context.choose(quick=[6, 9], default=[6, 7, 8, 9, 10, 11, 12, 14, 18, 24])
    some = context.choose(quick=[6, 8], default=[4, 6, 8, 10, 12, 16, 24])
    large_scale = 3.0
    sweeps = {
        "M=4": _sweep(context, 4, four, pairs, steps, 1.0),
        "M=6": _sweep(context, 6, six, pairs, steps, 1.0),
        f"M=4, init x {large_scale:g}": _sweep(context, 4, some, pairs, steps, large_scale),
    }
    main = sweeps["M=4"]
    rows = [
        Row(f"{name} m={m} aligned barrier", v["aligned"], spread=v["aligned_error"])
        for name, sweep in sweeps.items()
        for m, v in sweep.items()
    ]
    peak = max(main, key=lambda m: main[m]["aligned"])
    last = max(main)
    slope = _slope(main, 8)
    dips = [
        m
        for before, m, after in zip(four, four[1:], four[2:], strict=False)
        if peak < m
        and main[m]["aligned"] + 2 * main[m]["aligned_error"] < main[after]["aligned"]
        and main[m]["aligned"] < main[before]["aligned"]
    ]
    checks = [
        Check(
            "the aligned barrier is 0 at m = M",
            main[4]["aligned"] < 1e-6 and sweeps["M=6"][6]["median"] < 1e-6,
            f"{main[4]['aligned']:.1e} for M=4; M=6 mean {sweeps['M=6'][6]['aligned']:.1e}, "
            f"median {sweeps['M=6'][6]['median']:.1e}",
        ),
        Check("it peaks near 1.5 M", 1.25 <= peak / 4 <= 1.75, f"at m = {peak} for M=4"),
        Check(
            "it decays after the peak, no slower than m^-1/2",
            main[last]["aligned"] < main[peak]["aligned"] and slope <= -0.5,
            f"exponent {slope:.2f} from m=8 to m={last}",
        ),
        Check(
            "the unaligned barrier does not decay with it",
            main[last]["naive"] > 0.25 * main[peak]["naive"],
            f"{main[peak]['naive']:.3g} at m={peak}, {main[last]['naive']:.3g} at m={last}",
        ),
    ]
    widths = sorted({m for sweep in sweeps.values() for m in sweep})

    def by_width(name: str, key: str) -> list[float]:
        return [sweeps[name][m][key] if m in sweeps[name] else math.nan for m in widths]

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    trend(
        widths,
        {f"{name}, aligned": by_width(name, "aligned") for name in sweeps}
        | {"M=4, unaligned": by_width("M=4", "naive")},
        errors={f"{name}, aligned": by_width(name, "aligned_error") for name in sweeps},
        xlabel="student width m",
        ylabel="population loss barrier",
        linear_below=1e-4,
        ax=figure.add_subplot(),
    )
    return Result(
        rows,
        checks,
        {
            "pairs": pairs,
            "steps": steps,
            "lr": "d / m",
            "init": "N(0, I/d) M/m",
            "loss": "E (f - f*)^2",
            "barrier": "chord",
            "alphas": ALPHAS,
            "spread": "standard error",
            "d": "M",
        },
        sweeps,
        figure,
        "A second minimum at exactly m = 2M "
        + (
            f"is not settled: no width after the peak lies two standard errors below the next "
            f"(of {four})."
            if not dips
            else f"is seen as a dip of two standard errors at m = {dips}."
        ),
    )


STUDY = Study(
    "teacher-student",
    "The barrier modulo permutation has a double descent in the width and tends to 0 no slower "
    "than m^-1/2; the naive barrier does not",
    "Zhan, Li, Wu, arXiv 2503.06001",
    _run,
)
