"""Refine factors as operations use them.

A factor is split into a product (a reshape to heads and channels), cut into a concatenation (a
chunk), merged with the factor of another axis (a residual addition), or pinned. Every step only
shrinks the group of permutations, so the order of the operations does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lmc_fast.symmetry.factors import (
    Axis,
    Cause,
    Factor,
    atoms,
    axis_size,
    concatenation,
    context_of,
    depends,
    family,
    leaves,
    pin,
    product,
    resolve,
)


def _within(factor: Factor, outer: Factor) -> tuple[frozenset[Factor], ...]:
    return tuple(context | {outer} for context in factor.contexts)


def split(factor: Factor, outer: int, cause: Cause) -> bool:
    """Split an atom into a product of `outer` units and the rest; False (and pinned) if it cannot.

    Parameters
    ----------
    factor : Factor
        An atom whose size `outer` divides.
    outer : int
        Number of units of the outer factor.
    cause : Cause
        Recorded where a concatenation has to be pinned because its pieces straddle the units.
    """
    inner = factor.size // outer
    if factor.pinned is not None:
        factor.parts = (
            Factor(outer, pinned=factor.pinned),
            Factor(inner, pinned=factor.pinned),
        )
        return True
    if factor.pieces is not None:
        return _split_concatenation(factor, outer, cause)
    if factor.family is not None:
        key, members = factor.family
        halves = [cut(member, outer, cause) for member in members]
        factor.parts = (
            family(key, [product(left) for left, _ in halves]),
            family(key, [product(right) for _, right in halves]),
        )
        return True
    first = Factor(outer, contexts=factor.contexts)
    factor.parts = (first, Factor(inner, contexts=_within(factor, first), hint=factor.hint))
    return True


def _split_concatenation(factor: Factor, outer: int, cause: Cause) -> bool:
    inner = factor.size // outer
    pieces = factor.pieces or ()
    if all(p.size == inner for p in pieces):
        key = Factor(outer, pinned=cause)
        factor.parts = (key, family(key, pieces))
        return True
    if all(p.size % inner == 0 for p in pieces):
        halves = [cut(p, p.size // inner, cause) for p in pieces]
        for _, right in halves[1:]:
            unify(halves[0][1], right, cause)
        factor.parts = (concatenation([product(left) for left, _ in halves]), *halves[0][1])
        return True
    pin((factor,), cause)
    return split(factor, outer, cause)


def cut(factor: Factor, outer: int, cause: Cause) -> tuple[list[Factor], list[Factor]]:
    """Divide a product after its first `outer` units: the factors left and right of the cut."""
    left: list[Factor] = []
    right = atoms((factor,))
    while outer > 1:
        head = right[0]
        if head.size > outer and head.size % outer == 0:
            split(head, outer, cause)
            right[:1] = atoms((head,))
        elif outer % head.size == 0:
            left.append(right.pop(0))
            outer //= head.size
        else:
            # The cut falls inside a unit: everything from here on has to stay.
            pin(right, cause)
            rest = axis_size(right)
            return [*left, Factor(outer, pinned=cause)], [Factor(rest // outer, pinned=cause)]
    return left, right


def unify(a: Iterable[Factor], b: Iterable[Factor], cause: Cause) -> None:
    """Make two axes of equal size move together; what cannot is pinned with `cause`."""
    left, right = atoms(a), atoms(b)
    while left and right:
        x, y = left[0], right[0]
        common = math.gcd(x.size, y.size)
        if x.size == y.size:
            left, right = left[1:], right[1:]
            _merge(x, y, cause)
            # A merge may refine a factor that still waits in the lists.
            left, right = atoms(left), atoms(right)
        elif common == 1:
            pin((*left, *right), cause)
            return
        else:
            for side, factor in ((left, x), (right, y)):
                if factor.size != common:
                    split(factor, common, cause)
                    side[:1] = atoms((factor,))


def _merge(x: Factor, y: Factor, cause: Cause) -> None:
    if x is y:
        return
    if x.pinned is not None or y.pinned is not None:
        origin = x.pinned or y.pinned or cause
        if origin.operation == "constant":
            origin = Cause(cause.operation, origin.reason, cause.source)
        pin((x, y), origin)
        y.link = x
    elif x.pieces is not None or y.pieces is not None:
        _align(x, y, cause)
    elif x.family is not None or y.family is not None:
        _merge_families(x, y, cause)
    else:
        x.contexts = tuple(dict.fromkeys((*x.contexts, *y.contexts)))
        y.link = x
        x.hint = x.hint or y.hint


def _align(x: Factor, y: Factor, cause: Cause) -> None:
    """Merge two atoms of which at least one is a concatenation: cut both at all boundaries."""
    ends = sorted({*_boundaries(x), *_boundaries(y)})
    sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    left, right = carve((x,), sizes, cause), carve((y,), sizes, cause)
    for a, b in zip(left, right, strict=True):
        unify(a, b, cause)


def _boundaries(factor: Factor) -> list[int]:
    ends, at = [], 0
    for piece in factor.pieces or (factor,):
        at += piece.size
        ends.append(at)
    return ends


def carve(axis: Iterable[Factor], sizes: Sequence[int], cause: Cause) -> list[Axis]:
    """Cut an axis into consecutive pieces of the given sizes; what straddles a cut is pinned."""
    factors = atoms(axis)
    if not factors or len(sizes) == 1:
        return [tuple(factors)]
    head, rest = factors[0], factors[1:]
    inner = axis_size(rest)
    if any(n % inner for n in sizes):
        pin(factors, cause)
        return [(Factor(n, pinned=cause),) for n in sizes]
    counts = [n // inner for n in sizes]
    if head.pinned is not None:
        return _carve_pinned(head, rest, counts)
    for factor in leaves(rest):
        if head in context_of(factor):
            forget(factor, head, cause)
    if head.pieces is None:
        head.pieces = _pieces(head, counts, cause)
        return [(piece, *rest) for piece in head.pieces]
    _refine(head, counts, cause)
    return [(concatenation(run), *rest) for run in _runs(head.pieces, counts)]


def _carve_pinned(head: Factor, rest: list[Factor], counts: Sequence[int]) -> list[Axis]:
    """Cut a pinned leading factor: factors that vary with it become the members of their range."""
    result, at = [], 0
    for count in counts:
        key = Factor(count, pinned=head.pinned)
        inner = [
            family(key, [member(f, head, i) for i in range(at, at + count)])
            if depends(f, head)
            else f
            for f in rest
        ]
        result.append((key, *inner))
        at += count
    return result


def _pieces(head: Factor, counts: Sequence[int], cause: Cause) -> tuple[Factor, ...]:
    if head.family is None:
        return tuple(Factor(n, contexts=head.contexts, hint=head.hint) for n in counts)
    key, members = head.family
    columns = zip(*(carve((m,), counts, cause) for m in members), strict=True)
    return tuple(family(key, [product(piece) for piece in column]) for column in columns)


def _refine(head: Factor, counts: Sequence[int], cause: Cause) -> None:
    """Cut the pieces of a concatenation wherever a boundary of `counts` falls inside one."""
    ends = {sum(counts[: i + 1]) for i in range(len(counts))}
    refined: list[Factor] = []
    at = 0
    for piece in head.pieces or ():
        inside = sorted(e - at for e in ends if at < e < at + piece.size)
        sizes = [b - a for a, b in zip([0, *inside], [*inside, piece.size], strict=True)]
        refined.extend(product(p) for p in carve((piece,), sizes, cause))
        at += piece.size
    head.pieces = tuple(refined)


def _runs(pieces: Sequence[Factor], counts: Sequence[int]) -> list[list[Factor]]:
    runs: list[list[Factor]] = []
    waiting = list(pieces)
    for count in counts:
        run: list[Factor] = []
        while sum(p.size for p in run) < count:
            run.append(waiting.pop(0))
        runs.append(run)
    return runs


def _merge_families(x: Factor, y: Factor, cause: Cause) -> None:
    if x.family is None:
        x, y = y, x
    key, members = x.family if x.family is not None else (x, ())
    key = resolve(key)
    if depends(y, key):
        for i, m in enumerate(members):
            unify((m,), (member(y, key, i),), cause)
    else:
        for m in members:
            unify((m,), (y,), cause)
    x.family = None
    x.link = y


def member(factor: Factor, key: Factor, index: int) -> Factor:
    """Return what stands for `factor` at one unit of `key`; `key` is pinned already."""
    if not depends(factor, key):
        return factor
    if factor.pieces is not None:
        return concatenation(
            [product([member(a, key, index) for a in atoms((p,))]) for p in factor.pieces]
        )
    if factor.family is not None:
        other, members = factor.family
        if resolve(other) is key:
            return members[index]
        return family(
            other, [product([member(a, key, index) for a in atoms((m,))]) for m in members]
        )
    rest = context_of(factor) - {key}
    # Contexts that vary with the key themselves are replaced by their own members.
    members = tuple(
        Factor(
            factor.size,
            contexts=(frozenset(member(c, key, i) for c in rest),),
            hint=factor.hint,
        )
        for i in range(key.size)
    )
    factor.family = (key, members)
    return members[index]


def forget(factor: Factor, key: Factor, cause: Cause) -> None:
    """Make the permutation of an atom the same for all units of `key`."""
    factor.contexts = tuple(
        frozenset(atoms(context)) - {key, factor} for context in factor.contexts
    )
    if factor.family is not None and resolve(factor.family[0]) is key:
        members = factor.family[1]
        factor.family = None
        for m in members[1:]:
            unify((members[0],), (m,), cause)
        factor.parts = (members[0],)
