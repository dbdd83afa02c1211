"""The objective of weight matching: which tensors count, and their exact inner product."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lmc_fast.gather import axis_index, gather
from lmc_fast.matching.places import Unfolded, places_of, unfold
from lmc_fast.matching.sums import Pairing, row_inner_products
from lmc_fast.notation import Term, fixed
from lmc_fast.permutation import Permutation
from lmc_fast.spec import PermutationSpec


@dataclass(frozen=True)
class WeightProblem:
    """The weights of A and B arranged for coordinate descent.

    Attributes
    ----------
    spec : PermutationSpec
        The groups, and what they do to the tensors below.
    a, b : dict[str, Tensor]
        The tensors in the objective, in one float dtype, but for fixed ones. Vectors of one group
        are the columns of one matrix under their names in a row: it is read and multiplied in the
        time of any of them.
    vectors : frozenset of str
        Names of such matrices.
    unfolded : dict[str, tuple of Unfolded]
        For every group, every place where it moves a tensor.
    quadratic : frozenset of str
        Groups that move one tensor in several places: their assignment is a linearisation.
    """

    spec: PermutationSpec
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    vectors: frozenset[str]
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
    weights_a, weights_b = (
        {name: state[name].to(dtype).contiguous() for name in moved} for state in (a, b)
    )
    terms = {name: spec.tensors[name] for name in moved}
    vectors = _vectors_of(spec, moved)
    for group, names in vectors.items():
        for weights in (weights_a, weights_b):
            weights[" ".join(names)] = torch.stack([weights.pop(name) for name in names], 1)
        for name in names:
            del terms[name]
        terms[" ".join(names)] = (Term(((group,),)), fixed(len(names)))
    spec = replace(spec, tensors=terms)
    unfolded: dict[str, list[Unfolded]] = {name: [] for name in spec.groups}
    for place in places_of(spec, terms):
        name = place.tensor
        unfolded[place.group].append(unfold(spec, place, weights_a[name], weights_b[name]))
    quadratic = frozenset(
        group
        for group, entries in unfolded.items()
        if len({u.place.tensor for u in entries}) < len(entries)
    )
    return WeightProblem(
        spec,
        weights_a,
        weights_b,
        frozenset(" ".join(names) for names in vectors.values()),
        {g: tuple(e) for g, e in unfolded.items() if e},
        quadratic,
    )


def _vectors_of(spec: PermutationSpec, tensors: Iterable[str]) -> dict[str, list[str]]:
    """Names of the tensors with one axis that a group moves which has no part in a nesting."""
    nested = {*spec.parents, *spec.parents.values()}
    vectors: dict[str, list[str]] = {}
    for name in tensors:
        terms = spec.tensors[name]
        factors = [f for term in terms for segment in term.segments for f in segment]
        if len(terms) == len(factors) == 1 and factors[0] not in nested:
            vectors.setdefault(str(factors[0]), []).append(name)
    return vectors


def weight_objective(
    problem: WeightProblem, permutation: Permutation, tensors: Sequence[str] | None = None
) -> float:
    """Return ``sum_t <A_t, P(B_t)>``.

    Short runs of products are summed in the dtype of the weights, the runs in float64.

    Notes
    -----
    O(size of the weights); without a copy of a tensor that moves along its first two axes only.
    """
    pairings = [
        _pairing(problem, name, permutation) for name in (problem.a if tensors is None else tensors)
    ]
    return row_inner_products(pairings).sum().item()


def _pairing(problem: WeightProblem, name: str, permutation: Permutation) -> Pairing:
    a, b = problem.a[name], problem.b[name]
    terms = problem.spec.tensors[name]
    indices = {
        axis: axis_index(problem.spec, terms, axis, permutation)
        for axis, term in enumerate(terms)
        if term.groups
    }
    if any(axis > 1 or index.ndim > 1 for axis, index in indices.items()):
        return Pairing(a, gather(problem.spec, terms, permutation, b).contiguous())
    return Pairing(a, b, indices.get(0), indices.get(1))
