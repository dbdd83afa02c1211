"""Where groups move tensors, and those tensors arranged around the units of one group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

import lmc_fast._core as _core
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


@dataclass(frozen=True)
class Products:
    """Inner products over rows r of ``a[i, a_rows[r]]`` and ``b[j, b_rows[r]] - b[j, last[r]]``.

    Attributes
    ----------
    entry : Unfolded
        Holds `a` and `b`.
    a_rows, b_rows, last : Tensor, shape (r,), optional
        int64 rows; all of them in order, and nothing subtracted, by default.
    """

    entry: Unfolded
    a_rows: Tensor | None = None
    b_rows: Tensor | None = None
    last: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of products to one element of the similarity matrix."""
        rows = self.b_rows if self.a_rows is None else self.a_rows
        return self.entry.size if rows is None else rows.shape[0] * self.entry.a.shape[2]


def new_similarity(entry: Unfolded) -> Tensor:
    """Return zeros of shape (units, units).

    On the CPU without torch's worker threads: they spin for milliseconds after each large
    operation, in the way of the threads of `add_products`.
    """
    if entry.a.device.type == "cpu":
        return torch.from_numpy(np.zeros((entry.units, entry.units), entry.a.numpy().dtype))
    return entry.a.new_zeros(entry.units, entry.units)


def add_products(updates: Sequence[tuple[Tensor, Sequence[Products]]]) -> None:
    """Add the inner products of unit i of A and unit j of B to ``similarity[i, j]``.

    Parameters
    ----------
    updates : sequence of (Tensor, sequence of Products)
        Similarity matrices, contiguous, of one dtype, that of the weights, changed in place; and
        what to add to each: entries of as many units as it has rows and columns.

    Notes
    -----
    O(units^2 x r x block) for each. On the CPU all updates share the threads, rows are gathered
    while the product packs its operands, and the result does not depend on the number of threads.
    """
    # Contiguous copies must live until the call returns.
    held: list[Tensor | None] = []
    compiled = []
    for similarity, products in updates:
        if similarity.device.type != "cpu":
            _add_products(similarity, products)
            continue
        sums = []
        for p in products:
            a, b = p.entry.a, p.entry.b
            index = [_contiguous(rows) for rows in (p.a_rows, p.b_rows, p.last)]
            held += index
            a_rows, b_rows, last = (_address(rows) for rows in index)
            sums.append(
                (
                    a.data_ptr(),
                    a.stride(),
                    b.data_ptr(),
                    b.stride(),
                    a.shape[1] if p.a_rows is None else p.a_rows.shape[0],
                    a.shape[2],
                    a_rows,
                    b_rows,
                    last,
                )
            )
        compiled.append((sums, similarity.data_ptr(), len(similarity)))
    if compiled:
        double = updates[0][0].dtype == torch.float64
        call = _core.add_products_float64 if double else _core.add_products_float32
        call(compiled, _core.best_instruction_set, torch.get_num_threads())


def _add_products(similarity: Tensor, products: Sequence[Products]) -> None:
    for p in products:
        a = p.entry.a if p.a_rows is None else p.entry.a.index_select(1, p.a_rows)
        b = p.entry.b if p.b_rows is None else p.entry.b.index_select(1, p.b_rows)
        if p.last is not None:
            b = b - p.entry.b.index_select(1, p.last)
        similarity.addmm_(a.flatten(1), b.flatten(1).T)


def _contiguous(index: Tensor | None) -> Tensor | None:
    return None if index is None else index.contiguous()


def _address(index: Tensor | None) -> int:
    return 0 if index is None else index.data_ptr()


def places_of(spec: PermutationSpec, tensors: Sequence[str]) -> tuple[Place, ...]:
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


@dataclass(frozen=True)
class Pairing:
    """A tensor of A and one of B, taken row by row.

    Attributes
    ----------
    a, b : Tensor, shape (r, c, ...)
        Contiguous, of one dtype, float32 or float64.
    rows, columns : Tensor, shapes (r,) and (c,), optional
        int64 positions of `b` along its first two axes; all in order without.
    """

    a: Tensor
    b: Tensor
    rows: Tensor | None = None
    columns: Tensor | None = None


def row_inner_products(pairings: Sequence[Pairing]) -> list[Tensor]:
    """Return ``<a[r], b[rows[r]][columns]>`` for every row r of every pairing.

    Returns
    -------
    list of Tensor, shape (r,)
        float64; runs of at most 1024 products are summed in the dtype of `a` on the CPU.
    """
    if not pairings:
        return []
    if pairings[0].a.device.type != "cpu":
        return [_row_inner_products(pairing) for pairing in pairings]
    compiled = []
    held: list[Tensor | None] = []
    for p in pairings:
        rows, columns = (_contiguous(index) for index in (p.rows, p.columns))
        held += [rows, columns]
        n, m = len(p.a), p.a.shape[1] if p.a.ndim > 1 else 1
        compiled.append(
            (
                p.a.data_ptr(),
                p.b.data_ptr(),
                _address(rows),
                _address(columns),
                n,
                m,
                p.a.numel() // max(n * m, 1),
            )
        )
    sizes = [len(p.a) for p in pairings]
    sums = np.empty(sum(sizes))
    double = pairings[0].a.dtype == torch.float64
    call = _core.row_inner_products_float64 if double else _core.row_inner_products_float32
    call(compiled, sums, torch.get_num_threads())
    return list(torch.split(torch.from_numpy(sums), sizes))


def _row_inner_products(pairing: Pairing) -> Tensor:
    a, b = pairing.a, pairing.b
    b = b if pairing.rows is None else b.index_select(0, pairing.rows)
    b = b if pairing.columns is None else b.index_select(1, pairing.columns)
    sums: Tensor = torch.linalg.vecdot(a.reshape(len(a), -1), b.reshape(len(b), -1))
    return sums.double()
