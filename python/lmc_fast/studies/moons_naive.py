"""Barriers between Moons networks as they are and weight-matched, by width."""

from __future__ import annotations

from matplotlib.figure import Figure

from lmc_fast.charts import trend
from lmc_fast.studies import moons
from lmc_fast.studies.nets_and_pairs import ALPHAS, aligned_to, all_pairs, eps, mlp_spec, pairs_of
from lmc_fast.studies.study import Check, Context, Result, Row, Study


def _run(context: Context) -> Result:
    data = moons.dataset(context)
    found: dict[int, dict[str, list[float]]] = {}
    for width in moons.widths(context):
        net = moons.net(width)
        states = moons.zoo(context, width)
        aligned, _ = aligned_to(mlp_spec(net), states)
        found[width] = {
            name: pairs_of(
                eps(all_pairs(net, group, data.test_x, data.test_y, progress=context.progress))
            ).tolist()
            for name, group in (("unaligned", states), ("aligned", aligned))
        }
    rows = []
    means: dict[str, dict[int, float]] = {"unaligned": {}, "aligned": {}}
    for width, pair in found.items():
        for name, values in pair.items():
            ordered = sorted(values)
            means[name][width] = sum(values) / len(values)
            quarter = len(ordered) // 4
            rows += [
                Row(f"w={width} {name} eps mean", means[name][width]),
                Row(f"w={width} {name} eps median", ordered[2 * quarter]),
                Row(f"w={width} {name} eps lower quartile", ordered[quarter]),
                Row(f"w={width} {name} eps upper quartile", ordered[3 * quarter]),
            ]
    shares = {w: means["aligned"][w] / means["unaligned"][w] for w in means["aligned"] if w >= 16}
    worst = max(shares, key=lambda w: shares[w])
    wide = max(found)
    checks = [
        Check(
            "the aligned eps is at most a tenth of the unaligned for w >= 16",
            shares[worst] <= 0.1,
            f"largest share {shares[worst]:.3f} at w={worst}",
        ),
        Check(
            "the unaligned eps does not vanish with width",
            means["unaligned"][wide] > 0.03,
            f"mean {means['unaligned'][wide]:.3f} at w={wide}",
        ),
    ]
    shown = list(found)
    quartiles = {
        name: [
            [sorted(found[w][name])[len(found[w][name]) * q // 4] for w in shown] for q in (1, 2, 3)
        ]
        for name in means
    }
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    trend(
        shown,
        {f"{name}, median and quartiles": middle for name, (_, middle, _) in quartiles.items()},
        bands={
            f"{name}, median and quartiles": (low, high)
            for name, (low, _, high) in quartiles.items()
        },
        xlabel="width",
        ylabel="eps on the test loss",
        log_x=True,
        linear_below=1e-4,
        ax=figure.add_subplot(),
    )
    return Result(
        rows,
        checks,
        moons.SETTINGS
        | {
            "eps": "max over alpha of L - max(L(0), L(1)) on the test loss",
            "alphas": ALPHAS,
            "aligned": "weight matching of every network to network 0",
        },
        {"eps": found},
        figure,
        "The source shows this as pictures; it prints no numbers.",
    )


STUDY = Study(
    "moons-naive",
    "Wide networks are more connected even unaligned; the aligned eps goes to 0",
    moons.SOURCE,
    _run,
)
