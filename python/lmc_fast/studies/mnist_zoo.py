"""Loss, accuracy and barriers of three-hidden-layer networks on MNIST, by width."""

from __future__ import annotations

from matplotlib.figure import Figure

from lmc_fast.charts import trend
from lmc_fast.datasets import Dataset
from lmc_fast.nets import MLP
from lmc_fast.recipe import Recipe
from lmc_fast.studies.moons import SOURCE
from lmc_fast.studies.nets_and_pairs import (
    QUANTITIES,
    State,
    aligned_to,
    all_pairs,
    eps,
    losses_by_width,
    mlp_spec,
    pairs_of,
    population,
    scores,
    standard_error,
)
from lmc_fast.studies.study import Check, Context, Result, Row, Study

PUBLISHED = {
    2: (2.301, 2.301, 0.112, 0.113),
    4: (0.660, 0.690, 0.803, 0.798),
    8: (0.172, 0.225, 0.950, 0.938),
    16: (0.040, 0.134, 0.989, 0.966),
    32: (0.003, 0.120, 0.999, 0.978),
    64: (0.001, 0.108, 1.0, 0.983),
    128: (0.0, 0.102, 1.0, 0.985),
    256: (0.0, 0.102, 1.0, 0.985),
    512: (0.0, 0.111, 1.0, 0.985),
}


def net(width: int) -> MLP:
    """Three hidden layers of `width` units with LayerNorm."""
    return MLP((784, width, width, width, 10), norm="layernorm")


def dataset(context: Context) -> Dataset:
    """MNIST, a small part of it in quick runs."""
    return context.mnist(*context.choose(quick=(2000, 1000), default=(None, None)))


def _count(context: Context) -> int:
    return context.choose(quick=3, default=3, full=50)


def _epochs(context: Context) -> int:
    return context.choose(quick=2, default=12, full=60)


def zoo(context: Context, width: int, data: Dataset) -> list[State]:
    """Networks of one width, trained as one batch."""
    count = _count(context)
    epochs = _epochs(context)
    recipe = Recipe("adamw", lr=0.1, epochs=epochs, batch_size=256, schedule="onecycle")
    seeds = [1000 * context.seed + i for i in range(count)]
    return population(context, f"mnist/w{width}", net(width), data, recipe, seeds)


def _run(context: Context) -> Result:
    data = dataset(context)
    widths = context.choose(quick=[4, 16], default=[2, 4, 8, 16, 32, 64], full=list(PUBLISHED))
    rows: dict[int, list[Row]] = {}
    details = {}
    mean_eps: dict[str, dict[int, float]] = {"unaligned": {}, "aligned": {}}
    for width in widths:
        states = zoo(context, width, data)
        found = scores(net(width), states, data)
        rows[width] = [
            Row(f"w={width} {quantity}", float(v.mean()), published, standard_error(v))
            for quantity, published, v in zip(QUANTITIES, PUBLISHED[width], found.T, strict=True)
        ]
        aligned, _ = aligned_to(mlp_spec(net(width)), states)
        details[str(width)] = {"scores": found.tolist()}
        for name, group in (("unaligned", states), ("aligned", aligned)):
            pairs = pairs_of(
                eps(
                    all_pairs(
                        net(width), group, data.test_x, data.test_y, progress=context.progress
                    )
                )
            )
            mean_eps[name][width] = float(pairs.mean())
            rows[width].append(
                Row(f"w={width} {name} eps", mean_eps[name][width], spread=standard_error(pairs))
            )
            details[str(width)][name] = pairs.tolist()
    wide = max(widths)
    share = mean_eps["aligned"][wide] / mean_eps["unaligned"][wide]
    checks = [
        Check(
            "alignment lowers the eps of wide networks",
            share < 1,
            f"by a factor of {1 / max(share, 1e-9):.1f} at w={wide}",
        )
    ]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses_by_width(rows, ax=left)
    trend(
        widths,
        {name: list(by_width.values()) for name, by_width in mean_eps.items()},
        xlabel="width",
        ylabel="eps on the test loss",
        log_x=True,
        linear_below=1e-2,
        ax=right,
    )
    return Result(
        [row for of_width in rows.values() for row in of_width],
        checks,
        {
            "recipe": "AdamW, lr 0.1 OneCycle, batch 256",
            "epochs": _epochs(context),
            "published epochs": 60,
            "networks": _count(context),
            "eps": "max over 11 alphas of L - max(L(0), L(1)) on the test loss",
            "spread": "standard error over networks, or over pairs for eps",
        },
        details,
        figure,
    )


STUDY = Study(
    "mnist-zoo", "Loss, accuracy and barriers of the MNIST zoo by width", SOURCE, _run, "MNIST"
)
