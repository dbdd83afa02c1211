"""An upper bound on the weight-matching objective over all permutations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmc_fast.assignment import solve_assignment
from lmc_fast.matching.objective import WeightProblem
from lmc_fast.matching.places import Unfolded
from lmc_fast.matching.sums import (
    Pairing,
    Products,
    Update,
    add_products,
    new_similarity,
    row_inner_products,
)


def objective_bound(problem: WeightProblem) -> float:
    """Return a number no permutation's objective exceeds; not finite where a weight is not.

    Every tensor is bounded through one of its groups. Where nothing else moves it, its similarity
    matrix is known: for a vector the rearrangement inequality gives the maximum, for the others
    one assignment over their sum does. Elsewhere ``<A_i, P(B)_j> <= |A_i| |B_j|`` (Cauchy-Schwarz;
    norms do not change under the other groups), summed over units by pairing the sorted norms.

    Notes
    -----
    O(size of the weights) plus one assignment for each group with a tensor of the second kind.
    """
    candidates: dict[str, list[Unfolded]] = {}
    for group, entries in problem.unfolded.items():
        if group in problem.spec.parents:
            continue
        for entry in entries:
            name, axis = entry.place.tensor, entry.place.axis
            if len(problem.spec.tensors[name][axis].segments) == 1:
                candidates.setdefault(name, []).append(entry)
    # The first axis' units are contiguous in memory.
    chosen = {
        name: min(entries, key=lambda e: (bool(e.movers), e.place.axis))
        for name, entries in candidates.items()
    }
    total = 0.0
    exact: dict[str, list[Unfolded]] = {}
    by_norm: list[Unfolded] = []
    vectors: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for name, a in problem.a.items():
        place = chosen.get(name)
        if place is None:
            total += a.double().norm().item() * problem.b[name].double().norm().item()
        elif place.movers:
            by_norm.append(place)
        elif name in problem.vectors or a.ndim == 1:
            vectors.append((_columns(a), _columns(problem.b[name])))
        else:
            exact.setdefault(place.place.group, []).append(place)
    total += _paired(vectors) + _paired(_norms(by_norm))
    for known in exact.values():
        doubled = [replace(e, a=e.a.double(), b=e.b.double()) for e in known]
        similarity = new_similarity(doubled[0])
        add_products([Update(similarity, [Products(entry) for entry in doubled], afresh=True)])
        if not np.isfinite(similarity.cpu().numpy()).all():
            return math.nan
        assignment = solve_assignment(similarity, maximize=True)
        total += assignment.objective + assignment.gap
    return total


def _columns(vectors: Tensor) -> NDArray[Any]:
    """Return a vector, or the columns of a matrix, as rows."""
    return vectors.reshape(len(vectors), -1).T.cpu().numpy()


def _paired(pairs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> float:
    """Sum the largest inner products of rows of a and any permutation of those of b."""
    by_size: dict[int, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    for pair in pairs:
        by_size.setdefault(pair[0].shape[-1], []).append(pair)
    total = 0.0
    for alike in by_size.values():
        a, b = (
            torch.from_numpy(np.sort(np.concatenate(side).astype(np.float64)))
            for side in zip(*alike, strict=True)
        )
        total += (a * b).sum().item()
    return total


def _norms(entries: Sequence[Unfolded]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Length of every unit's weights, as one row; the slack covers their rounding to the dtype."""
    sides = [side.contiguous() for entry in entries for side in (entry.a, entry.b)]
    if not sides:
        return []
    squares = row_inner_products([Pairing(rows, rows) for rows in sides])
    slack = [1 + rows[0].numel() * torch.finfo(rows.dtype).eps for rows in sides]
    sizes = [len(rows) for rows in sides]
    # Not by torch, whose threads would spin in the way of the next products' for milliseconds.
    lengths = np.sqrt(squares.cpu().numpy()) * np.repeat(slack, sizes)
    norms = np.split(lengths[None], np.cumsum(sizes)[:-1], axis=1)
    return list(zip(norms[::2], norms[1::2], strict=True))
