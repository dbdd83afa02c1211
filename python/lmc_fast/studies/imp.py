"""Does the permutation of two dense networks align their sparse subnetworks, level by level."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from lmc_fast import barrier, match
from lmc_fast.charts import trend
from lmc_fast.matching import Matching, match_sequence, transport_masks
from lmc_fast.nets import MLP
from lmc_fast.pruning import iterative_magnitude_pruning
from lmc_fast.recipe import Recipe
from lmc_fast.studies.nets_and_pairs import mlp_spec
from lmc_fast.studies.runs import SOURCE, evaluation
from lmc_fast.studies.study import Check, Context, Result, Row, Study

ALPHAS = 25


def _run(context: Context) -> Result:
    data = context.mnist(*context.choose(quick=(2000, 1000), default=(None, None)))
    levels = context.choose(quick=2, default=8, full=20)
    epochs = context.choose(quick=2, default=4, full=40)
    rewind = context.choose(quick=1, default=1, full=2)
    net = MLP((784, 300, 100, 10))
    spec = mlp_spec(net)
    recipe = Recipe("adam", lr=1.2e-3, epochs=epochs, batch_size=128)

    def prune(seed: int) -> list[dict[str, Any]]:
        found = iterative_magnitude_pruning(
            net,
            data,
            recipe,
            seed=seed,
            levels=levels,
            rewind_epoch=rewind,
            progress=context.progress,
        )
        return [vars(level) for level in found]

    seed = 2000 * context.seed
    settings = (recipe, levels, rewind, len(data.train_x))
    a = context.part("imp/a", settings, lambda: prune(seed + 1))
    b = context.part("imp/b", settings, lambda: prune(seed + 2))
    states_a, states_b = ([level["state"] for level in run] for run in (a, b))
    dense = match_sequence(states_a, states_b, spec=spec, step=0)
    joint = match_sequence(states_a, states_b, spec=spec)
    points = evaluation(context, data)
    error: dict[str, list[float]] = {}
    overlap: list[float] = []
    accuracy: list[float] = []
    for x, y in zip(a, b, strict=True):
        sparse = match(x["state"], y["state"], spec=spec)
        cases: dict[str, Matching | None] = {
            "none": None,
            "sparse": sparse,
            "dense": dense,
            "joint": joint,
        }
        for name, matching in cases.items():
            moved = y["state"] if matching is None else matching.apply(y["state"])
            curve = barrier(x["state"], moved, points, model=net, alphas=ALPHAS)
            error.setdefault(name, []).append(curve.error_barrier())
        accuracy.append(1 - float(curve.values("error")[0]))
        masks = transport_masks(dense, y["masks"])
        both = sum(float((masks[name] * x["masks"][name]).sum()) for name in masks)
        overlap.append(both / sum(float(mask.sum()) for mask in masks.values()))
    densities = [level["density"] for level in a]
    rows = [
        Row(f"level {level} ({density:.0%} left), permutation: {name}", values[level])
        for level, density in enumerate(densities)
        for name, values in error.items()
    ]
    rows += [
        Row(f"level {level}: masks of B within those of A after the dense permutation", value)
        for level, value in enumerate(overlap)
    ]
    excess = [value - error["dense"][0] for value in error["dense"]]
    worst = max(range(len(excess)), key=lambda level: excess[level])
    checks = [
        Check(
            "the dense permutation aligns the sparse networks at every level at most 15 points "
            "worse than at level 0",
            excess[worst] <= 0.15,
            f"at most {100 * excess[worst]:.1f} points, at level {worst}; level 0 has "
            f"{100 * error['dense'][0]:.2f}, unaligned {100 * error['none'][0]:.1f} points",
        ),
        Check(
            "it does so far better than no permutation at every level",
            all(d < 0.5 * n for d, n in zip(error["dense"], error["none"], strict=True)),
            f"at most {max(error['dense']):.3f} against at least {min(error['none']):.3f}",
        ),
    ]
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    trend(
        range(levels + 1),
        {f"permutation: {name}": values for name, values in error.items()},
        xlabel="level, each without a fifth of the weights of the one before",
        ylabel="train error barrier",
        linear_below=1e-3,
        ax=left,
    )
    trend(
        range(levels + 1),
        {"after the dense permutation": overlap, "chance": densities},
        xlabel="level, each without a fifth of the weights of the one before",
        ylabel="share of B's mask within A's",
        ax=right,
    )
    return Result(
        rows,
        checks,
        {
            "model": "LeNet-300-100 on MNIST",
            "recipe": f"Adam 1.2e-3, batch 128, {epochs} epochs a level",
            "pruning": f"20 % of the remaining weights a level, global magnitude, rewound to "
            f"epoch {rewind}",
            "matching": "weights, biases counted; joint: objectives of all levels summed",
            "barrier": f"chord, error on {len(points[0])} training images, {ALPHAS} alphas",
        },
        {
            "density": densities,
            "error": error,
            "overlap": overlap,
            "accuracy of A": accuracy,
        },
        figure,
        "The source prints curves for its image networks, no numbers for this one.",
    )


STUDY = Study(
    "imp",
    "The dense permutation also aligns the sparse subnetworks of iterative magnitude pruning",
    SOURCE,
    _run,
    "MNIST",
)
