"""An upper bound on the weight-matching objective over all permutations."""

from __future__ import annotations

import torch
from torch import Tensor

from lmc_fast.assignment import solve_assignment
from lmc_fast.matching.places import Unfolded
from lmc_fast.matching.weights import WeightProblem


def objective_bound(problem: WeightProblem) -> float:
    """Return a number no permutation's objective exceeds.

    Every tensor is bounded through one of its groups. Where nothing else moves it, its similarity
    matrix is known: for a vector the rearrangement inequality gives the maximum, for the others
    one assignment over their sum does. Elsewhere ``<A_i, P(B)_j> <= |A_i| |B_j|`` (Cauchy-Schwarz;
    norms do not change under the other groups), summed over units by pairing the sorted norms.

    Notes
    -----
    O(size of the weights) plus one assignment for each group with a tensor of the second kind.
    """
    chosen: dict[str, Unfolded] = {}
    for group, entries in problem.unfolded.items():
        if group in problem.spec.parents:
            continue
        for entry in entries:
            name, axis = entry.place.tensor, entry.place.axis
            whole = len(problem.spec.tensors[name][axis].segments) == 1
            if whole and (name not in chosen or (bool(chosen[name].movers) and not entry.movers)):
                chosen[name] = entry
    total = 0.0
    exact: dict[str, list[Unfolded]] = {}
    for name, a in problem.a.items():
        place = chosen.get(name)
        if place is None:
            total += a.double().norm().item() * problem.b[name].double().norm().item()
        elif place.movers:
            total += _paired(_norms(place, place.a), _norms(place, place.b))
        elif a.ndim == 1:
            total += _paired(a.double(), problem.b[name].double())
        else:
            exact.setdefault(place.place.group, []).append(place)
    for known in exact.values():
        similarity = torch.zeros(known[0].units, known[0].units, dtype=torch.float64)
        for entry in known:
            left, right = entry.products(entry.a, entry.b)
            similarity += (left.double() @ right.double()).cpu()
        assignment = solve_assignment(similarity, maximize=True)
        total += assignment.objective + assignment.gap
    return total


def _paired(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.sort().values, b.sort().values).item()


def _norms(entry: Unfolded, tensor: Tensor) -> Tensor:
    """Length of every unit's weights; the slack covers their rounding to the dtype."""
    rows = tensor.flatten(0, 1).T if entry.units_last else tensor.flatten(1)
    norms: Tensor = torch.linalg.vecdot(rows, rows).double().sqrt()
    return norms * (1 + rows.shape[1] * torch.finfo(tensor.dtype).eps)
