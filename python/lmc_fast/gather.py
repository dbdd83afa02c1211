"""Move one tensor: from the permutations of groups to positions along its axes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from lmc_fast.errors import SpecMismatchError
from lmc_fast.notation import Segment
from lmc_fast.spec import PermutationSpec, Term


def axis_index(
    spec: PermutationSpec, terms: tuple[Term, ...], axis: int, permutation: Mapping[str, Tensor]
) -> Tensor:
    """Return the positions to gather along one axis.

    The index is 1-D where it depends on nothing else. Where its groups are nested in groups of
    other axes it has one dimension per axis of the tensor and broadcasts against the others.
    """
    segments = terms[axis].segments
    if len(segments) == 1 and len(segments[0]) == 1:
        name = segments[0][0]
        if isinstance(name, str) and name not in spec.parents:
            return permutation[name]
    pieces, offset = [], 0
    for segment in segments:
        piece = _segment_index(spec, terms, axis, segment, permutation)
        pieces.append(piece + offset)
        offset += math.prod(spec.factor_sizes(segment))
    if len(pieces) == 1:
        return pieces[0]
    if any(piece.ndim > 1 for piece in pieces):
        raise SpecMismatchError(
            f"axis {axis} of ({' '.join(map(str, terms))}): expected nested groups of a "
            "concatenation to have their outer group on the same axis"
        )
    return torch.cat(pieces)


def _segment_index(
    spec: PermutationSpec,
    terms: tuple[Term, ...],
    axis: int,
    segment: Segment,
    p: Mapping[str, Tensor],
) -> Tensor:
    """Row-major position of every entry of a segment, from the position along each factor."""
    sizes = spec.factor_sizes(segment)
    elsewhere: set[int] = set()
    for factor in segment:
        parent = spec.parents.get(factor) if isinstance(factor, str) else None
        if parent is not None and parent not in segment:
            elsewhere.add(_axis_of(terms, parent))
    # Dimensions: the tensor's other axes that hold an outer group, then the factors of the segment.
    lead = sorted(elsewhere)
    device = next(iter(p.values())).device
    position = torch.zeros((), dtype=torch.int64, device=device)
    for i, factor in enumerate(segment):
        view = [1] * (len(lead) + len(sizes))
        view[len(lead) + i] = sizes[i]
        along = torch.arange(sizes[i], device=device)
        if isinstance(factor, str):
            along = p[factor]
            parent = spec.parents.get(factor)
            if parent in segment:
                outer = segment.index(parent)
                view[len(lead) + outer] = sizes[outer]
                along = along if outer < i else along.T
            elif parent is not None:
                axis_of_outer = _axis_of(terms, parent)
                units = _units(spec, terms[axis_of_outer].segments[0], parent).to(device)
                along = along[units]
                view[lead.index(axis_of_outer)] = len(units)
        position = position * sizes[i] + along.reshape(view)
    full = [math.prod(spec.factor_sizes(terms[a].segments[0])) for a in lead]
    position = position.expand(*full, *sizes).reshape(*full, -1)
    if not lead:
        return position
    at = {a: d for d, a in enumerate((*lead, axis))}
    order = sorted(at)
    shape = [position.shape[at[a]] if a in at else 1 for a in range(len(terms))]
    return position.permute([at[a] for a in order]).reshape(shape)


def _axis_of(terms: tuple[Term, ...], name: str) -> int:
    for axis, term in enumerate(terms):
        if len(term.segments) == 1 and name in term.segments[0]:
            return axis
    raise SpecMismatchError(
        f"({' '.join(map(str, terms))}): expected the outer group {name!r} in the same segment or "
        "on an axis that is no concatenation"
    )


def _units(spec: PermutationSpec, segment: Segment, name: str) -> Tensor:
    """Return the unit of one group at every position of an axis."""
    sizes = spec.factor_sizes(segment)
    at = segment.index(name)
    inner = math.prod(sizes[at + 1 :])
    return (torch.arange(math.prod(sizes)) // inner) % sizes[at]


def gather(
    spec: PermutationSpec,
    terms: tuple[Term, ...],
    permutation: Mapping[str, Tensor],
    tensor: Tensor,
) -> Tensor:
    """Move one tensor: gather every axis by the permutations of its groups.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    terms : tuple of Term
        One per axis of `tensor`.
    permutation : Mapping[str, Tensor]
        Gather indices on the device of `tensor`.
    tensor : Tensor
        Left unchanged; the result is a new tensor, or `tensor` itself where no axis moves.
    """
    indices = [
        None if term.is_fixed else axis_index(spec, terms, axis, permutation)
        for axis, term in enumerate(terms)
    ]
    if all(index is None or index.ndim == 1 for index in indices):
        for axis, index in enumerate(indices):
            if index is not None:
                tensor = tensor.index_select(axis, index)
        return tensor
    grid = []
    for axis, index in enumerate(indices):
        if index is None or index.ndim == 1:
            view = [1] * tensor.ndim
            view[axis] = -1
            along = (
                torch.arange(tensor.shape[axis], device=tensor.device) if index is None else index
            )
            index = along.reshape(view)
        grid.append(index)
    return tensor[tuple(grid)]
