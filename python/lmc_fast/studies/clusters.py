"""Clusters of mutually connected Moons networks: single linkage on their barriers."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.cluster.hierarchy import dendrogram, fcluster

from lmc_fast import barrier_matrix
from lmc_fast.studies import moons
from lmc_fast.studies.nets_and_pairs import ALPHAS, aligned_to, mlp_spec, scores
from lmc_fast.studies.study import Check, Context, Result, Row, Study


def _run(context: Context) -> Result:
    data = moons.dataset(context)
    widths = context.choose(quick=[4, 64], default=[4, 16, 64, 512])
    rows, details = [], {}
    largest: dict[tuple[int, str], float] = {}
    figure = Figure(figsize=(3 * len(widths), 9), layout="constrained")
    panels = figure.subplots(3, len(widths), squeeze=False)
    for column, width in enumerate(widths):
        net = moons.net(width)
        states = moons.zoo(context, width)
        aligned, _ = aligned_to(mlp_spec(net), states)
        cut = float(scores(net, states, data)[:, 1].mean())
        for name, group in (("unaligned", states), ("aligned", aligned)):
            between = barrier_matrix(
                group,
                (data.test_x, data.test_y),
                model=net,
                alphas=ALPHAS,
                progress=context.progress,
            )
            eps = between.loss_barrier("max")
            tree = between.linkage("max")
            # A tree of height zero has no scale to be drawn at.
            tree[:, 2] = np.maximum(tree[:, 2], 1e-9)
            labels = fcluster(tree, t=cut, criterion="distance")
            share = float(np.bincount(labels).max() / len(labels))
            largest[width, name] = share
            rows += [
                Row(f"w={width} {name} clusters", float(labels.max())),
                Row(f"w={width} {name} share in the largest cluster", share),
            ]
            details[f"w={width} {name}"] = {"eps": eps.tolist(), "clusters": labels.tolist()}
            leaves = dendrogram(
                tree,
                no_labels=True,
                no_plot=name == "unaligned",
                ax=panels[0, column],
                color_threshold=cut,
            )["leaves"]
            ax = panels[1 if name == "unaligned" else 2, column]
            image = ax.imshow(eps[leaves][:, leaves], vmin=0, vmax=cut)
            ax.set_title(f"w={width} {name}", fontsize=9)
            figure.colorbar(image, ax=ax, label="eps, up to the mean test loss")
        panels[0, column].set_title(f"w={width} aligned, single linkage", fontsize=9)
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
