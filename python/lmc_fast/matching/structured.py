"""Two-level assignment: outer units whose inner units are matched pair by pair.

Attention heads are the outer units, the channels within each head the inner ones. The inner
assignments of a pair of outer units give the value of matching that pair, and the assignment over
these values is exact for the whole. Where two inner groups share an axis (query heads and channels
within a key-value group) their assignments alternate; each step can only raise the value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmc_fast.assignment import Assignment, linear_sum_assignment, solve_assignment
from lmc_fast.permutation import Permutation, compose
from lmc_fast.spec import PermutationSpec

MAX_ROUNDS = 20
"""Alternations between inner groups that share an axis."""


@dataclass(frozen=True)
class Piece:
    """A share of the similarity of two models, by outer unit and up to two inner groups.

    Attributes
    ----------
    inner : tuple of str
        The inner groups, in the order of the dimensions.
    similarity : Tensor, shape (outer, *inner, outer, *inner)
        Units of A, then of B.
    """

    inner: tuple[str, ...]
    similarity: Tensor


@dataclass(frozen=True)
class StructuredAssignment:
    """The solution for one outer group and the groups nested in it.

    Attributes
    ----------
    outer : Assignment
        Of the outer units, on the values of their inner assignments.
    similarity : Tensor, shape (outer, outer)
        These values.
    inner : dict[str, Tensor]
        For every inner group the chosen units, shape (outer, inner).
    identity, matched : float
        Mean value of the outer units paired by position, and as matched.
    """

    outer: Assignment
    similarity: Tensor
    inner: dict[str, Tensor]
    identity: float
    matched: float

    @property
    def gain(self) -> float:
        """Value gained over the identity, the starting point."""
        return (self.matched - self.identity) * len(self.outer.cols)


def families_of(spec: PermutationSpec) -> dict[str, tuple[str, ...]]:
    """Return every outer group with the groups nested in it."""
    families: dict[str, tuple[str, ...]] = {}
    for inner, outer in spec.parents.items():
        families[outer] = (*families.get(outer, ()), inner)
    return families


def solve_structured(
    sizes: Mapping[str, int], outer: str, pieces: Sequence[Piece]
) -> StructuredAssignment:
    """Match outer units and, within every pair of them, the inner units.

    Parameters
    ----------
    sizes : Mapping[str, int]
        Units of every group.
    outer : str
        The outer group.
    pieces : sequence of Piece
        What is to be maximised, summed.

    Notes
    -----
    ``outer^2`` inner assignments for every inner group. Exact where no two inner groups share a
    piece; else a local optimum, at least as good as the identity.
    """
    n = sizes[outer]
    names = list(dict.fromkeys(name for piece in pieces for name in piece.inner))
    still = {
        c: torch.arange(sizes[c], device=pieces[0].similarity.device).expand(n, n, sizes[c])
        for c in names
    }
    shared = any(len(piece.inner) > 1 for piece in pieces)
    value, inner = _alternate(pieces, names, still, fresh=True)
    if shared:
        other_value, other = _alternate(pieces, names, still, fresh=False)
        better = other_value > value
        value = torch.where(better, other_value, value)
        inner = {c: torch.where(better[..., None], other[c], inner[c]) for c in names}
    before = _value(pieces, still).diagonal()
    assignment = solve_assignment(
        value, maximize=True, ties="keep", prefer=torch.arange(n, device=value.device)
    )
    rows = torch.arange(n, device=value.device)
    return StructuredAssignment(
        assignment,
        value,
        {c: inner[c][rows, assignment.cols] for c in names},
        before.double().mean().item(),
        value[rows, assignment.cols].double().mean().item(),
    )


def value_of(piece: Piece, outer: str, permutation: Permutation) -> float:
    """Return what a piece is worth under a permutation of its groups."""
    k = len(piece.inner)
    sizes = piece.similarity.shape[: k + 1]
    device = piece.similarity.device
    index = [torch.arange(n, device=device).view(-1, *[1] * (k - d)) for d, n in enumerate(sizes)]
    index.append(permutation[outer].to(device).view(-1, *[1] * k))
    for d, name in enumerate(piece.inner):
        view = [sizes[0], *[1] * k]
        view[1 + d] = sizes[1 + d]
        index.append(permutation[name].to(device).view(view))
    return piece.similarity[tuple(index)].sum(dtype=torch.float64).item()


def inner_similarity(
    pieces: Sequence[Piece], name: str, outer: str, permutation: Permutation
) -> Tensor:
    """Return the similarity of one inner group within every matched pair of outer units.

    Returns
    -------
    Tensor, shape (outer, units of A, units of B)
        The other groups of the family as `permutation` has them.
    """
    n = len(permutation[outer])
    chosen = {c: p[:, None].expand(n, n, -1) for c, p in permutation.items() if p.ndim == 2}
    rows = torch.arange(n, device=permutation[outer].device)
    own = [_matrix(p, name, chosen)[rows, permutation[outer]] for p in pieces if name in p.inner]
    return torch.stack(own).sum(0)


def moved_by(
    spec: PermutationSpec, outer: str, found: StructuredAssignment, permutation: Permutation
) -> Permutation:
    """Return the permutation of a family after a solution relative to where it stands."""
    step = {outer: found.outer.cols.to(permutation[outer].device), **found.inner}
    for name, parent in spec.parents.items():
        if parent == outer and name not in step:
            step[name] = torch.arange(spec.groups[name]).expand(spec.permutation_shape(name))
            step[name] = step[name].to(permutation[outer].device)
    return compose(step, {name: permutation[name] for name in step}, spec)


def _alternate(
    pieces: Sequence[Piece], names: Sequence[str], start: dict[str, Tensor], *, fresh: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Solve the inner groups in turn for all pairs of outer units until no value rises.

    A fresh start leaves shared pieces out until every group has been solved once on its own.
    """
    chosen = dict(start)
    solved: set[str] = set()
    value = _value(pieces, chosen)
    for _ in range(MAX_ROUNDS):
        for name in names:
            own = [p for p in pieces if name in p.inner]
            usable = [p for p in own if not fresh or all(c in solved for c in p.inner if c != name)]
            matrix = torch.stack([_matrix(p, name, chosen) for p in usable or own]).sum(0)
            flat = matrix.flatten(0, 1)
            chosen[name] = linear_sum_assignment(flat, True)[1].view(matrix.shape[:3])
            solved.add(name)
        last, value = value, _value(pieces, chosen)
        if not fresh and not bool((value > last).any()):
            break
        fresh = False
    return value, chosen


def _by_pair(piece: Piece) -> Tensor:
    """Bring a piece to the shape (outer A, outer B, inner A..., inner B...)."""
    k = len(piece.inner)
    return piece.similarity.permute(0, k + 1, *range(1, k + 1), *range(k + 2, 2 * k + 2))


def _matrix(piece: Piece, name: str, chosen: Mapping[str, Tensor]) -> Tensor:
    """Return the similarity of one inner group for every pair, the other one as chosen."""
    pairs = _by_pair(piece)
    if len(piece.inner) == 1:
        return pairs
    other = piece.inner[1 - piece.inner.index(name)]
    if piece.inner[0] == name:
        index = chosen[other][:, :, None, :, None, None]
        sizes = [*pairs.shape[:5], 1]
        return pairs.gather(5, index.expand(sizes)).squeeze(5).sum(3)
    index = chosen[other][:, :, :, None, None, None]
    sizes = [*pairs.shape[:4], 1, pairs.shape[5]]
    return pairs.gather(4, index.expand(sizes)).squeeze(4).sum(2)


def _value(pieces: Sequence[Piece], chosen: Mapping[str, Tensor]) -> Tensor:
    """Return the value of every pair of outer units under the chosen inner permutations."""
    total: Tensor | None = None
    for piece in pieces:
        share = piece.similarity
        if piece.inner:
            matrix = _matrix(piece, piece.inner[0], chosen)
            share = matrix.gather(3, chosen[piece.inner[0]][..., None]).squeeze(3).sum(2)
        total = share if total is None else total + share
    if total is None:
        raise ValueError("expected at least one piece, got none")
    return total
