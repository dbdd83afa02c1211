"""Stochastic weight averaging works because its samples are aligned already."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure

from lmc_fast import BarrierMatrix
from lmc_fast.charts import trend
from lmc_fast.recipe import Recipe
from lmc_fast.studies import mnist_zoo
from lmc_fast.studies.moons import SOURCE
from lmc_fast.studies.nets_and_pairs import (
    State,
    all_pairs,
    eps,
    pairs_of,
    scores,
    standard_error,
)
from lmc_fast.studies.study import Check, Context, Result, Row, Study
from lmc_fast.training import train


def _range_over_pairs(matrix: BarrierMatrix) -> tuple[list[float], list[float], list[float]]:
    """Return the least, median and largest loss over all pairs at every alpha."""
    curves = matrix.loss[np.triu_indices(len(matrix.loss), 1)]
    least, median, largest = np.quantile(curves, (0.0, 0.5, 1.0), axis=0).tolist()
    return least, median, largest


def _run(context: Context) -> Result:
    data = mnist_zoo.dataset(context)
    widths = context.choose(quick=[16], default=[16, 64], full=[16, 64, 512])
    samples = context.choose(quick=4, default=20)
    recipe = Recipe(
        "adamw",
        lr=0.05,
        first_lr=0.01,
        epochs=samples,
        batch_size=256,
        schedule="anneal",
        warmup=10,
    )
    rows, checks = [], []
    details = {}
    figure = Figure(figsize=(5 * len(widths), 4), layout="constrained")
    panels = figure.subplots(1, len(widths), squeeze=False)[0]
    for width, ax in zip(widths, panels, strict=True):
        net = mnist_zoo.net(width)
        states = mnist_zoo.zoo(context, width, data)

        def sample(width: int = width, start: State = states[0]) -> list[State]:
            found: list[State] = []

            def keep(epoch: int, model: torch.nn.Module) -> None:
                if epoch > 0:
                    found.append({k: v.clone() for k, v in model.state_dict().items()})

            train(
                mnist_zoo.net(width),
                data,
                recipe,
                seed=1000 * context.seed,
                initial=start,
                on_epoch=keep,
                progress=context.progress,
            )
            return found

        trajectory = context.part(f"mnist/swa-w{width}", (recipe, len(data.train_x)), sample)
        within, between = (
            all_pairs(net, group, data.test_x, data.test_y, progress=context.progress)
            for group in (trajectory, states)
        )
        inside, outside = pairs_of(eps(within)), pairs_of(eps(between))
        average = {
            name: torch.stack([state[name] for state in trajectory]).mean(0)
            for name in trajectory[0]
        }
        found = scores(net, [average, *trajectory], data)
        rows += [
            Row(f"w={width} eps of sample pairs", float(inside.mean()), 0.0, float(inside.max())),
            Row(
                f"w={width} eps of independent networks",
                float(outside.mean()),
                spread=standard_error(outside),
            ),
            Row(f"w={width} test accuracy, mean of the samples", float(found[1:, 3].mean())),
            Row(f"w={width} test accuracy of the average", float(found[0, 3])),
        ]
        checks.append(
            Check(
                f"w={width}: every sample pair's eps is at most a tenth of the independent mean",
                float(inside.max()) <= 0.1 * float(outside.mean()),
                f"mean {float(inside.mean()):.3g}, largest {float(inside.max()):.3g} of "
                f"{len(inside)} pairs, against {float(outside.mean()):.3g}",
            )
        )
        details[str(width)] = {
            "samples": eps(within).tolist(),
            "independent": eps(between).tolist(),
        }
        ranges = {
            "samples of one run": _range_over_pairs(within),
            "independent networks": _range_over_pairs(between),
        }
        trend(
            list(within.alphas),
            {label: middle for label, (_, middle, _) in ranges.items()},
            bands={label: (low, high) for label, (low, _, high) in ranges.items()},
            xlabel=r"$\alpha$ between two networks",
            ylabel="test loss, median and range over pairs",
            linear_below=0.01,
            ax=ax,
        )
        ax.set_title(f"w={width}", fontsize="medium")
    return Result(
        rows,
        checks,
        {
            "start": "network 0 of the MNIST zoo of that width",
            "recipe": "AdamW, lr from 0.01 to 0.05 (cosine over 10 epochs), one sample an epoch",
            "samples": samples,
            "spread": "largest pair for samples, standard error for independent networks",
            "published": "near zero: the source states it without a number",
        },
        details,
        figure,
    )


STUDY = Study(
    "swa",
    "Weight averaging along one run works because its samples are already aligned",
    SOURCE,
    _run,
    "MNIST",
)
