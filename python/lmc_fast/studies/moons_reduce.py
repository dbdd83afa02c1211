"""Reduction of Moons networks: without their redundant units the unaligned connection goes."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure

from lmc_fast.charts import trend
from lmc_fast.reduction import HiddenLayer, reduce_units
from lmc_fast.studies import moons
from lmc_fast.studies.nets_and_pairs import (
    State,
    all_pairs,
    eps,
    pairs_of,
    scores,
    standard_error,
)
from lmc_fast.studies.study import Check, Context, Result, Row, Study

QUANTITIES = ("reduced width", "reduced test loss", "reduced test accuracy")
PUBLISHED = {
    2: (2.0, 0.285, 0.859),
    4: (3.72, 0.220, 0.897),
    8: (7.18, 0.148, 0.934),
    16: (13.04, 0.057, 0.979),
    32: (23.28, 0.045, 0.986),
    64: (39.26, 0.050, 0.985),
    128: (73.62, 0.047, 0.987),
    256: (141.02, 0.048, 0.987),
    512: (271.94, 0.027, 0.990),
}


def _layer(state: State) -> HiddenLayer:
    return HiddenLayer(
        state["linears.0.weight"],
        state["linears.0.bias"],
        state["head.weight"],
        state["head.bias"],
    )


def _state(layer: HiddenLayer) -> State:
    return {
        "linears.0.weight": layer.w_in,
        "linears.0.bias": layer.bias,
        "head.weight": layer.w_out,
        "head.bias": layer.bias_out,
    }


def _run(context: Context) -> Result:
    data = moons.dataset(context)
    rows: list[Row] = []
    details: dict[str, dict[str, Any]] = {}
    connection: dict[int, tuple[float, float]] = {}
    mean: dict[str, dict[int, float]] = {"source's rule": {}, "in full": {}}
    for width in moons.widths(context):
        states = moons.zoo(context, width)
        layers = {
            "source's rule": [reduce_units(_layer(s), stop="half seen")[0] for s in states],
            "in full": [reduce_units(_layer(s), data.train_x)[0] for s in states],
        }
        net = moons.net(width)
        details[str(width)] = {}
        for rule, reduced in layers.items():
            widths = torch.tensor([layer.width for layer in reduced], dtype=torch.float64)
            found = scores(net, [_state(layer.padded(width)) for layer in reduced], data)
            measured = (widths, found[:, 1], found[:, 3])
            published = PUBLISHED[width] if rule == "source's rule" else (None, None, None)
            rows += [
                Row(f"w={width} {quantity}, {rule}", float(v.mean()), expected, standard_error(v))
                for quantity, v, expected in zip(QUANTITIES, measured, published, strict=True)
            ]
            details[str(width)][rule] = {"widths": widths.tolist(), "scores": found.tolist()}
            mean[rule][width] = float(widths.mean())
        padded = [_state(layer.padded(width)) for layer in layers["in full"]]
        before, after = (
            pairs_of(
                eps(all_pairs(net, group, data.test_x, data.test_y, progress=context.progress))
            )
            for group in (states, padded)
        )
        rows += [
            Row(f"w={width} unaligned eps mean", float(before.mean())),
            Row(f"w={width} unaligned eps mean after reduction in full", float(after.mean())),
        ]
        connection[width] = (float(before.mean()), float(after.mean()))
        details[str(width)] |= {"eps": before.tolist(), "eps reduced": after.tolist()}
    within = {w: v / PUBLISHED[w][0] - 1 for w, v in mean["source's rule"].items()}
    worst = max(within, key=lambda w: abs(within[w]))
    growth = {w: after / before for w, (before, after) in connection.items() if w >= 8}
    least = min(growth, key=lambda w: growth[w])
    checks = [
        Check(
            "reduced widths within 10 % of the published",
            abs(within[worst]) <= 0.1,
            f"largest difference {within[worst]:+.1%} at w={worst}",
        ),
        Check(
            "reduction takes the unaligned connection away: eps grows for w >= 8",
            growth[least] > 1,
            f"by a factor of at least {growth[least]:.2f}, at w={least}",
        ),
    ]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = list(within)
    trend(
        shown,
        {rule: list(by_width.values()) for rule, by_width in mean.items()},
        published={"source's rule": [PUBLISHED[w][0] for w in shown]},
        xlabel="width",
        ylabel="width after reduction",
        log_x=True,
        linear_below=1.0,
        ax=left,
    )
    trend(
        shown,
        {
            name: [connection[w][i] for w in shown]
            for i, name in enumerate(("before", "after reduction in full"))
        },
        xlabel="width",
        ylabel="mean unaligned eps on the test loss",
        log_x=True,
        ax=right,
    )
    return Result(
        rows,
        checks,
        moons.SETTINGS
        | {
            "reduction": "cosine above 0.99, output weights times |v_j|/|v_i|",
            "source's rule": "stops when the units kept or merged are as many as those that "
            "remain, and drops no dead units",
            "in full": "until no two units are above; units that no training point activates go",
            "comparison": "zero-padded to the original width",
            "spread": "standard error",
        },
        details,
        figure,
        "The source's code divides by the factor |v_j|/|v_i| that positive homogeneity multiplies "
        "by; the correct one is used here, so the losses of reduced networks are lower than the "
        "published. Its loop stops early, which the published widths show.",
    )


STUDY = Study(
    "moons-reduce",
    "Redundant units cause the unaligned connection: without them it is gone",
    moons.SOURCE,
    _run,
)
