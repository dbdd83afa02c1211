"""The objective of weight matching: which tensors count, and their exact inner product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmc_fast.gather import axis_index, gather
from lmc_fast.matching.places import Unfolded, places_of, unfold
from lmc_fast.matching.sums import Pairing, row_inner_products
from lmc_fast.permutation import Permutation
from lmc_fast.spec import PermutationSpec


@dataclass(frozen=True)
class WeightProblem:
    """The weights of A and B arranged for coordinate descent.

    Attributes
    ----------
    spec : PermutationSpec
        The groups.
    a, b : dict[str, Tensor]
        The tensors in the objective, in one float dtype.
    unfolded : dict[str, tuple of Unfolded]
        For every group, every place where it moves a tensor.
    quadratic : frozenset of str
        Groups that move one tensor in several places: their assignment is a linearisation.
    """

    spec: PermutationSpec
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    unfolded: dict[str, tuple[Unfolded, ...]]
    quadratic: frozenset[str]


def arrange(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], tensors: Sequence[str]
) -> WeightProblem:
    """Unfold the tensors of the objective once for any number of runs."""
    moved = [name for name in tensors if not all(t.is_fixed for t in spec.tensors[name])]
    dtype = torch.float32
    for name in moved:
        dtype = torch.promote_types(dtype, torch.promote_types(a[name].dtype, b[name].dtype))
    weights_a = {name: a[name].detach().to(dtype).contiguous() for name in moved}
    weights_b = {name: b[name].detach().to(dtype).contiguous() for name in moved}
    unfolded: dict[str, list[Unfolded]] = {name: [] for name in spec.groups}
    for place in places_of(spec, moved):
        name = place.tensor
        unfolded[place.group].append(unfold(spec, place, weights_a[name], weights_b[name]))
    quadratic = frozenset(
        group
        for group, entries in unfolded.items()
        if len({u.place.tensor for u in entries}) < len(entries)
    )
    return WeightProblem(
        spec, weights_a, weights_b, {g: tuple(e) for g, e in unfolded.items() if e}, quadratic
    )


def weight_objective(
    problem: WeightProblem, permutation: Permutation, tensors: Sequence[str] | None = None
) -> float:
    """Return ``sum_t <A_t, P(B_t)>``.

    Short runs of products are summed in the dtype of the weights, the runs in float64.

    Notes
    -----
    O(size of the weights); without a copy of a tensor that moves along its first two axes only.
    """
    still = {g for g, p in permutation.items() if (p.diff(dim=-1) > 0).all()}
    pairings = [
        _pairing(problem, name, permutation, still)
        for name in (problem.a if tensors is None else tensors)
    ]
    return sum(sums.sum().item() for sums in row_inner_products(pairings))


def _pairing(
    problem: WeightProblem, name: str, permutation: Permutation, still: set[str]
) -> Pairing:
    a, b = problem.a[name], problem.b[name]
    terms = problem.spec.tensors[name]
    indices = {
        axis: axis_index(problem.spec, terms, axis, permutation)
        for axis, term in enumerate(terms)
        if not still.issuperset(term.groups)
    }
    if any(axis > 1 or index.ndim > 1 for axis, index in indices.items()):
        return Pairing(a, gather(problem.spec, terms, permutation, b).contiguous())
    return Pairing(a, b, indices.get(0), indices.get(1))
