"""Write propagated factors down as a permutation spec."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lmc_fast.notation import Term
from lmc_fast.spec import PermutationSpec, Pin
from lmc_fast.symmetry.factors import Axis, Cause, Factor, atoms, context_of, depends, nodes, pin
from lmc_fast.symmetry.operation import Value
from lmc_fast.symmetry.propagate import Propagation
from lmc_fast.symmetry.refine import forget, member

MAX_SEGMENTS = 64
"""How many segments an axis may fall into; with more, its families are merged."""

QUIET = ("input", "output", "kernel", "position")
_PROJECTION = re.compile(
    r"(?:to_)?(?:q|k|v|qkv|query|key|value|in|c_attn|query_key_value|kv)(?:_?(?:proj|lin))?",
    re.IGNORECASE,
)
_LIMIT = Cause("notation", "its structure is deeper than a spec can express")


def settle(found: Propagation) -> None:
    """Shrink the group until every tensor carries it and the notation can express it."""
    state = list(dict.fromkeys(found.state.values()))
    while any(
        [
            *(_settle_contexts(value) for value in (*state, *found.values)),
            *(_settle_notation(value) for value in state),
        ]
    ):
        pass


def _settle_contexts(value: Value) -> bool:
    """Forget contexts that a tensor does not carry, or carries twice."""
    present = [f for axis in value.axes for f in nodes(axis)]
    plain = [f for axis in value.axes for f in atoms(axis)]
    changed = False
    for factor in dict.fromkeys(present):
        if factor.pinned is not None or factor.pieces is not None:
            continue
        keys = context_of(factor)
        if factor.family is not None:
            keys = keys | set(atoms((factor.family[0],)))
        for key in keys:
            if key not in present or plain.count(key) > 1:
                forget(factor, key, _LIMIT)
                changed = True
    return changed


def _settle_notation(value: Value) -> bool:
    """Make the axes of a state tensor expressible: two levels, concatenation outermost."""
    try:
        spelled = [segments(axis) for axis in value.axes]
    except _InexpressibleError as error:
        for factor in error.factors:
            if factor.family is not None:
                forget(factor, atoms((factor.family[0],))[0], _LIMIT)
            else:
                pin((factor,), _LIMIT)
        return True
    single = [f for axis in spelled if len(axis) == 1 for f in axis[0]]
    changed = False
    for axis in spelled:
        for segment in axis:
            for factor in segment:
                if factor.pinned is not None:
                    continue
                if segment.count(factor) > 1:
                    pin((factor,), _LIMIT)
                    return True
                for key in _superfluous(factor, [*segment, *single]):
                    forget(factor, key, _LIMIT)
                    changed = True
    return changed


def _superfluous(factor: Factor, within_reach: Sequence[Factor]) -> list[Factor]:
    """Return the contexts a spec cannot give a factor: all but one plain outer group."""
    keys = context_of(factor)
    able = [
        k for k in within_reach if k in keys and k.pinned is None and not context_of(k) - {factor}
    ]
    chosen = max(able, key=lambda k: k.size, default=None)
    return [k for k in keys if k is not chosen]


class _InexpressibleError(Exception):
    """An axis has a concatenation or family inside a moving factor."""

    def __init__(self, factors: Sequence[Factor]) -> None:
        super().__init__("inexpressible axis")
        self.factors = factors


def segments(axis: Axis | Sequence[Factor]) -> list[list[Factor]]:
    """Distribute an axis into a concatenation of products of leaves."""
    factors = atoms(axis)
    if not factors:
        return [[]]
    head, rest = factors[0], factors[1:]
    if head.pinned is None and head.pieces is not None:
        return [s for piece in head.pieces for s in segments([piece, *rest])]
    if head.pinned is None and head.family is not None:
        raise _InexpressibleError([head])
    if head.pinned is not None and any(depends(f, head) for f in rest):
        dependent = [f for f in rest if depends(f, head)]
        if head.size > MAX_SEGMENTS:
            for factor in dependent:
                forget(factor, head, _LIMIT)
            return segments(factors)
        return [s for i in range(head.size) for s in segments([member(f, head, i) for f in rest])]
    tail = segments(rest)
    if len(tail) == 1:
        return [[head, *tail[0]]]
    if head.pinned is not None and head.size * len(tail) <= MAX_SEGMENTS:
        return tail * head.size
    virtual = [f for f in rest if f.pinned is None and (f.pieces or f.family)]
    keyed = [f for f in rest if any(depends(f, k) for k in rest if k.pinned is not None)]
    if not virtual:
        for factor in keyed:
            for key in rest:
                if key.pinned is not None and depends(factor, key):
                    forget(factor, key, _LIMIT)
        return segments(factors)
    raise _InexpressibleError(virtual)


def spell(found: Propagation, shapes: Mapping[str, tuple[int, ...]]) -> PermutationSpec:
    """Return the spec of settled factors; tensors that the model never uses are fixed."""
    names = _names(found)
    children = {f: k for f in names for k in context_of(f) if k in names}
    tensors: dict[str, tuple[Term, ...]] = {}
    pins: dict[Factor, Pin] = {}
    for tensor, shape in shapes.items():
        if tensor not in found.state:
            tensors[tensor] = tuple(Term(((n,),)) for n in shape)
            continue
        axes = found.state[tensor].axes
        tensors[tensor] = tuple(_term(axis, names) for axis in axes)
        if tensor in found.integers:
            continue
        for d, axis in enumerate(axes):
            for factor in (f for segment in segments(axis) for f in segment):
                cause = factor.pinned
                if cause is not None and cause.operation not in QUIET:
                    where = f"{tensor}[{d}]"
                    pins.setdefault(factor, Pin(where, cause.operation, cause.reason, cause.source))
    unused = dict.fromkeys(
        t.rpartition(".")[0] or t for t, s in shapes.items() if s and t not in found.state
    )
    idle = [Pin(m, "none", "the model never uses it in eval mode") for m in unused]
    return PermutationSpec(
        {name: factor.size for factor, name in names.items()},
        tensors,
        {names[f]: names[k] for f, k in children.items()},
        (*pins.values(), *idle),
    )


def _term(axis: Axis, names: Mapping[Factor, str]) -> Term:
    spelled = []
    for segment in segments(axis):
        factors: list[int | str] = []
        for factor in segment:
            if factor in names:
                factors.append(names[factor])
            elif factors and isinstance(factors[-1], int):
                factors[-1] *= factor.size
            else:
                factors.append(factor.size)
        spelled.append(tuple(factors) or (1,))
    joined: list[tuple[int | str, ...]] = []
    for piece in spelled:
        last = joined[-1] if joined else ()
        if len(piece) == 1 and isinstance(piece[0], int) and len(last) == 1:
            (size,) = last
            if isinstance(size, int):
                joined[-1] = (size + piece[0],)
                continue
        joined.append(piece)
    return Term(tuple(joined))


def _names(found: Propagation) -> dict[Factor, str]:
    """Name every moving factor after the tensor that first uses it and its role there."""
    order = [*found.used, *(n for n in found.state if n not in found.used)]
    named: dict[Factor, str] = {}
    taken: set[str] = set()
    seen: dict[Factor, tuple[str, bool]] = {}
    for tensor in order:
        for axis in found.state[tensor].axes:
            for segment in segments(axis):
                moving = [f for f in segment if f.pinned is None]
                for f in moving:
                    seen.setdefault(f, (tensor, f is moving[-1]))
    for factor, (tensor, innermost) in seen.items():
        name = _name(tensor, factor.hint or ("" if innermost else "units"))
        number = 2
        unique = name
        while unique in taken:
            unique = f"{name}_{number}"
            number += 1
        taken.add(unique)
        named[factor] = unique
    return named


def _name(tensor: str, role: str) -> str:
    module, _, own = tensor.rpartition(".")
    path = module or own
    if role:
        above, _, last = path.rpartition(".")
        path = ".".join(p for p in (above if _PROJECTION.fullmatch(last) else path, role) if p)
    return path if re.match(r"[A-Za-z_]", path) else f"layer{path}"
