"""Pictures of barriers and matchings: each function draws into an Axes and returns it.

Without ``ax`` a function makes a figure of its own, ``result.figure``. Nothing here touches pyplot,
so no window opens and no global state changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram
from torch import Tensor

from lmc_fast.barrier.bootstrap import resampled_curves
from lmc_fast.barrier.curve import BarrierCurve
from lmc_fast.barrier.population import BarrierMatrix, CheckpointGrid
from lmc_fast.barrier.surface import PlaneGrid, SimplexGrid
from lmc_fast.charts import heatmap, new_axes
from lmc_fast.matching import Matching

_CORNER = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])


def barrier_curves(
    curves: Mapping[str, BarrierCurve],
    *,
    metric: str = "loss",
    level: float = 0.95,
    resamples: int = 200,
    ax: Axes | None = None,
) -> Axes:
    """Draw curves side by side, the temperature-calibrated ones dashed, with intervals as bands.

    Parameters
    ----------
    curves
        By label. Those evaluated with ``per_example=True`` get a pointwise bootstrap band.
    metric
        "loss" or "error".
    level, resamples
        Of the bands.
    """
    ax = new_axes() if ax is None else ax
    for i, (label, curve) in enumerate(curves.items()):
        colour = f"C{i}"
        ax.plot(curve.alphas, curve.values(metric), color=colour, label=label, marker=".")
        if metric == "loss" and curve.calibrated_loss is not None:
            ax.plot(
                curve.alphas,
                curve.calibrated_loss,
                color=colour,
                linestyle="--",
                label=f"{label}, calibrated",
            )
        examples = curve.example_losses
        values = None if examples is None else getattr(examples, metric)
        if examples is not None and values is not None:
            drawn = resampled_curves(
                values, examples.weight, resamples=resamples, generator=np.random.default_rng(0)
            )
            low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
            ax.fill_between(curve.alphas, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.set_xlabel(r"$\alpha$ (0 is A, 1 is B)")
    ax.set_ylabel(metric)
    ax.margins(x=0.02)
    # Above the axes: no place within them is free of every curve.
    ax.legend(
        fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False
    )
    return ax


def match_quality(matching: Matching, *, ax: Axes | None = None) -> Axes:
    """Draw each group's mean similarity by position and as matched, with regret and gap beside."""
    groups = matching.statistics
    ax = new_axes(6.0, 1.2 + 0.45 * len(groups)) if ax is None else ax
    rows = range(len(groups))
    kinds = (("by position", "identity", -0.2, "0.75"), ("matched", "matched", 0.2, "C0"))
    for label, name, offset, colour in kinds:
        values = [getattr(group, name) for group in groups.values()]
        ax.barh([row + offset for row in rows], values, height=0.38, color=colour, label=label)
    ax.set_yticks(list(rows), [f"{name} ({group.size})" for name, group in groups.items()])
    ax.invert_yaxis()
    right = max(max(g.matched, g.identity, 0.0) for g in groups.values()) or 1.0
    left = min(min(g.identity, g.matched, 0.0) for g in groups.values())
    ax.set_xlim(left - 0.02 * right, right * 1.45)
    for row, group in zip(rows, groups.values(), strict=True):
        ax.text(
            right * 1.03,
            row,
            f"gap {group.gap:.2g}"
            if group.regret is None
            else f"median regret {group.regret:.2g}\ngap {group.gap:.2g}",
            va="center",
            fontsize="x-small",
        )
    ax.set_xlabel(f"mean similarity ({matching.metric})")
    ax.legend(
        fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False
    )
    return ax


def similarity(
    matrix: Tensor | NDArray[Any], permutation: Tensor | None = None, *, ax: Axes | None = None
) -> Axes:
    """Draw a similarity matrix, its columns gathered by ``permutation`` where one is given.

    Parameters
    ----------
    matrix
        Shape (p, q): units of A by units of B.
    permutation
        Shape (p,), gather indices: with it, matched units lie on the diagonal.
    """
    ax = new_axes(4.4, 3.8) if ax is None else ax
    values = np.asarray(matrix, dtype=np.float64)
    if permutation is not None:
        values = values[:, np.asarray(permutation)]
    limit = float(np.abs(values).max()) or 1.0
    image = ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    ax.set_xlabel("unit of B" if permutation is None else "unit of B, matched order")
    ax.set_ylabel("unit of A")
    ax.set_title("before" if permutation is None else "after", fontsize="medium")
    ax.figure.colorbar(image, ax=ax, label="similarity", fraction=0.046, pad=0.04)
    return ax


def plane_contours(
    grid: PlaneGrid,
    *,
    metric: str = "loss",
    labels: Sequence[str] = ("A", "B", "C"),
    ax: Axes | None = None,
) -> Axes:
    """Draw loss or error on the plane through three networks, and where they lie."""
    ax = new_axes(5.2, 4.2) if ax is None else ax
    values = _metric(grid, metric)
    filled = ax.contourf(grid.x, grid.y, values, levels=14, cmap="viridis")
    heights = list(filled.levels)[::3]
    lines = ax.contour(grid.x, grid.y, values, levels=heights, colors="w", linewidths=0.6)
    margin = 0.06 * np.array([np.ptp(grid.x), np.ptp(grid.y)])
    low = np.array([grid.x[0], grid.y[0]]) + margin
    high = np.array([grid.x[-1], grid.y[-1]]) - margin
    for text in ax.clabel(lines, fontsize="x-small", fmt="%.3g"):
        # The border would cut these.
        if not ((low <= text.get_position()) & (text.get_position() <= high)).all():
            text.remove()
    ax.plot(*grid.corners[[0, 1, 2, 0]].T, color="w", linestyle=":", linewidth=1)
    for label, (x, y) in zip(labels, grid.corners, strict=True):
        ax.plot(x, y, "o", color="w", markeredgecolor="k", markersize=7, zorder=3)
        _tag(ax, label, (x, y), offset=(0, 9))
    ax.set_aspect("equal")
    ax.set_xlabel("distance in weight space")
    ax.set_ylabel("distance in weight space")
    ax.figure.colorbar(filled, ax=ax, label=metric)
    return ax


def ternary(
    grid: SimplexGrid,
    *,
    metric: str = "loss",
    labels: Sequence[str] = ("A", "B", "C"),
    ax: Axes | None = None,
) -> Axes:
    """Draw loss or error at the mixtures of three networks, in a triangle."""
    if grid.weights.shape[1] != 3:
        raise ValueError(f"ternary draws 3 networks, got a simplex of {grid.weights.shape[1]}")
    ax = new_axes(4.8, 4.0) if ax is None else ax
    x, y = (grid.weights @ _CORNER).T
    filled = ax.tricontourf(Triangulation(x, y), _metric(grid, metric), levels=14, cmap="viridis")
    ax.plot(*_CORNER[[0, 1, 2, 0]].T, color="k", linewidth=1)
    for label, corner, offset in zip(labels, _CORNER, ((-8, -8), (8, -8), (0, 9)), strict=True):
        _tag(ax, label, corner, offset=offset)
    ax.set_xlim(-0.12, 1.12)
    ax.set_ylim(-0.12, 1.0)
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.figure.colorbar(filled, ax=ax, label=metric)
    return ax


def barrier_heatmap(
    matrix: BarrierMatrix,
    *,
    kind: str = "chord",
    metric: str = "loss",
    method: str | None = "single",
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the barriers of all pairs, networks ordered by their dendrogram, drawn above.

    Parameters
    ----------
    method
        Linkage of the dendrogram; None keeps the networks' order and draws none.
    limit
        Upper end of the colours; clusters that join below it are coloured in the dendrogram.

    Returns
    -------
    Axes
        The heat map's; the dendrogram is an inset on top of it.
    """
    ax = new_axes(5.4, 5.6) if ax is None else ax
    heights = matrix.loss_barrier(kind) if metric == "loss" else matrix.error_barrier(kind)
    order = list(range(len(matrix.names)))
    if method is not None:
        above = ax.inset_axes((0.0, 1.02, 1.0, 0.22))
        tree = matrix.linkage(kind, method=method)
        if tree[-1, 2] > 0:
            order = dendrogram(
                tree,
                ax=above,
                no_labels=True,
                color_threshold=limit or 0,
                above_threshold_color="0.35",
            )["leaves"]
        else:  # networks without barriers form no tree, and SciPy draws none
            above.set_axis_off()
        above.set_ylabel("loss barrier", fontsize="x-small")
        above.tick_params(labelsize="x-small")
        for side in ("top", "right", "bottom"):
            above.spines[side].set_visible(False)
    image = ax.imshow(
        heights[np.ix_(order, order)],
        cmap="magma_r",
        vmin=min(0.0, float(heights.min())) if limit is None else 0.0,
        vmax=limit,
    )
    every = max(1, len(order) // 16)
    ticks = np.arange(0, len(order), every)
    names = [matrix.names[order[i]] for i in ticks]
    ax.set_xticks(ticks, names, rotation=90, fontsize="x-small")
    ax.set_yticks(ticks, names, fontsize="x-small")
    ax.set_xlabel("network")
    ax.set_ylabel("network")
    ax.figure.colorbar(image, ax=ax, label=f"{metric} barrier ({kind})", shrink=0.8)
    return ax


def checkpoint_heatmap(
    grid: CheckpointGrid,
    *,
    kind: str = "chord",
    metric: str = "loss",
    labels: tuple[Sequence[Any], Sequence[Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the barriers between the checkpoints of two runs.

    ``labels`` names the checkpoints of run A and of run B, their positions by default.
    """
    heights = grid.loss_barrier(kind) if metric == "loss" else grid.error_barrier(kind)
    rows, columns = labels if labels is not None else tuple(map(range, heights.shape))
    return heatmap(
        heights,
        rows=rows,
        columns=columns,
        ylabel="checkpoint of A",
        xlabel="checkpoint of B",
        label=f"{metric} barrier ({kind})",
        ax=ax,
    )


def _metric(grid: PlaneGrid | SimplexGrid, metric: str) -> NDArray[np.float64]:
    values = {"loss": grid.loss, "error": grid.error}.get(metric)
    if values is None:
        raise ValueError(f'metric must be "loss", or "error" of class targets, got {metric!r}')
    return values


def _tag(ax: Axes, label: str, at: Any, *, offset: tuple[float, float]) -> None:
    ax.annotate(
        label,
        at,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        fontweight="bold",
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "w", "edgecolor": "none", "alpha": 0.8},
    )
