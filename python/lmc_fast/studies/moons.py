"""The zoo of Moons networks that the studies of the slides share."""

from __future__ import annotations

from lmc_fast.datasets import Dataset, make_moons
from lmc_fast.nets import MLP
from lmc_fast.recipe import Recipe
from lmc_fast.studies.nets_and_pairs import State, population
from lmc_fast.studies.study import Context

SOURCE = "A. Kalaivanan, On Linear Mode Connectivity up to Permutation of Hidden Neurons (slides)"
RECIPE = Recipe("adamw", lr=0.1, epochs=60, batch_size=256, schedule="onecycle")
SETTINGS = {
    "data": "make_moons(1024, noise=0.1), standardised, 512 train and 512 test",
    "model": "one hidden ReLU layer, one logit",
    "recipe": "AdamW, lr 0.1 OneCycle, 60 epochs, batch 256, binary cross entropy",
}


def widths(context: Context) -> list[int]:
    """Hidden widths of the zoo."""
    return context.choose(quick=[4, 16, 64], default=[2**k for k in range(1, 10)])


def net(width: int) -> MLP:
    """One hidden layer of `width` units and one logit."""
    return MLP((2, width, 1), binary=True)


def dataset(context: Context, draw: int = 0) -> Dataset:
    """One of the draws of the Moons data of this seed."""
    return make_moons(1024, noise=0.1, seed=1000 * context.seed + draw)


def zoo(context: Context, width: int, draw: int = 0) -> list[State]:
    """Networks of one width on one draw of the data, trained as one batch."""
    count = context.choose(quick=6, default=50)
    seeds = [1000 * context.seed + i for i in range(count)]
    data = dataset(context, draw)
    return population(context, f"moons/draw{draw}-w{width}", net(width), data, RECIPE, seeds)
