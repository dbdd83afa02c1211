"""Clusters of mutually connected Moons networks: single linkage on their barriers."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import fcluster

from lmc_fast.plots import barrier_heatmap
from lmc_fast.studies import moons
from lmc_fast.studies.nets_and_pairs import aligned_to, all_pairs, eps, mlp_spec, scores
from lmc_fast.studies.study import Check, Context, Result, Row, Study


def _run(context: Context) -> Result:
    data = moons.dataset(context)
    widths = context.choose(quick=[4, 64], default=[4, 16, 64, 512])
    rows, details = [], {}
    largest: dict[tuple[int, str], float] = {}
    figure = Figure(figsize=(4 * len(widths), 9), layout="constrained")
    panels = figure.subplots(2, len(widths), squeeze=False)
    for column, width in enumerate(widths):
        net = moons.net(width)
        states = moons.zoo(context, width)
        aligned, _ = aligned_to(mlp_spec(net), states)
        cut = float(scores(net, states, data)[:, 1].mean())
        for name, group in (("unaligned", states), ("aligned", aligned)):
            between = all_pairs(net, group, data.test_x, data.test_y, progress=context.progress)
            labels = fcluster(between.linkage("max"), t=cut, criterion="distance")
            share = float(np.bincount(labels).max() / len(labels))
            largest[width, name] = share
            rows += [
                Row(f"w={width} {name} clusters", float(labels.max())),
                Row(f"w={width} {name} share in the largest cluster", share),
            ]
            details[f"w={width} {name}"] = {
                "eps": eps(between).tolist(),
                "clusters": labels.tolist(),
            }
            ax = panels[0 if name == "unaligned" else 1, column]
            barrier_heatmap(between, kind="max", limit=cut, ax=ax)
            ax.set_xlabel(f"w={width}, {name}")
    figure.suptitle("colours, and clusters by colour, up to the mean test loss", fontsize="medium")
    wide = max(widths)
    checks = [
        Check(
            "aligned wide networks form one cluster",
            largest[wide, "aligned"] == 1.0,
            f"the largest holds {largest[wide, 'aligned']:.0%} at w={wide}, "
            f"unaligned {largest[wide, 'unaligned']:.0%}",
        )
    ]
    return Result(
        rows,
        checks,
        moons.SETTINGS | {"linkage": "single", "cut": "the mean test loss of the width"},
        details,
        figure,
        "The source shows dendrograms and heat maps; it prints no numbers.",
    )


STUDY = Study("clusters", "Are there clusters of mutually connected networks?", moons.SOURCE, _run)
