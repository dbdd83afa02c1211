"""Two training runs with all their checkpoints, which the trajectory studies share."""

from __future__ import annotations

import torch
from torch import nn

from lmc_fast import PermutationSpec
from lmc_fast.datasets import Dataset
from lmc_fast.nets import MLP, VGG16
from lmc_fast.recipe import Recipe
from lmc_fast.studies.nets_and_pairs import State, mlp_spec
from lmc_fast.studies.study import Context
from lmc_fast.training import train

SOURCE = "Sharma, Kwok, Denton, Roy, Rolnick, Dziugaite, arXiv 2404.06498"


def setting(context: Context) -> tuple[nn.Module, PermutationSpec, Dataset, Recipe]:
    """Return architecture, spec, data and recipe: the paper's VGG-16 at full scale."""
    if context.scale == "full":
        net = VGG16(64, norm="layernorm").to(context.device)
        data = context.cifar10()
        recipe = Recipe(
            "sgd",
            lr=0.1,
            momentum=0.9,
            weight_decay=1e-4,
            epochs=160,
            batch_size=128,
            schedule="steps",
            warmup=1,
            milestones=(80, 120),
            augment=True,
        )
        return net, PermutationSpec.from_model(net, data.test_x[:2]), data, recipe
    width = context.choose(quick=32, default=256)
    mlp = MLP((784, width, width, width, 10), norm="layernorm")
    data = context.mnist(*context.choose(quick=(2000, 1000), default=(None, None)))
    epochs = context.choose(quick=4, default=20)
    recipe = Recipe(
        "sgd",
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-4,
        epochs=epochs,
        batch_size=128,
        schedule="steps",
        warmup=1,
        milestones=(epochs // 2, 3 * epochs // 4),
    )
    return mlp, mlp_spec(mlp), data, recipe


def epochs_of(context: Context) -> list[int]:
    """Epochs whose checkpoints are kept."""
    return context.choose(
        quick=[0, 1, 2, 4],
        default=[0, 1, 2, 3, 5, 8, 10, 12, 16, 20],
        full=[0, 1, 3, 5, 10, 20, 50, 80, 110, 150, 160],
    )


def runs(context: Context) -> tuple[list[State], list[State]]:
    """Train two networks from different seeds and return their checkpoints."""
    net, _, data, recipe = setting(context)
    kept = epochs_of(context)

    def run(seed: int) -> list[State]:
        states: list[State] = []

        def keep(epoch: int, model: nn.Module) -> None:
            if epoch in kept:
                states.append({k: v.clone() for k, v in model.state_dict().items()})

        train(net, data, recipe, seed=seed, on_epoch=keep, progress=context.progress)
        return states

    seed = 2000 * context.seed
    settings = (recipe, kept, str(net), data.name, len(data.train_x))
    return (
        context.part("runs/a", settings, lambda: run(seed + 1)),
        context.part("runs/b", settings, lambda: run(seed + 2)),
    )


def evaluation(context: Context, data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the part of the training set on which these studies measure barriers."""
    count = context.choose(quick=1000, default=2000, full=10_000)
    return data.train_x[:count], data.train_y[:count]
