"""The compiled products of weight matching against float64 numpy."""

from __future__ import annotations

import lmc_fast._core as _core
import numpy as np
import pytest
import torch
from lmc_fast.matching.places import (
    Pairing,
    Place,
    Products,
    Unfolded,
    add_products,
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
        expected = 1 + reference(a, b, *(case.get(name) for name in ("a_rows", "b_rows", "last")))
        for instruction_set in range(_core.best_instruction_set + 1):
            monkeypatch.setattr(_core, "best_instruction_set", instruction_set)
            similarity = torch.ones(units, units, dtype=dtype)
            add_products(similarity, [Products(entry, **case)])
            torch.testing.assert_close(
                similarity.double(), expected, rtol=tolerance, atol=tolerance
            )
        monkeypatch.undo()


@pytest.mark.parametrize("instruction_set", range(_core.best_instruction_set + 1))
def test_products_do_not_depend_on_the_number_of_threads(instruction_set):
    units, rows, block = 300, 300, 9
    a, b = (arranged((units, rows, block), "units first", torch.float32, seed) for seed in (3, 4))
    results = []
    for threads in (1, 2, 3, 5, 16):
        similarity = np.zeros((units, units), dtype=np.float32)
        sums = (a.data_ptr(), a.stride(), b.data_ptr(), b.stride(), rows, block, 0, 0, 0)
        _core.add_products([sums, sums], similarity, instruction_set, threads)
        results.append(similarity)
    for other in results[1:]:
        np.testing.assert_array_equal(results[0], other)


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
            found = row_inner_products([Pairing(a, b, by_rows, by_columns)])[0]
            scale = a[0].numel() ** 0.5
            torch.testing.assert_close(
                found, expected, rtol=0, atol=40 * scale * torch.finfo(dtype).eps
            )
