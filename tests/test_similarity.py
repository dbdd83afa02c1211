"""The compiled products of weight matching against float64 numpy."""

from __future__ import annotations

import os
import signal
import threading
import time

import lmc_fast._core as _core
import numpy as np
import pytest
import torch
from lmc_fast.matching.places import Place, Unfolded
from lmc_fast.matching.sums import (
    Pairing,
    Products,
    Update,
    _changed_rows,
    _matched_sums,
    add_products,
    changed_rows,
    matched_sums,
    row_inner_products,
)

SHAPES = [
    (1, 1, 1),
    (7, 3, 2),
    (33, 100, 1),
    (50, 1, 784),
    (70, 37, 9),
    (130, 64, 9),
    (90, 3, 300),
]


def arranged(
    shape: tuple[int, int, int], layout: str, dtype: torch.dtype, seed: int
) -> torch.Tensor:
    """Normal numbers of the shape (units, rows, block) over memory in another order."""
    units, rows, block = shape
    generator = torch.Generator().manual_seed(seed)
    sizes, order = {
        "units first": ((units, rows, block), (0, 1, 2)),
        "rows first": ((rows, units, block), (1, 0, 2)),
        "units last": ((rows, block, units), (2, 0, 1)),
    }[layout]
    return torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype).permute(order)


def reference(a, b, a_rows, b_rows, last):
    a, b = a.double(), b.double()
    left = a if a_rows is None else a[:, a_rows]
    right = b if b_rows is None else b[:, b_rows]
    if last is not None:
        right = right - b[:, last]
    return torch.einsum("irk,jrk->ij", left, right)


@pytest.mark.parametrize("layout", ["units first", "rows first", "units last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_equal_the_sum_in_float64(shape, dtype, layout, monkeypatch):
    a, b = (arranged(shape, layout, dtype, seed) for seed in (0, 1))
    entry = Unfolded(Place("w", "g", 0, 0, 0), a, b, ("h",))
    units, rows, block = shape
    generator = torch.Generator().manual_seed(2)
    new, old, some = (torch.randperm(rows, generator=generator) for _ in range(3))
    part = some[: rows // 2 + 1]
    cases = [
        {},
        {"b_rows": new},
        {"b_rows": new, "last": old},
        {"a_rows": part, "b_rows": new[part], "last": old[part]},
    ]
    tolerance = 32 * torch.finfo(dtype).eps * (rows * block) ** 0.5
    for case in cases:
        expected = reference(a, b, *(case.get(name) for name in ("a_rows", "b_rows", "last")))
        for instruction_set in range(_core.best_instruction_set + 1):
            monkeypatch.setattr(_core, "best_instruction_set", instruction_set)
            for afresh, before in ((False, 1.0), (True, torch.nan)):
                similarity = torch.full((units, units), before, dtype=dtype)
                add_products([Update(similarity, [Products(entry, **case)], afresh)])
                torch.testing.assert_close(
                    similarity.double(),
                    expected if afresh else before + expected,
                    rtol=tolerance,
                    atol=tolerance,
                )
        monkeypatch.undo()


def test_no_products_leave_a_matrix_as_it_is_or_zero():
    entry = Unfolded(Place("w", "g", 0, 0, 0), torch.ones(5, 3, 2), torch.ones(5, 3, 2), ("h",))
    nothing = torch.zeros(0, dtype=torch.int64)
    for products in ([], [Products(entry, nothing, nothing)]):
        for afresh, expected in ((False, 7.0), (True, 0.0)):
            similarity = torch.full((5, 5), 7.0)
            add_products([Update(similarity, products, afresh)])
            assert (similarity == expected).all()


@pytest.mark.parametrize("instruction_set", range(_core.best_instruction_set + 1))
def test_products_depend_on_neither_threads_nor_company(instruction_set):
    kept = []

    def update(units, rows):
        shape = (units, rows, 9)
        a, b = (arranged(shape, "units first", torch.float32, seed) for seed in (3, 4))
        similarity = np.full((units, units), np.nan, dtype=np.float32)
        kept.extend((a, b, similarity))
        sums = (a.data_ptr(), a.stride(), b.data_ptr(), b.stride(), rows, 9, 0, 0, 0)
        return similarity, ([sums, sums], similarity.ctypes.data, units, True)

    shapes = [(200, 200), (7, 40), (530, 40), (64, 400)]
    alone = []
    for shape in shapes:
        similarity, compiled = update(*shape)
        _core.add_products_float32([compiled], instruction_set, 1)
        alone.append(similarity)
    for threads in (1, 2, 5, 16):
        together = [update(*shape) for shape in shapes]
        _core.add_products_float32([u for _, u in together], instruction_set, threads)
        for expected, (found, _) in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_an_interrupt_stops_the_products():
    a, b = (arranged((1024, 64, 9), "units first", torch.float32, seed) for seed in (5, 6))
    entry = Unfolded(Place("w", "g", 0, 0, 0), a, b, ("h",))
    many = torch.zeros(200_000, dtype=torch.int64)  # a minute of work
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    start = time.perf_counter()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            add_products([Update(torch.zeros(1024, 1024), [Products(entry, many, many)], False)])
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(5,), (1, 1), (30, 7), (12, 9, 3, 3), (3, 4000)])
def test_row_inner_products_equal_those_in_float64(shape, dtype):
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    rows = torch.randperm(shape[0], generator=generator)
    columns = torch.randperm(shape[1], generator=generator) if len(shape) > 1 else None
    for by_rows in (None, rows):
        for by_columns in (None, columns):
            moved = b if by_rows is None else b[by_rows]
            moved = moved if by_columns is None else moved[:, by_columns]
            expected = (a.double() * moved.double()).reshape(shape[0], -1).sum(1)
            found = row_inner_products([Pairing(a, b, by_rows, by_columns)])
            scale = a[0].numel() ** 0.5
            torch.testing.assert_close(
                found, expected, rtol=0, atol=40 * scale * torch.finfo(dtype).eps
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [1, 2, 300])
def test_matched_sums_are_those_of_a_plain_loop(units, dtype):
    generator = torch.Generator().manual_seed(6)
    similarity = torch.randn(units, units, generator=generator).to(dtype)
    current, target = (torch.randperm(units, generator=generator) for _ in range(2))
    target[: units // 2] = current[: units // 2]
    rows, exact = range(units), similarity.double()
    expected = (
        sum(exact[i, i].item() for i in rows),
        sum(exact[i, current[i]].item() for i in rows),
        sum(exact[i, target[i]].item() for i in rows),
        sum(abs(exact[i, target[i]].item()) for i in rows),
    )
    for found in (f(similarity, current, target) for f in (matched_sums, _matched_sums)):
        np.testing.assert_allclose(found[:4], expected, rtol=1e-12, atol=1e-12)
        assert found.moved == sum(int(current[i] != target[i]) for i in rows)


def test_changed_rows_are_those_that_differ():
    generator = torch.Generator().manual_seed(7)
    rows, last = (torch.randint(3, (50,), generator=generator) for _ in range(2))
    for other in (last, rows):
        differing = [k for k in range(50) if rows[k] != other[k]]
        for find in (changed_rows, _changed_rows):
            where, now, before = find(rows, other)
            assert where.tolist() == differing
            assert torch.equal(now, rows[differing])
            assert torch.equal(before, other[differing])
    for find in (changed_rows, _changed_rows):
        assert find(rows, rows + 1)[0] is None
