"""What several studies share: specs of MLPs, populations on disk, barriers of all pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

from lmc_fast import BarrierMatrix, PermutationSpec, barrier_matrix, match
from lmc_fast.charts import trend
from lmc_fast.datasets import Dataset
from lmc_fast.matching import Matching
from lmc_fast.nets import MLP
from lmc_fast.recipe import Recipe
from lmc_fast.studies.study import Context, Row
from lmc_fast.training import evaluate, train_population

State = dict[str, Tensor]
Net = TypeVar("Net", bound=nn.Module)
ALPHAS = 11
QUANTITIES = ("train loss", "test loss", "train accuracy", "test accuracy")


def mlp_spec(model: MLP) -> PermutationSpec:
    """Return the spec of an `MLP`: one group for each hidden layer, LayerNorm's scale included."""
    lines = []
    before = str(model.linears[0].in_features) if len(model.linears) else ""
    for i, linear in enumerate(model.linears):
        lines += [
            f"hidden{i} = {linear.out_features}",
            f"linears.{i}.weight: hidden{i} {before}",
            f"linears.{i}.bias: hidden{i}",
        ]
        if isinstance(model.norms[i], nn.LayerNorm):
            lines += [f"norms.{i}.weight: hidden{i}", f"norms.{i}.bias: hidden{i}"]
        before = f"hidden{i}"
    lines += [f"head.weight: {model.head.out_features} {before}"]
    lines += [f"head.bias: {model.head.out_features}"]
    return PermutationSpec.parse("\n".join(lines))


def population(
    context: Context,
    key: str,
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    seeds: Sequence[int],
) -> list[State]:
    """Train a population, or read it back where a study of this seed and scale has done so."""
    return context.part(
        key,
        (recipe, tuple(seeds), str(model), data.name, len(data.train_x)),
        lambda: train_population(model, data, recipe, seeds=seeds, progress=context.progress),
    )


def with_state(model: Net, state: State) -> Net:
    """Load `state` into `model`, in eval mode, and return it."""
    model.load_state_dict(state)
    return model.eval()


def scores(model: nn.Module, states: Sequence[State], data: Dataset) -> Tensor:
    """Return the `QUANTITIES` of every state, float64 of shape (states, 4)."""
    found = []
    for state in states:
        net = with_state(model, state)
        train_loss, train_error = evaluate(net, data.train_x, data.train_y)
        test_loss, test_error = evaluate(net, data.test_x, data.test_y)
        found.append((train_loss, test_loss, 1 - train_error, 1 - test_error))
    return torch.tensor(found, dtype=torch.float64)


def losses_by_width(found: Mapping[int, Sequence[Row]], *, ax: Axes) -> None:
    """Draw both losses of a zoo, with spreads, beside the published ones.

    `found` has by width one row for each of the `QUANTITIES`, in that order, and perhaps others.
    """
    losses = list(enumerate(QUANTITIES[:2]))
    trend(
        list(found),
        {name: [rows[i].ours for rows in found.values()] for i, name in losses},
        errors={name: [rows[i].spread or 0.0 for rows in found.values()] for i, name in losses},
        published={name: [rows[i].published for rows in found.values()] for i, name in losses},
        xlabel="width",
        ylabel="loss",
        log_x=True,
        linear_below=1e-3,
        ax=ax,
    )


def aligned_to(
    spec: PermutationSpec, states: Sequence[State], reference: int = 0
) -> tuple[list[State], list[Matching | None]]:
    """Align every state to one of them by weights; the reference itself has no matching."""
    aligned: list[State] = []
    matchings: list[Matching | None] = []
    for i, state in enumerate(states):
        if i == reference:
            aligned.append(state)
            matchings.append(None)
            continue
        generator = torch.Generator().manual_seed(i)
        matching = match(states[reference], state, spec=spec, generator=generator)
        aligned.append(matching.apply(state))
        matchings.append(matching)
    return aligned, matchings


def all_pairs(
    model: nn.Module,
    states: Sequence[State],
    inputs: Tensor,
    targets: Tensor,
    **options: Any,
) -> BarrierMatrix:
    """Return the curves between all pairs at `ALPHAS` points; `options` go to `barrier_matrix`."""
    return barrier_matrix(states, (inputs, targets), model=model, alphas=ALPHAS, **options)


def eps(matrix: BarrierMatrix) -> Tensor:
    """Return eps, the "max" barrier of the loss, of every pair: symmetric, zero diagonal."""
    return torch.as_tensor(matrix.loss_barrier("max"))


def pairs_of(matrix: Tensor) -> Tensor:
    """Return the entries above the diagonal, one for each pair."""
    rows, columns = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[rows, columns]


def standard_error(values: Tensor) -> float:
    """Return the standard error of the mean; 0 for a single value."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else 0.0
