"""Sums over weights and similarities: compiled on the CPU, by torch on other devices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import lmc_fast._core as _core
from lmc_fast.matching.places import Unfolded


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


@dataclass(frozen=True)
class Update:
    """Products to add to a similarity matrix.

    Attributes
    ----------
    similarity : Tensor, shape (units, units)
        Contiguous, of the dtype of the weights; changed in place.
    products : sequence of Products
        Of entries with as many units.
    afresh : bool
        Forget what the matrix holds.
    """

    similarity: Tensor
    products: Sequence[Products]
    afresh: bool


def new_similarity(entry: Unfolded) -> Tensor:
    """Return room for a similarity matrix of shape (units, units)."""
    return entry.a.new_empty(entry.units, entry.units)


def add_products(updates: Sequence[Update]) -> None:
    """Add the inner products of unit i of A and unit j of B to ``similarity[i, j]``.

    Parameters
    ----------
    updates : sequence of Update
        Of different matrices of one dtype.

    Notes
    -----
    O(units^2 x r x block) for each. On the CPU all updates share the threads, rows are gathered
    while the product packs its operands, and the result does not depend on the number of threads.
    """
    # Contiguous copies must live until the call returns.
    held: list[Tensor | None] = []
    compiled = []
    for update in updates:
        similarity = update.similarity
        if similarity.device.type != "cpu":
            _add_products(update)
            continue
        sums = []
        for p in update.products:
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
        compiled.append((sums, similarity.data_ptr(), similarity.shape[0], update.afresh))
    if compiled:
        double = updates[0].similarity.dtype == torch.float64
        call = _core.add_products_float64 if double else _core.add_products_float32
        call(compiled, _core.best_instruction_set, torch.get_num_threads())


def _add_products(update: Update) -> None:
    if update.afresh:
        update.similarity.zero_()
    for p in update.products:
        a = p.entry.a if p.a_rows is None else p.entry.a.index_select(1, p.a_rows)
        b = p.entry.b if p.b_rows is None else p.entry.b.index_select(1, p.b_rows)
        if p.last is not None:
            b = b - p.entry.b.index_select(1, p.last)
        update.similarity.addmm_(a.flatten(1), b.flatten(1).T)


def _contiguous(index: Tensor | None) -> Tensor | None:
    return None if index is None else index.contiguous()


def _address(index: Tensor | None) -> int:
    return 0 if index is None else index.data_ptr()


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


def row_inner_products(pairings: Sequence[Pairing]) -> Tensor:
    """Return ``<a[r], b[rows[r]][columns]>`` for every row r of one pairing after the other.

    Returns
    -------
    Tensor, shape (sum of r,)
        float64; runs of at most 1024 products are summed in the dtype of `a` on the CPU.
    """
    if not pairings:
        return torch.zeros(0, dtype=torch.float64)
    if pairings[0].a.device.type != "cpu":
        return torch.cat([_row_inner_products(pairing) for pairing in pairings])
    compiled = []
    held: list[Tensor | None] = []
    for p in pairings:
        rows, columns = (_contiguous(index) for index in (p.rows, p.columns))
        held += [rows, columns]
        n, m, *rest = *p.a.shape, 1
        compiled.append(
            (
                p.a.data_ptr(),
                p.b.data_ptr(),
                _address(rows),
                _address(columns),
                n,
                m,
                math.prod(rest),
            )
        )
    sums = np.empty(sum(p.a.shape[0] for p in pairings))
    double = pairings[0].a.dtype == torch.float64
    call = _core.row_inner_products_float64 if double else _core.row_inner_products_float32
    call(compiled, sums, torch.get_num_threads())
    return torch.from_numpy(sums)


def _row_inner_products(pairing: Pairing) -> Tensor:
    a, b = pairing.a, pairing.b
    b = b if pairing.rows is None else b.index_select(0, pairing.rows)
    b = b if pairing.columns is None else b.index_select(1, pairing.columns)
    sums: Tensor = torch.linalg.vecdot(a.reshape(len(a), -1), b.reshape(len(b), -1))
    return sums.double()


class MatchedSums(NamedTuple):
    """What a step of one group changes.

    Attributes
    ----------
    identity, before, after : float
        Sum of the similarities of units paired by position, as they are, and as they would be.
    magnitude : float
        Sum of the magnitudes of the last.
    moved : int
        Units with another partner.
    """

    identity: float
    before: float
    after: float
    magnitude: float
    moved: int


def matched_sums(similarity: Tensor, current: Tensor, target: Tensor) -> MatchedSums:
    """Sum similarities, of shape (units, units), over one permutation and another; in float64.

    Parameters
    ----------
    similarity : Tensor, shape (units, units)
        Contiguous, float32 or float64.
    current, target : Tensor, shape (units,)
        int64 columns.
    """
    if similarity.device.type != "cpu":
        return _matched_sums(similarity, current, target)
    current, target = current.contiguous(), target.contiguous()
    double = similarity.dtype == torch.float64
    call = _core.matched_sums_float64 if double else _core.matched_sums_float32
    return MatchedSums(
        *call(similarity.data_ptr(), similarity.shape[0], current.data_ptr(), target.data_ptr())
    )


def _matched_sums(similarity: Tensor, current: Tensor, target: Tensor) -> MatchedSums:
    units = torch.arange(len(similarity), device=similarity.device)
    pairs = similarity.gather(1, torch.stack((units, current, target), 1)).double()
    moved = current.ne(target).sum()
    sums = torch.cat((pairs.sum(0), pairs[:, 2:].abs().sum(0)))
    identity, before, after, magnitude = sums.tolist()
    return MatchedSums(identity, before, after, magnitude, int(moved.item()))


def changed_rows(rows: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return where two row indices differ, None for everywhere, and both indices there.

    Parameters
    ----------
    rows, last : Tensor, shape (r,)
        int64.
    """
    if rows.device.type != "cpu":
        return _changed_rows(rows, last)
    rows, last = rows.contiguous(), last.contiguous()
    found = np.empty((3, len(rows)), np.int64)
    count = _core.changed_rows(rows.data_ptr(), last.data_ptr(), found)
    if count == len(rows):
        return None, rows, last
    where, now, before = torch.from_numpy(found[:, :count]).unbind()
    return where, now, before


def _changed_rows(rows: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    where = rows.ne(last).nonzero().squeeze(1)
    if where.shape == rows.shape:
        return None, rows, last
    return where, rows[where], last[where]
