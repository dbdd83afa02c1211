"""Symbolic factors of tensor axes: which parts of which axes must move together.

An axis is a row-major product of factors. A factor starts free and is refined as operations use
the axis (`lmc_fast.symmetry.refine`).

The permutation of the inner factor of a split may differ for every unit of the outer one: the
outer factor is its context. Selecting one unit of a context distinguishes its units; the inner
factor is then a family, one independent member for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """Why a factor is pinned.

    Attributes
    ----------
    operation : str
        The operation that pins, or what else does ("input", "output").
    reason : str
        One sentence.
    source : str
        File and line in the model's code.
    """

    operation: str
    reason: str
    source: str = ""


class Factor:
    """One factor of an axis; mutable, compared by identity. Read it through `atoms`."""

    __slots__ = ("contexts", "family", "hint", "link", "parts", "pieces", "pinned", "size")

    def __init__(
        self,
        size: int,
        *,
        contexts: Iterable[frozenset[Factor]] = (frozenset(),),
        pinned: Cause | None = None,
        hint: str = "",
    ) -> None:
        self.size = size
        self.contexts = tuple(contexts)
        self.pinned = pinned
        self.hint = hint
        self.link: Factor | None = None
        self.parts: tuple[Factor, ...] | None = None
        self.pieces: tuple[Factor, ...] | None = None
        self.family: tuple[Factor, tuple[Factor, ...]] | None = None


Axis = tuple[Factor, ...]


def axis_size(axis: Sequence[Factor]) -> int:
    """Return the number of entries of an axis."""
    return math.prod(f.size for f in axis)


def resolve(factor: Factor) -> Factor:
    """Return the factor that stands for `factor` after all merges."""
    root = factor
    while root.link is not None:
        root = root.link
    while factor.link is not None:
        factor.link, factor = root, factor.link
    return root


def atoms(axis: Iterable[Factor]) -> list[Factor]:
    """Expand merges and products; factors of size one vanish."""
    result: list[Factor] = []
    for factor in axis:
        root = resolve(factor)
        if root.parts is not None:
            result.extend(atoms(root.parts))
        elif root.size != 1:
            result.append(root)
    return result


def context_of(factor: Factor) -> frozenset[Factor]:
    """Return the factors on whose unit the permutation of `factor` may depend.

    Every factor that was merged into it has a context of its own; what they have in common, after
    all merges so far, is left.
    """
    expanded = [frozenset(atoms(context)) - {factor} for context in factor.contexts]
    shared = frozenset.intersection(*expanded)
    return frozenset(unit for unit in shared if unit.pieces is None)


def leaves(axis: Iterable[Factor]) -> list[Factor]:
    """Expand also concatenations and families, down to the factors that move or are pinned."""
    result: list[Factor] = []
    for factor in atoms(axis):
        if factor.pinned is not None:
            result.append(factor)
        elif factor.pieces is not None:
            result.extend(leaves(factor.pieces))
        elif factor.family is not None:
            result.extend(leaves(factor.family[1]))
        else:
            result.append(factor)
    return result


def nodes(axis: Iterable[Factor]) -> Iterator[Factor]:
    """Yield every factor on the way down to the leaves, concatenations and families included."""
    for factor in atoms(axis):
        yield factor
        if factor.pinned is None:
            yield from nodes(factor.pieces or ())
            yield from nodes(factor.family[1] if factor.family else ())


def product(factors: Sequence[Factor]) -> Factor:
    """Return one factor that stands for a row-major product."""
    if len(factors) == 1:
        return factors[0]
    whole = Factor(axis_size(factors))
    whole.parts = tuple(factors)
    return whole


def concatenation(pieces: Sequence[Factor]) -> Factor:
    """Return one factor that stands for a concatenation."""
    if len(pieces) == 1:
        return pieces[0]
    whole = Factor(sum(p.size for p in pieces))
    whole.pieces = tuple(pieces)
    return whole


def family(key: Factor, members: Sequence[Factor]) -> Factor:
    """Return one factor that stands for a member of its own for every unit of the pinned `key`."""
    if all(m is members[0] for m in members):
        return members[0]
    whole = Factor(members[0].size, contexts=(frozenset({key}),))
    whole.family = (key, tuple(members))
    return whole


def pin(axis: Iterable[Factor], cause: Cause) -> None:
    """Fix every factor of an axis; those already fixed keep their first cause."""
    for factor in atoms(axis):
        if factor.pinned is None:
            factor.pinned = cause
            pin(factor.pieces or (), cause)
            pin(factor.family[1] if factor.family else (), cause)


def depends(factor: Factor, key: Factor) -> bool:
    """Tell whether the permutation of `factor` may differ between units of `key`."""
    if factor.pinned is not None:
        return False
    if factor.family is not None and resolve(factor.family[0]) is key:
        return True
    return any(key in context_of(leaf) for leaf in leaves((factor,)))
