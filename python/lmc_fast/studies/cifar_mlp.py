"""Four-layer networks on CIFAR-10 trained by four optimizers: barriers within and between."""

from __future__ import annotations

from functools import partial

import torch
from matplotlib.figure import Figure

from lmc_fast.nets import MLP
from lmc_fast.plots import barrier_heatmap
from lmc_fast.recipe import Recipe
from lmc_fast.studies.moons import SOURCE
from lmc_fast.studies.nets_and_pairs import (
    QUANTITIES,
    aligned_to,
    all_pairs,
    eps,
    mlp_spec,
    population,
    scores,
    standard_error,
)
from lmc_fast.studies.study import Check, Context, Result, Row, Study

LEARNING_RATES = {"adamw": 1e-3, "sgd": 0.1, "rmsprop": 1e-3, "adagrad": 1e-2}


def _recipes(context: Context) -> dict[str, Recipe]:
    """Return the recipe of each optimizer: that of the source's public code at full scale."""
    if context.scale == "full":
        cycle = partial(Recipe, epochs=60, batch_size=256, schedule="onecycle")
        return {
            "adamw": cycle("adamw", lr=1e-2, weight_decay=0.1),
            "sgd": cycle("sgd", lr=1e-2, weight_decay=1e-2, momentum=0.9),
            "rmsprop": cycle("rmsprop", lr=1e-5),
            "adagrad": cycle("adagrad", lr=1e-2, weight_decay=1e-2),
        }
    epochs = context.choose(quick=1, default=6)
    return {
        name: Recipe(name, lr=rate, epochs=epochs, batch_size=256, schedule="cosine", momentum=0.9)
        for name, rate in LEARNING_RATES.items()
    }


def _run(context: Context) -> Result:
    width = context.choose(quick=32, default=512)
    count = context.choose(quick=2, default=2, full=10)
    data = context.cifar10(
        *context.choose(quick=(1000, 500), default=(10_000, 2000), full=(None, None))
    )
    net = MLP((3072, width, width, width, 10), norm="layernorm").to(context.device)
    spec = mlp_spec(net)
    rows, zoo = [], []
    recipes = _recipes(context)
    for group, (name, recipe) in enumerate(recipes.items()):
        seeds = [1000 * context.seed + group * count + i for i in range(count)]
        states = population(context, f"cifar-mlp/{name}-w{width}", net, data, recipe, seeds)
        found = scores(net, states, data)
        rows += [
            Row(f"{name} {quantity}", float(v.mean()), spread=standard_error(v))
            for quantity, v in zip(QUANTITIES, found.T, strict=True)
        ]
        zoo += states
    aligned, _ = aligned_to(spec, zoo)
    matrices = {
        which: all_pairs(net, group, data.test_x, data.test_y, progress=context.progress)
        for which, group in (("unaligned", zoo), ("aligned", aligned))
    }
    means: dict[str, dict[str, float]] = {}
    for which, between in matrices.items():
        means[which] = {}
        blocks = eps(between).view(len(recipes), count, len(recipes), count)
        for i, first in enumerate(recipes):
            for j, second in list(enumerate(recipes))[i:]:
                block = blocks[i, :, j]
                values = block[~torch.eye(count, dtype=torch.bool)] if i == j else block.flatten()
                means[which][f"{first} - {second}"] = float(values.mean())
                rows.append(
                    Row(
                        f"{which} eps, {first} - {second}",
                        float(values.mean()),
                        spread=standard_error(values),
                    )
                )
    lower = [pair for pair in means["aligned"] if means["aligned"][pair] < means["unaligned"][pair]]
    checks = [
        Check(
            "alignment lowers the mean eps within and between optimizers",
            len(lower) == len(means["aligned"]),
            f"for {len(lower)} of {len(means['aligned'])} pairs of optimizers",
        )
    ]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    centres = [count * (i + 0.5) - 0.5 for i in range(len(recipes))]
    limit = float(eps(matrices["unaligned"]).max())
    for ax, (which, between) in zip(figure.subplots(1, 2), matrices.items(), strict=True):
        barrier_heatmap(between, kind="max", method=None, limit=limit, ax=ax)
        ax.set_title(which)
        ax.set_xticks(centres, list(recipes), rotation=0)
        ax.set_yticks(centres, list(recipes))
    return Result(
        rows,
        checks,
        {
            "data": f"{data.name}, {len(data.train_x)} train and {len(data.test_x)} test images",
            "model": f"MLP 3072-{width}-{width}-{width}-10, LayerNorm",
            "recipe": f"{recipe.schedule}, {recipe.epochs} epochs, batch 256, learning rates "
            f"{ {name: recipe.lr for name, recipe in recipes.items()} }, momentum 0.9 for sgd",
            "networks": f"{count} for each optimizer",
            "aligned": "weight matching of every network to the first",
            "spread": "standard error",
        },
        {which: eps(between).tolist() for which, between in matrices.items()},
        figure,
        "The source shows this as pictures, without numbers. Its public code trains 60 epochs of "
        "all images, augmented, which --full does without the augmentation. The learning rates "
        "above are our own, for runs of a fiftieth of those steps.",
    )


STUDY = Study(
    "cifar-mlp",
    "The same for a 4-layer MLP on CIFAR-10 and four optimizers",
    SOURCE,
    _run,
    "CIFAR-10",
)
