"""Training recipes: optimizer, schedule and initial weights as one value to record."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "adagrad")
SCHEDULES = ("constant", "onecycle", "cosine", "triangle", "steps", "anneal")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Parameters
    ----------
    optimizer
        "adam", "adamw", "sgd", "rmsprop" or "adagrad", with torch's defaults where nothing is said.
    lr
        Learning rate, the largest of the schedule.
    epochs, batch_size
        Passes over the training set; examples per step. The last, smaller batch is kept.
    schedule
        Learning rate over the steps: "constant", "onecycle" (torch's OneCycleLR), "cosine" to 0,
        "triangle" (from 0 to `lr` over `warmup` epochs, then linearly to 0), "steps" (a tenth
        at each epoch of `milestones`, after a linear warm-up over `warmup` epochs) or "anneal"
        (cosine from `first_lr` to `lr` over `warmup` epochs, then constant, as torch's SWALR).
    momentum
        Of "sgd".
    weight_decay
        Passed to the optimizer; None keeps its default (0.01 for "adamw", else 0).
    warmup, milestones, first_lr
        See `schedule`; the first two in epochs.
    augment
        Pad images by an eighth of their height, crop at random and mirror half of them.
    init
        "default" (torch's), "kaiming_normal" or "kaiming_uniform" for the weights of linear and
        convolutional layers.
    """

    optimizer: str = "adam"
    lr: float = 1e-3
    epochs: int = 10
    batch_size: int = 256
    schedule: str = "constant"
    momentum: float = 0.0
    weight_decay: float | None = None
    warmup: float = 0.0
    milestones: tuple[int, ...] = ()
    first_lr: float = 0.0
    augment: bool = False
    init: str = "default"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: expected one of {OPTIMIZERS}, got {self.optimizer!r}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule: expected one of {SCHEDULES}, got {self.schedule!r}")
        if self.init not in ("default", "kaiming_normal", "kaiming_uniform"):
            raise ValueError(
                "init: expected 'default', 'kaiming_normal' or 'kaiming_uniform', "
                f"got {self.init!r}"
            )
        if self.epochs < 0 or self.batch_size < 1 or not self.lr > 0:
            raise ValueError(
                "recipe: expected epochs >= 0, batch_size >= 1 and lr > 0, got "
                f"{self.epochs}, {self.batch_size} and {self.lr}"
            )


def make_optimizer(recipe: Recipe, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Build the recipe's optimizer over `parameters`."""
    decay: dict[str, Any] = (
        {} if recipe.weight_decay is None else {"weight_decay": recipe.weight_decay}
    )
    params = list(parameters)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(params, lr=recipe.lr, **decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(params, lr=recipe.lr, **decay)
    if recipe.optimizer == "rmsprop":
        return torch.optim.RMSprop(params, lr=recipe.lr, **decay)
    if recipe.optimizer == "adagrad":
        return torch.optim.Adagrad(params, lr=recipe.lr, **decay)
    return torch.optim.SGD(params, lr=recipe.lr, momentum=recipe.momentum, **decay)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_rates(
    optimizer: torch.optim.Optimizer, recipe: Recipe, step: int, steps_per_epoch: int
) -> None:
    """Set the learning rate (and the momentum of "onecycle") for `step`, counted from 0."""
    total = max(1, recipe.epochs * steps_per_epoch)
    warmup = recipe.warmup * steps_per_epoch
    rising = min(1.0, (step + 1) / warmup) if warmup else 1.0
    factor, momentum = 1.0, None
    if recipe.schedule == "onecycle":
        # Torch's OneCycleLR: up over 30 % of the steps, then down; momentum the other way round.
        peak = 0.3 * total - 1
        if step <= peak:
            factor, momentum = _cosine(0.04, 1, step / peak), _cosine(0.95, 0.85, step / peak)
        else:
            share = (step - peak) / (total - 1 - peak)
            factor, momentum = _cosine(1, 4e-6, share), _cosine(0.85, 0.95, share)
    elif recipe.schedule == "cosine":
        factor = _cosine(1, 0, step / total)
    elif recipe.schedule == "triangle":
        factor = min(rising, (total - step) / max(1.0, total - warmup))
    elif recipe.schedule == "steps":
        passed = sum(step >= epoch * steps_per_epoch for epoch in recipe.milestones)
        factor = rising * 0.1**passed
    elif recipe.schedule == "anneal":
        share = min(1.0, step / warmup) if warmup else 1.0
        factor = _cosine(recipe.first_lr / recipe.lr, 1, share)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * factor
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None and recipe.optimizer == "sgd":
            group["momentum"] = momentum


@torch.no_grad()
def initialise(model: nn.Module, generator: torch.Generator, *, init: str = "default") -> None:
    """Draw the parameters of `model` anew, in place, from `generator` alone.

    Linear and convolutional layers follow torch's defaults (uniform within 1 / sqrt(fan in)) or,
    for their weights, `init` as in `Recipe`; normalisation layers go back to scale 1, bias 0 and
    fresh statistics.

    Raises
    ------
    TypeError
        The model has a parameter in a layer of another type.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            fan_in = module.weight[0].numel()
            bound = 1 / math.sqrt(fan_in)
            if init == "kaiming_normal":
                module.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
            else:
                limit = math.sqrt(6 / fan_in) if init == "kaiming_uniform" else bound
                module.weight.uniform_(-limit, limit, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.LayerNorm | nn.GroupNorm | _BatchNorm):
            module.reset_parameters()
        elif next(module.parameters(recurse=False), None) is not None:
            raise TypeError(
                f"initialise: expected linear, convolutional and normalisation layers, got "
                f"{type(module).__name__} at {name or 'the root'}"
            )
