"""``python -m bench full_scale``: do the networks of ``lmc-fast study --full`` start correctly.

Trains two VGG-16 of width 64 with LayerNorm (trajectory and matchers) and two ResNet-20 of width 64
with BatchNorm (depth-repair) through the first epoch of their published recipes, on a part of
CIFAR-10 as a processor can bear, then derives, matches and interpolates them. The figures go to
``bench/results/full_scale.json``.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lmc_fast import barrier, match
from lmc_fast.datasets import Dataset
from lmc_fast.nets import resnet20
from lmc_fast.recipe import Recipe
from lmc_fast.studies import Context, depth_repair, runs
from lmc_fast.training import evaluate, train
from torch import nn

from bench.record import store


class FirstEpochDone(Exception):
    """The first epoch is over; carries the loss before it and the network after it."""


def first_epoch(net: nn.Module, data: Dataset, recipe: Recipe, seed: int) -> tuple[float, Any]:
    """Train through the first epoch of the recipe; return the loss before and the network after."""
    before = 0.0

    def stop(epoch: int, model: nn.Module) -> None:
        nonlocal before
        if epoch == 1:
            raise FirstEpochDone(model)
        before = evaluate(model, data.train_x, data.train_y, batch_size=100)[0]

    try:
        train(net, data, recipe, seed=seed, on_epoch=stop)
    except FirstEpochDone as done:
        return before, done.args[0].eval()
    raise RuntimeError("expected a recipe of at least one epoch")


def measure(net: nn.Module, data: Dataset, recipe: Recipe) -> dict[str, Any]:
    start = time.perf_counter()
    (before, a), (_, b) = (first_epoch(net, data, recipe, seed) for seed in (1, 2))
    trained = time.perf_counter() - start
    after, error = evaluate(a, data.train_x, data.train_y, batch_size=100)
    matching = match(a, b, example_inputs=data.test_x[:2])
    moved = matching.apply(b)
    with torch.no_grad():
        change = float((moved(data.test_x) - b(data.test_x)).abs().max())
    points = (data.test_x, data.test_y)
    curves = {
        name: barrier(a, b, points, permutation=permutation, alphas=3)
        for name, permutation in (("unaligned", None), ("aligned", matching))
    }
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "recipe": str(recipe),
        "images": len(data.train_x),
        "data": data.name,
        "steps": -(-len(data.train_x) // recipe.batch_size),
        "seconds of training": round(trained, 1),
        "train loss before": round(before, 4),
        "train loss after": round(after, 4),
        "train accuracy after": round(1 - error, 4),
        "groups": len(matching.permutation),
        "largest change of an output by the permutation": change,
        "midpoint loss": {name: round(float(c.loss[1]), 4) for name, c in curves.items()},
    }


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench full_scale")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=1280, help="training images of the epoch")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as out:
        context = Context("full_scale", "full", 0, Path(out), args.data_dir)
        vgg, _, data, recipe = runs.setting(context)
    some = data.take(args.images, 200)
    results = {
        "VGG-16, LayerNorm, width 64": measure(vgg, some, recipe),
        "ResNet-20, BatchNorm, width 64": measure(resnet20(64), some, depth_repair.RESNET_RECIPE),
    }
    print(store("full_scale", {"results": results}))
