"""Iterative magnitude pruning (IMP) with rewinding (Frankle and Carbin 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmc_fast.datasets import Dataset
from lmc_fast.recipe import Recipe
from lmc_fast.training import train


@dataclass(frozen=True)
class PruningLevel:
    """A network trained under its masks; `density` is the share of weights left in those."""

    state: dict[str, Tensor]
    masks: dict[str, Tensor]
    density: float


def prune_smallest(
    state: Mapping[str, Tensor], masks: Mapping[str, Tensor], share: float
) -> dict[str, Tensor]:
    """Mask the smallest of the weights that are left, by magnitude over all masked tensors.

    Parameters
    ----------
    state
        Weights.
    masks
        0/1 masks of the tensors that may be pruned, of their shapes.
    share
        Share of the weights left that goes, 0 to 1; of equal magnitudes the first stay.

    Returns
    -------
    dict of Tensor
        The new masks: subsets of the old ones.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share: expected 0 to 1, got {share}")
    kept = torch.cat([mask.flatten().bool() for mask in masks.values()])
    magnitude = torch.cat([state[name].detach().abs().flatten() for name in masks])
    left = int(kept.sum())
    order = torch.where(kept, magnitude, -1.0).argsort(descending=True, stable=True)
    flat = torch.zeros(len(kept))
    flat[order[: left - round(share * left)]] = 1
    parts = torch.split(flat, [mask.numel() for mask in masks.values()])
    return {
        name: part.view_as(mask).to(mask.dtype)
        for (name, mask), part in zip(masks.items(), parts, strict=True)
    }


def iterative_magnitude_pruning(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    levels: int,
    share: float = 0.2,
    rewind_epoch: int = 0,
    names: Sequence[str] | None = None,
    progress: bool = False,
) -> list[PruningLevel]:
    """Train, prune a share of the weights, rewind the others to an early epoch, and again.

    Parameters
    ----------
    model, data, recipe, seed, progress
        As in `train`.
    levels
        Levels after the dense one, which is level 0 of the result.
    share
        Share of the remaining weights that each level prunes, over all tensors together.
    rewind_epoch
        Epoch of the dense run that the remaining weights go back to.
    names
        Tensors that are pruned; every parameter of two or more axes by default.

    Returns
    -------
    list of PruningLevel
        levels + 1 trained networks, the dense one first.
    """
    if not 0 <= rewind_epoch <= recipe.epochs:
        raise ValueError(f"rewind_epoch: expected 0 to {recipe.epochs}, got {rewind_epoch}")
    parameters = dict(model.named_parameters())
    chosen = [n for n, p in parameters.items() if p.ndim >= 2] if names is None else list(names)
    masks = {name: torch.ones_like(parameters[name]).detach() for name in chosen}
    rewound: dict[str, Tensor] = {}

    def keep(epoch: int, net: nn.Module) -> None:
        if epoch == rewind_epoch:
            rewound.update({name: value.clone() for name, value in net.state_dict().items()})

    net = train(model, data, recipe, seed=seed, on_epoch=keep, progress=progress)
    found = [PruningLevel(_copied(net), masks, 1.0)]
    for _ in range(levels):
        masks = prune_smallest(found[-1].state, masks, share)
        net = train(
            model,
            data,
            recipe,
            seed=seed,
            initial=rewound,
            first_epoch=rewind_epoch,
            masks=masks,
            progress=progress,
        )
        total = sum(mask.numel() for mask in masks.values())
        density = sum(float(mask.sum()) for mask in masks.values()) / total
        found.append(PruningLevel(_copied(net), masks, density))
    return found


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}
