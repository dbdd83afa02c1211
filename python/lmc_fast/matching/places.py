"""Where groups move tensors, and those tensors arranged around the units of one group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lmc_fast.gather import axis_index, gather
from lmc_fast.spec import PermutationSpec


@dataclass(frozen=True)
class Place:
    """One factor of one axis of one tensor that a group moves."""

    tensor: str
    group: str
    axis: int
    segment: int
    factor: int


@dataclass(frozen=True)
class Unfolded:
    """A tensor of A and of B arranged around the units of one place.

    Attributes
    ----------
    place : Place
        Which factor the units are.
    a, b : Tensor, shape (units, rows, block)
        The rows are what other groups move, the block is fixed. Views where strides allow.
    movers : tuple of str
        Groups that move the rows.
    """

    place: Place
    a: Tensor
    b: Tensor
    movers: tuple[str, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return self.a.shape[0]

    @cached_property
    def size(self) -> int:
        """Number of products to one element of the similarity matrix."""
        return self.a.shape[1] * self.a.shape[2]


def places_of(spec: PermutationSpec, tensors: Iterable[str]) -> tuple[Place, ...]:
    """List every place of every group in the given tensors."""
    return tuple(
        Place(name, factor, axis, s, f)
        for name in tensors
        for axis, term in enumerate(spec.tensors[name])
        for s, segment in enumerate(term.segments)
        for f, factor in enumerate(segment)
        if isinstance(factor, str)
    )


def unfold(spec: PermutationSpec, place: Place, a: Tensor, b: Tensor) -> Unfolded:
    """Arrange a tensor of both models around a place's units and what other groups move."""
    terms = spec.tensors[place.tensor]
    segment = terms[place.axis].segments[place.segment]
    rest = _rest(spec, place)
    moving = [dim for dim, groups in rest if groups]
    fixed = [dim for dim, groups in rest if not groups]
    unit = place.axis + place.factor
    start = sum(_length(spec, s) for s in terms[place.axis].segments[: place.segment])

    def arranged(tensor: Tensor) -> Tensor:
        part = tensor
        if len(terms[place.axis].segments) > 1:
            part = part.narrow(place.axis, start, _length(spec, segment))
        if len(segment) > 1:
            part = torch.unflatten(part, place.axis, spec.factor_sizes(segment))
        rows = math.prod(part.shape[dim] for dim in moving)
        ordered = part.permute(unit, *moving, *fixed)
        return ordered.reshape(part.shape[unit], rows, -1)

    movers = dict.fromkeys(group for _, groups in rest for group in groups)
    return Unfolded(place, arranged(a), arranged(b), tuple(movers))


def row_index(
    spec: PermutationSpec, place: Place, permutation: Mapping[str, Tensor]
) -> Tensor | None:
    """Return the rows of `Unfolded.b` under a permutation of the other groups; None if none move.

    Returns
    -------
    Tensor, shape (rows,)
        int64 positions to gather.
    """
    terms = spec.tensors[place.tensor]
    segment = terms[place.axis].segments[place.segment]
    index: Tensor | None = None
    for dim, groups in _rest(spec, place):
        if not groups:
            continue
        inside = place.axis <= dim < place.axis + len(segment)
        if inside:
            along = permutation[str(segment[dim - place.axis])]
        else:
            axis = dim if dim < place.axis else dim - len(segment) + 1
            along = axis_index(spec, terms, axis, permutation)
        if along.ndim != 1:
            return _nested_rows(spec, place, permutation)
        index = along if index is None else (index[:, None] * len(along) + along).reshape(-1)
    return index


def _nested_rows(spec: PermutationSpec, place: Place, permutation: Mapping[str, Tensor]) -> Tensor:
    """Rows where a group moves that is nested in the group of another axis.

    Numbers every position by its row, moves the numbers like the tensor, and reads them off at the
    first unit and the first place of the block.
    """
    terms = spec.tensors[place.tensor]
    segments = terms[place.axis].segments
    lengths = [_length(spec, s) for s in segments]
    span = (place.axis, sum(lengths[: place.segment]), lengths[place.segment])
    shape = [spec.axis_size(term) or 0 for term in terms]
    inside = list(shape)
    inside[place.axis : place.axis + 1] = spec.factor_sizes(segments[place.segment])
    rest = _rest(spec, place)
    moving = [dim for dim, groups in rest if groups]
    held = permutation[place.group]
    counted = [n if dim in moving else 1 for dim, n in enumerate(inside)]
    rows = torch.Size(counted).numel()
    numbers = torch.arange(rows, device=held.device).reshape(counted).expand(inside)
    full = torch.zeros(shape, dtype=torch.int64, device=held.device)
    part = full.narrow(*span)
    part.copy_(numbers.reshape(part.shape))
    still = torch.arange(held.shape[-1], device=held.device).expand(held.shape)
    moved = gather(spec, terms, {**permutation, place.group: still}, full)
    others = [dim for dim in range(len(inside)) if dim not in moving]
    return moved.narrow(*span).reshape(inside).permute(*moving, *others).reshape(rows, -1)[:, 0]


def _rest(spec: PermutationSpec, place: Place) -> list[tuple[int, tuple[str, ...]]]:
    """Dimensions other than the place's factor once its axis is unflattened, and their groups."""
    terms = spec.tensors[place.tensor]
    result: list[tuple[int, tuple[str, ...]]] = []
    dim = 0
    for axis, term in enumerate(terms):
        if axis != place.axis:
            result.append((dim, term.groups))
            dim += 1
            continue
        for f, factor in enumerate(term.segments[place.segment]):
            if f != place.factor:
                result.append((dim, (factor,) if isinstance(factor, str) else ()))
            dim += 1
    return result


def _length(spec: PermutationSpec, segment: Sequence[int | str | None]) -> int:
    return torch.Size(spec.factor_sizes(segment)).numel()
