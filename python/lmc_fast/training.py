"""Training of reference networks, one at a time or a whole population of them as one batch.

Everything random (initial weights, order of the examples, augmentation) is drawn from generators
made from the given seeds; the global generators are left alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmc_fast.datasets import Dataset
from lmc_fast.progress import progress_bar
from lmc_fast.recipe import Recipe, initialise, make_optimizer, set_rates


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crop padded images at random and mirror half of them: (batch, channels, h, w)."""
    batch, _, height, width = images.shape
    pad = height // 8
    padded = functional.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1), generator=generator)
    mirror = torch.randint(0, 2, (batch, 1), generator=generator).bool()
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    columns = torch.where(mirror, columns.flip(1), columns)
    places = (torch.arange(batch).view(-1, 1, 1), rows.unsqueeze(2), columns.unsqueeze(1))
    example, row, column = (place.to(images.device) for place in places)
    return padded[example, :, row, column].permute(0, 3, 1, 2)


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int,
    initial: Mapping[str, Tensor] | None = None,
    first_epoch: int = 0,
    masks: Mapping[str, Tensor] | None = None,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    on_step: Callable[[int, float], None] | None = None,
    steps: int | None = None,
    progress: bool = False,
) -> nn.Module:
    """Train a copy of `model` on the training half of `data` and return it in eval mode.

    It trains on the device that holds the data, from the same initial weights and in the same
    order on every device.

    Parameters
    ----------
    model
        The architecture; its weights are drawn anew from `seed` and it is not changed.
    seed
        Decides the initial weights, the order of the examples and the augmentation.
    initial
        State dict to start from instead.
    first_epoch
        Epochs of the recipe that `initial` has behind it: training goes on at that point of the
        schedule and of the sequence of orders.
    masks
        Per parameter name a 0/1 tensor: those weights are 0 from the start and stay 0.
    on_epoch
        Called with (epochs done, model in eval mode) before the first epoch and after each.
    on_step
        Called after each step with (steps done, the loss of its examples before it).
    steps
        Stop after this many steps, counted from the recipe's start, of a schedule that stays that
        of all epochs.
    progress
        Show a progress bar on stderr.

    Raises
    ------
    FloatingPointError
        The training loss is no longer finite.
    ValueError
        `steps` is not beyond `first_epoch`.
    """
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model).cpu()
    initialise(model, generator, init=recipe.init)
    if initial is not None:
        model.load_state_dict(dict(initial))
    device = data.train_x.device
    model.to(device)
    parameters = dict(model.named_parameters())
    masked = [(parameters[name], mask.to(device)) for name, mask in (masks or {}).items()]
    count, size = len(data.train_x), recipe.batch_size
    steps_per_epoch = -(-count // size)
    total = recipe.epochs * steps_per_epoch
    last = total if steps is None else min(steps, total)
    if steps is not None and steps <= first_epoch * steps_per_epoch:
        raise ValueError(
            f"steps: expected more than the {first_epoch * steps_per_epoch} of {first_epoch} "
            f"epochs, got {steps}"
        )
    optimizer = make_optimizer(recipe, parameters.values())

    def apply_masks() -> None:
        with torch.no_grad():
            for parameter, mask in masked:
                parameter.mul_(mask)

    def report(epoch: int) -> None:
        model.eval()
        if on_epoch is not None:
            on_epoch(epoch, model)
        model.train()

    apply_masks()
    report(first_epoch)
    with progress_bar(
        total=recipe.epochs,
        initial=first_epoch,
        desc="train",
        unit="epoch",
        show=progress,
    ) as bar:
        for epoch in range(-(-last // steps_per_epoch)):
            order = torch.randperm(count, generator=generator).to(device)
            if epoch < first_epoch:
                continue
            for step in range(epoch * steps_per_epoch, min((epoch + 1) * steps_per_epoch, last)):
                set_rates(optimizer, recipe, step, steps_per_epoch)
                start = (step - epoch * steps_per_epoch) * size
                chosen = order[start : start + size]
                inputs = data.train_x[chosen]
                if recipe.augment:
                    inputs = _augmented(inputs, generator)
                loss = functional.cross_entropy(model(inputs), data.train_y[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                apply_masks()
                if on_step is not None:
                    on_step(step + 1, float(loss.detach()))
            if not bool(torch.isfinite(loss)):
                raise FloatingPointError(
                    f"train: expected a finite loss, got {loss.item()} in epoch {epoch + 1}; "
                    "lower the learning rate"
                )
            if last < (epoch + 1) * steps_per_epoch:
                break
            report(epoch + 1)
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}", refresh=False)
            bar.update()
    return model.eval()


def train_population(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seeds: Sequence[int],
    progress: bool = False,
) -> list[dict[str, Tensor]]:
    """Train one network for each seed, all as one batch, and return their state dicts.

    Each network is the one that `train` gives for its seed, up to rounding: its own initial
    weights and its own order of the examples, on stacked parameters through `torch.func.vmap`.
    Worth it where a single network is too small to keep the processor busy.

    Raises
    ------
    ValueError
        The model has buffers, such as BatchNorm's running statistics, or the recipe augments.
    """
    if not seeds:
        raise ValueError("seeds: expected at least one, got none")
    if next(model.buffers(), None) is not None or recipe.augment:
        raise ValueError(
            "train_population: expected a model without buffers and a recipe without augmentation; "
            "train the networks one by one"
        )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    device = data.train_x.device
    states = []
    for generator in generators:
        net = copy.deepcopy(model).cpu()
        initialise(net, generator, init=recipe.init)
        states.append({name: p.detach() for name, p in net.named_parameters()})
    stacked = {
        name: torch.stack([state[name] for state in states]).to(device).requires_grad_()
        for name in states[0]
    }
    base = copy.deepcopy(model).train()

    def net_loss(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = torch.func.functional_call(base, parameters, (inputs,), strict=True)
        return functional.cross_entropy(outputs, targets)

    losses_of = torch.func.vmap(net_loss)
    count, size = len(data.train_x), recipe.batch_size
    steps_per_epoch = -(-count // size)
    optimizer = make_optimizer(recipe, stacked.values())
    with progress_bar(total=recipe.epochs, desc="train", unit="epoch", show=progress) as bar:
        for epoch in range(recipe.epochs):
            orders = torch.stack([torch.randperm(count, generator=g) for g in generators])
            orders = orders.to(device)
            for index, start in enumerate(range(0, count, size)):
                set_rates(optimizer, recipe, epoch * steps_per_epoch + index, steps_per_epoch)
                chosen = orders[:, start : start + size]
                losses = losses_of(stacked, data.train_x[chosen], data.train_y[chosen])
                optimizer.zero_grad()
                losses.sum().backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            if not bool(torch.isfinite(losses).all()):
                raise FloatingPointError(
                    f"train_population: expected finite losses, got {losses.tolist()} in epoch "
                    f"{epoch + 1}; lower the learning rate"
                )
            bar.set_postfix(loss=f"{float(losses.detach().mean()):.3f}", refresh=False)
            bar.update()
    return [
        {name: values[i].detach().clone() for name, values in stacked.items()}
        for i in range(len(seeds))
    ]


@torch.no_grad()
def evaluate(
    model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 2000
) -> tuple[float, float]:
    """Mean cross entropy and error (1 - accuracy) of `model`, in eval mode, on inputs `x`."""
    if len(x) == 0:
        raise ValueError("evaluate: expected at least one example, got none")
    training = model.training
    model.eval()
    loss, wrong = 0.0, 0
    try:
        for start in range(0, len(x), batch_size):
            inputs, targets = x[start : start + batch_size], y[start : start + batch_size]
            outputs = model(inputs)
            loss += float(functional.cross_entropy(outputs, targets, reduction="sum"))
            wrong += int((outputs.argmax(1) != targets).sum())
    finally:
        model.train(training)
    return loss / len(x), wrong / len(x)
