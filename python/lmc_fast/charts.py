"""Charts of measured numbers: trends, published values beside them, bars, grids, regions.

Each function draws into an Axes and returns it, as those of `lmc_fast.plots` do for results of
this library; without ``ax`` it makes a figure of its own, ``result.figure``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, SymmetricalLogLocator
from numpy.typing import ArrayLike

_MARKERS = "osD^vP"


def new_axes(width: float = 5.0, height: float = 3.6) -> Axes:
    """Return the Axes of a new figure of that size in inches."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def trend(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    errors: Mapping[str, Sequence[float]] | None = None,
    bands: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    published: Mapping[str, Sequence[float | None]] | None = None,
    log_x: bool = False,
    linear_below: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw measured values against a setting, with spreads, and published values dashed.

    Parameters
    ----------
    x
        The settings, n of them.
    series
        By label n values each, NaN where there is none.
    errors, bands
        By label of `series`: n half lengths of error bars; n lower and n upper ends of a band.
    published
        By label n values, None where there is none: in the colour of the series of that label.
    log_x
        Logarithmic settings, to base 2, each of them a tick.
    linear_below
        Logarithmic values, linear below this one in size; None for linear values throughout.

    Raises
    ------
    ValueError
        A series is not as long as `x`.
    """
    ax = new_axes() if ax is None else ax
    errors, bands, published = errors or {}, bands or {}, published or {}
    colours = {label: f"C{i}" for i, label in enumerate([*series, *(set(published) - set(series))])}
    for i, (label, values) in enumerate(series.items()):
        _check_length(x, values, label)
        kept = np.isfinite(values)
        bar = np.asarray(errors.get(label, [0.0] * len(x)))
        ax.errorbar(
            np.asarray(x)[kept],
            np.asarray(values)[kept],
            bar[kept] if label in errors else None,
            color=colours[label],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4,
            capsize=2,
            label=f"{label}, ours" if label in published else label,
        )
        if label in bands:
            ax.fill_between(x, *bands[label], color=colours[label], alpha=0.2, linewidth=0)
    for label, known in published.items():
        _check_length(x, known, label)
        values = [np.nan if value is None else value for value in known]
        ax.plot(x, values, "x--", color=colours[label], alpha=0.8, label=f"{label}, published")
    if linear_below is not None:
        ax.set_yscale("symlog", linthresh=linear_below)
        # Labels within a decade too: the values may span less than one.
        steps = SymmetricalLogLocator(base=10, linthresh=linear_below, subs=(1.0, 2.0, 5.0))
        ax.yaxis.set_major_locator(steps)
        ax.yaxis.set_major_formatter("{x:g}")
    if log_x:
        ax.set_xscale("log", base=2)
        ax.set_xticks(x, [f"{value:g}" for value in x])
    elif all(float(value).is_integer() for value in x):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(xlabel)
    ax.set_ylabel(ylabel)
    ax.grid(alpha=0.25)
    ax.legend(fontsize="small")
    return ax


def bars(
    values: Mapping[str, float],
    *,
    ylabel: str,
    published: Mapping[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one value a label, lying, with the value written in; published ones as lines."""
    ax = new_axes(6.0, 1.2 + 0.3 * len(values)) if ax is None else ax
    drawn = ax.barh(list(values), list(values.values()), color="C0")
    ax.bar_label(drawn, fmt="%.4g", label_type="center", color="w", fontsize="small")
    ax.invert_yaxis()
    for i, (label, value) in enumerate((published or {}).items()):
        ax.axvline(value, color=f"C{i + 1}", linestyle="--", label=f"{label}, published: {value:g}")
    ax.set_xlabel(ylabel)
    if published:
        ax.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return ax


def heatmap(
    values: ArrayLike,
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    ylabel: str,
    xlabel: str,
    label: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw a grid of values, first row lowest; small grids have the values written in."""
    ax = new_axes(4.8, 4.0) if ax is None else ax
    heights = np.asarray(values, dtype=np.float64)
    image = ax.imshow(heights, cmap="magma_r", origin="lower", aspect="auto")
    for set_ticks, names in ((ax.set_yticks, rows), (ax.set_xticks, columns)):
        ticks = range(0, len(names), max(1, len(names) // 10))
        set_ticks(list(ticks), [str(names[i]) for i in ticks])
    if heights.size <= 64:
        middle = (np.nanmin(heights) + np.nanmax(heights)) / 2
        for (row, column), height in np.ndenumerate(heights):
            ax.text(
                column,
                row,
                f"{height:.2g}",
                ha="center",
                va="center",
                fontsize="x-small",
                color="w" if height > middle else "k",
            )
    ax.set_ylabel(ylabel)
    ax.set_xlabel(xlabel)
    ax.figure.colorbar(image, ax=ax, label=label)
    return ax


def linear_regions(
    patterns: ArrayLike,
    logits: ArrayLike,
    *,
    extent: float,
    points: ArrayLike,
    labels: ArrayLike,
    ax: Axes | None = None,
) -> Axes:
    """Draw the edges of a network's linear regions in the plane, its decision boundary and data.

    Parameters
    ----------
    patterns, logits
        Shape (n, n), first axis x: a number for the activation pattern, and the logit whose zero
        is the boundary, on a grid over [-extent, extent]^2.
    points, labels
        Shape (m, 2) and (m,): the data.
    """
    ax = new_axes(4.0, 4.0) if ax is None else ax
    found = np.asarray(patterns)
    here = found[1:, 1:]
    edges = (here != found[:-1, 1:]) | (here != found[1:, :-1])
    axis = np.linspace(-extent, extent, len(found))
    square = (-extent, extent, -extent, extent)
    ax.imshow(edges.T, origin="lower", extent=square, cmap="Greys", alpha=0.6)
    ax.contour(axis, axis, np.asarray(logits).T, levels=[0.0], colors="tab:red")
    x, y = np.asarray(points).T
    ax.scatter(x, y, c=np.asarray(labels), s=3, cmap="coolwarm")
    ax.set_xlabel("x1")
    ax.set_ylabel("x2")
    return ax


def _check_length(x: Sequence[float], values: Sequence[Any], label: str) -> None:
    if len(values) != len(x):
        raise ValueError(
            f"{label}: expected {len(x)} values, one for each setting, got {len(values)}"
        )
