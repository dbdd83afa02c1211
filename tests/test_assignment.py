import ast
import hashlib
import itertools
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import torch
from lmc_fast import linear_sum_assignment, solve_assignment
from lmc_fast.assignment import solve_together

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.families import FAMILIES, random_matrix
from bench.fuzz import check, draw

INF = math.inf

# (matrix, least cost): square, wide, one row, ties, forbidden pairs, negative entries, empty.
CASES = [
    ([[40, 15, 40], [40, 45, 60], [30, 22, 31]], 86),
    ([[40, 15, 40, 1], [40, 45, 60, 2], [30, 22, 31, 3]], 47),
    ([[7, 3, 9, 5]], 3),
    ([[10, 10, 8], [9, 8, 1], [9, 7, 4]], 18),
    ([[10, 10, 8, 11], [9, 8, 1, 1], [9, 7, 4, 10]], 15),
    ([[10, INF, INF], [INF, INF, 1], [INF, 7, INF]], 18),
    ([[INF, 5, INF], [2, INF, INF]], 7),
    ([[-3, -7], [-5, -8]], -12),
    ([[0, 0], [0, 0]], 0),
    ([[], []], 0),
]
KINDS = ["numpy-float32", "numpy-float64", "torch-float32", "torch-float64"]


def as_kind(matrix, kind):
    library, dtype = kind.split("-")
    array = np.asarray(matrix, dtype=dtype)
    return array if library == "numpy" else torch.from_numpy(array)


def brute_force(cost):
    """Every assignment with the least total, each as a tuple of columns with -1 for none."""
    rows, cols = cost.shape
    places = list(range(cols)) + [-1] * max(rows - cols, 0)
    totals = {}
    for choice in itertools.permutations(places, rows):
        totals[choice] = sum(cost[i, j] for i, j in enumerate(choice) if j >= 0)
    least = min(totals.values())
    return [choice for choice, total in totals.items() if total == least]


def order(choice):
    return tuple(math.inf if j < 0 else j for j in choice)


def assert_certified(cost, result, maximize=False):
    """The duals prove the assignment optimal, checked outside the solver."""
    cost = np.asarray(cost, dtype=np.float64)
    sign = -1.0 if maximize else 1.0
    rows = np.flatnonzero(result.cols >= 0)
    cols = result.cols[rows]
    assert len(rows) == min(cost.shape)
    assert len(set(cols.tolist())) == len(rows)
    slack = sign * (cost - result.u[:, None] - result.v[None, :])
    tolerance = 4 * result.moved_by
    assert slack.min() >= -tolerance
    assert np.abs(slack[rows, cols]).max() <= tolerance
    free_rows = np.setdiff1d(np.arange(cost.shape[0]), rows)
    free_cols = np.setdiff1d(np.arange(cost.shape[1]), cols)
    assert not result.u[free_rows].any()
    assert not result.v[free_cols].any()
    if cost.shape[0] < cost.shape[1]:
        assert (sign * result.v).max() <= 0
    if cost.shape[0] > cost.shape[1]:
        assert (sign * result.u).max() <= 0
    assert result.gap == 0.0
    assert result.objective == pytest.approx(math.fsum(cost[rows, cols]), rel=1e-15, abs=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("matrix", "least"), CASES)
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_known_optima(matrix, least, kind, negate, transpose):
    cost = as_kind(matrix, kind)
    cost = cost.T if transpose else cost
    cost = -cost if negate else cost
    row_ind, col_ind = linear_sum_assignment(cost, maximize=negate)
    assert len(row_ind) == len(col_ind) == min(cost.shape)
    assert (row_ind[1:] > row_ind[:-1]).all()
    assert float(cost[row_ind, col_ind].sum()) == (-least if negate else least)
    if kind.startswith("torch"):
        assert row_ind.dtype == col_ind.dtype == torch.int64
    else:
        assert row_ind.dtype == col_ind.dtype == np.int64


def test_canonical_optimum_against_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(400):
        rows, cols = rng.integers(1, 6, 2)
        cost = rng.integers(0, rng.integers(1, 6) + 1, (rows, cols)).astype(np.float32)
        optima = brute_force(cost)
        first = solve_assignment(cost)
        assert_certified(cost, first)
        assert tuple(first.cols) == min(optima, key=order)
        column_major = solve_assignment(np.asfortranarray(cost))
        assert (column_major.cols == first.cols).all()
        prefer = rng.integers(-1, cols, rows)
        keep = solve_assignment(cost, ties="keep", prefer=prefer)
        agreement = [sum(a == b >= 0 for a, b in zip(c, prefer, strict=True)) for c in optima]
        nearest = [c for c, a in zip(optima, agreement, strict=True) if a == max(agreement)]
        assert tuple(keep.cols) == min(nearest, key=order)


# Row 0 seems to want column 0 as much as row 1 does, and takes it as the first. On the grid, row 1
# wants it more by a step that the difference from its best entry, 1, loses; row 0 would lose less
# in column 2. The step of the grid is 2**-45.
WRONG_CLAIMS = {
    np.float32: [[-1, 2**-10, 2**-10 - 2**-33], [-(2**-10) + 2**-30, -1, 1], [-1, 1, -1]],
    np.float64: [
        [-1 + 0.49 * 2**-45, 2**-10 + 0.4 * 2**-45, 2**-10 - 0.4 * 2**-45],
        [-(2**-10) + 0.51 * 2**-45, -1, 1 + 0.45 * 2**-45],
        [-1, 1, -1],
    ],
}


@pytest.mark.parametrize("constant_rows", [0, 1])
@pytest.mark.parametrize("width", [3, 5])
@pytest.mark.parametrize("dtype", WRONG_CLAIMS)
def test_wrong_claims_are_mended(dtype, width, constant_rows):
    cost = np.full((3 + constant_rows, max(width, 3 + constant_rows)), 1, dtype)
    cost[:3, :3] = -np.array(WRONG_CLAIMS[dtype], dtype)
    result = solve_assignment(cost)
    assert_certified(cost, result)
    assert result.cols[:3].tolist() == [2, 0, 1]
    assert linear_sum_assignment(cost)[1].tolist() == result.cols.tolist()


@pytest.mark.parametrize("kind", FAMILIES)
def test_agrees_with_scipy_and_certificate(kind):
    rng = np.random.default_rng(FAMILIES.index(kind))
    for trial in range(40):
        rows, cols = rng.integers(1, 40, 2)
        if trial % 2:
            rows = cols
        cost = random_matrix(rng, kind, rows, cols)
        try:
            i, j = scipy.optimize.linear_sum_assignment(cost)
        except ValueError:
            with pytest.raises(ValueError, match="infeasible"):
                linear_sum_assignment(cost)
            continue
        result = solve_assignment(cost)
        expected = math.fsum(cost[i, j].astype(np.float64))
        assert result.objective == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert_certified(cost, result)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("shape", [(30, 30), (20, 30)])
def test_laws(kind, shape):
    rng = np.random.default_rng(7)
    cost = random_matrix(rng, kind, *shape)
    result = solve_assignment(cost)
    flipped = solve_assignment(cost.T)
    assert flipped.objective == pytest.approx(result.objective, rel=1e-14)
    assert (solve_assignment(-cost, maximize=True).cols == result.cols).all()
    warm = solve_assignment(cost, initial_duals=(result.u, result.v))
    assert (warm.cols == result.cols).all()
    stale = solve_assignment(cost, initial_duals=(rng.random(shape[0]), rng.random(shape[1])))
    assert (stale.cols == result.cols).all()
    kept = solve_assignment(cost, ties="keep", prefer=result.cols)
    assert (kept.cols == result.cols).all()
    # The k-th row of a row-permuted matrix has the same set of optima: keeping the mapped answer
    # must be possible.
    order_ = rng.permutation(shape[0])
    shuffled = solve_assignment(cost[order_], ties="keep", prefer=result.cols[order_])
    assert (shuffled.cols == result.cols[order_]).all()


def test_scaling_by_powers_of_two_changes_nothing():
    cost = np.random.default_rng(3).standard_normal((25, 25))
    expected = solve_assignment(cost).cols
    for exponent in (-1000, -300, 300, 1000):
        scaled = np.ldexp(cost, exponent)
        result = solve_assignment(scaled)
        assert (result.cols == expected).all()
        assert result.gap == 0.0


def least_total(cost):
    try:
        rows, cols = scipy.optimize.linear_sum_assignment(cost)
    except ValueError:
        return INF
    return math.fsum(cost[rows, cols])


def regret(cost, row, col):
    """By how much the total rises if the row may not have the column, or must have one (-1)."""
    if col >= 0:
        forbidden = cost.copy()
        forbidden[row, col] = INF
        return least_total(forbidden) - least_total(cost)
    others = np.delete(cost, row, 0)
    choices = range(cost.shape[1])
    totals = [cost[row, j] + least_total(np.delete(others, j, 1)) for j in choices]
    return min(totals) - least_total(cost)


@pytest.mark.parametrize("kind", FAMILIES)
def test_regrets_against_solving_without_the_pair(kind):
    rng = np.random.default_rng(18)
    for trial in range(24):
        shape = rng.integers(1, 11, 2) if trial % 3 else (trial // 3 + 1,) * 2
        cost = np.asarray(random_matrix(rng, kind, *shape), order="CF"[trial % 2])
        try:
            result = solve_assignment(cost, regrets=True)
        except ValueError:  # infeasible
            continue
        expected = [regret(cost.astype(np.float64), i, j) for i, j in enumerate(result.cols)]
        np.testing.assert_allclose(result.regrets, expected, rtol=1e-12, atol=1e-13)
        if shape[0] <= shape[1]:
            assert (result.margins <= result.regrets).all()


@pytest.mark.parametrize("shape", [(330, 330), (300, 345), (345, 300), (470, 230)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_regrets_beyond_the_lists(kind, shape):
    rng = np.random.default_rng(19)
    cost = random_matrix(rng, kind, *shape)
    result = solve_assignment(cost, regrets=True)
    for row in rng.choice(shape[0], 4, replace=False):
        col = result.cols[row]
        forbidden = cost.astype(np.float64)
        bonus = 0.0
        if col >= 0:
            forbidden[row, col] = INF
        else:  # worth so much that the row gets a partner
            bonus = 1024.0
            forbidden[row] -= bonus
        other = least_total(forbidden) + bonus - result.objective
        assert result.regrets[row] == pytest.approx(other, rel=1e-9, abs=1e-10)


def with_dead_rows_and_columns(rng, rows, cols, forbidden):
    """Two kinds of constant columns, and some that are alike."""
    cost = random_matrix(rng, "forbidden" if forbidden else "uniform", rows, cols)
    cost[:, rng.random(cols) < 0.2] = rng.choice([0.25, 0.5], (rows, 1))
    cost[:, rng.random(cols) < 0.2] = 0.5
    cost[rng.random(rows) < 0.4] = 0
    cost[:, rng.random(cols) < 0.3] = 0
    return cost


@pytest.mark.parametrize("forbidden", [False, True])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("shape", [(60, 60), (50, 66), (66, 50)])
def test_regrets_with_dead_rows_and_columns(shape, sign, forbidden):
    cost = with_dead_rows_and_columns(np.random.default_rng(22), *shape, forbidden)
    cost = np.where(np.isinf(cost), INF, sign * cost)
    result = solve_assignment(cost, regrets=True)
    expected = [regret(cost, i, j) for i, j in enumerate(result.cols)]
    np.testing.assert_allclose(result.regrets, expected, rtol=1e-12, atol=1e-13)
    assert 0 < np.count_nonzero(result.regrets) < shape[0]


def test_regrets_come_with_optima_only():
    assert solve_assignment(np.eye(3)).regrets is None
    with pytest.raises(ValueError, match="max_gap=0"):
        solve_assignment(np.eye(3), max_gap=0.1, regrets=True)


def test_margins_are_second_choices_under_the_duals():
    cost = np.random.default_rng(4).random((12, 15)).astype(np.float32)
    result = solve_assignment(cost)
    slack = cost.astype(np.float64) - result.u[:, None] - result.v[None, :]
    slack[np.arange(12), result.cols] = np.inf
    np.testing.assert_array_equal(result.margins, slack.min(axis=1))
    assert solve_assignment([[3.0]]).margins[0] == np.inf


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_batches_equal_single_problems(library):
    rng = np.random.default_rng(5)
    for shape in [(3, 7, 7), (2, 3, 5, 8), (4, 9, 4)]:
        cost = rng.random(shape, dtype=np.float32)
        given = torch.from_numpy(cost) if library == "torch" else cost
        rows, cols = linear_sum_assignment(given)
        result = solve_assignment(given)
        assert rows.shape == cols.shape == (*shape[:-2], min(shape[-2:]))
        assert result.cols.shape == shape[:-1]
        for index in np.ndindex(*shape[:-2]):
            i, j = linear_sum_assignment(cost[index])
            single = solve_assignment(cost[index])
            assert (np.asarray(rows)[index] == i).all()
            assert (np.asarray(cols)[index] == j).all()
            assert (np.asarray(result.u)[index] == single.u).all()
            assert result.objective[index] == single.objective


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((0, 0), (0,)), ((0, 5), (0,)), ((5, 0), (0,)), ((3, 0, 0), (3, 0)), ((0, 4, 4), (0, 4))],
)
def test_empty(shape, expected):
    for cost in (np.zeros(shape), torch.zeros(shape)):
        rows, cols = linear_sum_assignment(cost)
        assert tuple(rows.shape) == tuple(cols.shape) == expected
        result = solve_assignment(cost)
        assert tuple(result.cols.shape) == shape[:-1]
    assert solve_assignment(np.zeros((2, 0))).objective == 0.0


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (np.zeros(3), ValueError, r"expected a matrix .* got shape \(3,\)"),
        (np.float64(1), ValueError, "expected a matrix"),
        (torch.zeros(3), ValueError, "expected a matrix"),
        ("costs", TypeError, "real numbers"),
        ([["a", "b"], ["c", "d"]], TypeError, "real numbers"),
        (None, TypeError, "real numbers"),
        (np.full((2, 2), None), TypeError, "real numbers"),
        ([[1, 2], [3]], ValueError, "matrix of numbers"),
        (np.ones((2, 2), dtype=complex), TypeError, "real numbers"),
        (torch.ones(2, 2, dtype=torch.complex64), TypeError, "real costs"),
        (torch.ones(2, 2).to_sparse(), TypeError, "dense"),
        (torch.ones(2, 2, device="meta"), TypeError, "values in memory"),
        (np.ma.masked_equal(np.eye(2), 1), TypeError, "mask"),
        (np.array([[2**53, 1], [1, 0]]), ValueError, r"below 2\*\*53"),
        (torch.tensor([[-(2**60), 1], [1, 0]]), ValueError, r"below 2\*\*53"),
        ([[1.0, INF], [2.0, INF]], ValueError, "infeasible"),
        ([[INF]], ValueError, "infeasible"),
        ([[1.0, 2.0], [math.nan, math.nan]], ValueError, "row 1, column 0"),
        ([[1.0, -INF], [2.0, 3.0]], ValueError, "row 0, column 1"),
        (np.array([[1.0, math.nan], [math.nan, 3.0]]).T, ValueError, "row 0, column 1"),
    ],
)
def test_bad_costs(cost, error, message):
    with pytest.raises(error, match=message) as caught:
        linear_sum_assignment(cost)
    assert "[linear_sum_assignment]" in str(caught.value)


@pytest.mark.parametrize("solve", [linear_sum_assignment, solve_assignment])
def test_tensors_under_a_transform_have_no_values(solve):
    with pytest.raises(TypeError, match="under a transform"):
        torch.func.vmap(lambda cost: solve(cost)[0])(torch.rand(2, 3, 3))


@pytest.mark.parametrize("threads", [1, 2])
def test_problems_of_any_sizes_together(threads):
    rng = torch.Generator().manual_seed(5)
    shapes = [(3, 4), (150, 150), (2, 40, 40), (400, 330), (64, 64)]
    costs = [torch.rand(shape, generator=rng).mul(20).floor() for shape in shapes]
    prefer = [torch.arange(c.shape[-2]).expand(c.shape[:-1]) % c.shape[-1] for c in costs]
    first = solve_assignment(costs[1])
    duals = [None, (first.u, first.v), None, None, None]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = solve_together(costs, maximize=True, prefer=prefer, initial_duals=duals)
    finally:
        torch.set_num_threads(before)
    for cost, wanted, result in zip(costs, prefer, found, strict=True):
        alone = solve_assignment(cost, maximize=True, ties="keep", prefer=wanted)
        assert (result.cols == alone.cols).all()
        assert (torch.as_tensor(result.gap) == 0).all()


def test_the_failing_problem_of_several_is_named():
    costs = [torch.zeros(200, 200), torch.zeros(2, 3, 3)]
    costs[1][1, 2, 1] = math.nan
    with pytest.raises(ValueError, match=r"row 2, column 1 in problem 1 of the batch"):
        solve_together(costs, maximize=False, prefer=[torch.arange(200), torch.zeros(2, 3).long()])


def test_bad_value_in_a_batch_names_the_problem():
    cost = torch.rand(4, 5, 5)
    cost[2, 1, 3] = math.nan
    with pytest.raises(ValueError, match="row 1, column 3 in problem 2"):
        linear_sum_assignment(cost)


def test_a_row_without_a_pair_is_infeasible():
    none = -np.inf
    cost = np.array([[none, 1, none], [none, none, none], [2, none, none]])
    with pytest.raises(ValueError, match="infeasible"):
        solve_assignment(cost, maximize=True)


def test_infinity_has_a_side():
    cost = np.array([[INF, 1.0], [1.0, 5.0]])
    assert linear_sum_assignment(cost)[1].tolist() == [1, 0]
    assert linear_sum_assignment(-cost, maximize=True)[1].tolist() == [1, 0]
    with pytest.raises(ValueError, match="invalid numeric"):
        linear_sum_assignment(cost, maximize=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"ties": "last"}, ValueError),
        ({"ties": "keep"}, ValueError),
        ({"prefer": [0, 1]}, ValueError),
        ({"ties": "keep", "prefer": [0, 1, 2]}, ValueError),
        ({"ties": "keep", "prefer": [0, 2]}, ValueError),
        ({"ties": "keep", "prefer": [0.0, 1.0]}, TypeError),
        ({"max_gap": -1.0}, ValueError),
        ({"max_gap": math.nan}, ValueError),
        ({"initial_duals": ([0, 0], [0, 0, 0])}, ValueError),
        ({"initial_duals": ([0, 0], [0, math.nan])}, ValueError),
        ({"initial_duals": 3}, TypeError),
    ],
)
def test_bad_options(options, error):
    with pytest.raises(error, match=r"\[solve_assignment\]"):
        solve_assignment(np.eye(2), **options)


@pytest.mark.parametrize(
    "convert",
    [
        lambda c: c.tolist(),
        lambda c: memoryview(np.ascontiguousarray(c)),
        lambda c: c.astype(np.float16),
        lambda c: c.astype(np.int8),
        lambda c: c.astype(np.uint64),
        lambda c: c.astype(">f8"),
        lambda c: torch.from_numpy(c).to(torch.bfloat16),
        lambda c: torch.from_numpy(c).half(),
        lambda c: torch.from_numpy(c).to(torch.int64),
        lambda c: torch.from_numpy(c).to(torch.uint8),
        lambda c: torch.nn.Parameter(torch.from_numpy(c)),
    ],
)
def test_accepted_kinds(convert):
    cost = np.random.default_rng(6).integers(0, 100, (9, 9)).astype(np.float64)
    expected = linear_sum_assignment(cost)[1]
    given = convert(cost)
    got = linear_sum_assignment(given)[1]
    assert type(got) is (torch.Tensor if isinstance(given, torch.Tensor) else np.ndarray)
    assert got.tolist() == expected.tolist()
    if isinstance(given, torch.nn.Parameter):
        assert given.requires_grad


def test_booleans():
    cost = np.array([[True, False], [False, True]])
    assert linear_sum_assignment(cost)[1].tolist() == [1, 0]
    assert linear_sum_assignment(torch.from_numpy(cost), maximize=True)[1].tolist() == [0, 1]


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_views_give_the_answer_of_their_copy(library):
    base = np.random.default_rng(8).random((40, 60), dtype=np.float32)
    views = {
        "transposed": lambda x: x.T,
        "offset": lambda x: x[3:, 5:],
        "every other column": lambda x: x[:, ::2],
        "every other row": lambda x: x[::2],
        "one row": lambda x: x[4:5],
        "one column": lambda x: x[:, 4:5],
    }
    if library == "numpy":
        views["reversed"] = lambda x: x[::-1, ::-1]
        views["one row for all"] = lambda x: np.broadcast_to(x[0], (20, 60))
        views["one column for all"] = lambda x: np.broadcast_to(x[:, :1], (40, 20))
        views["unaligned"] = lambda x: np.frombuffer(
            b"x" + x.tobytes(), np.float32, 2400, 1
        ).reshape(40, 60)
    else:
        views["one row for all"] = lambda x: x[0].expand(20, 60)
        views["one column for all"] = lambda x: x[:, :1].expand(40, 20)
        views["negated"] = lambda x: torch._neg_view(x)
    for name, take in views.items():
        view = take(base if library == "numpy" else torch.from_numpy(base))
        copy = np.array(view.tolist(), dtype=np.float32)
        before = copy.copy()
        got = linear_sum_assignment(view)
        expected = linear_sum_assignment(copy)
        assert np.asarray(got[1]).tolist() == expected[1].tolist(), name
        assert np.asarray(got[0]).tolist() == expected[0].tolist(), name
        assert np.array_equal(np.array(view.tolist(), dtype=np.float32), before), name


def test_too_large_to_copy_is_a_memory_error():
    with pytest.raises(MemoryError, match="bytes"):
        linear_sum_assignment(torch.zeros(1, 1).expand(10**7, 10**7))
    with pytest.raises(MemoryError, match="bytes"):
        linear_sum_assignment(np.broadcast_to(np.float32(0), (10**7, 10**7)))


def test_constant_gives_the_identity():
    for value in (0.0, -3.5, 1e-300):
        result = solve_assignment(np.full((50, 50), value))
        assert result.cols.tolist() == list(range(50))
        assert result.gap == 0.0


def test_wide_range_of_magnitudes():
    rng = np.random.default_rng(9)
    for _ in range(50):
        exponents = rng.integers(-1070, 1020, (6, 6))
        cost = np.ldexp(rng.random((6, 6)), exponents)
        result = solve_assignment(cost)
        best = min(
            math.fsum(cost[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(6))
        )
        assert result.gap == 0.0
        assert result.objective <= best + 12 * result.moved_by


# Every row but one would have the next column, so that each price is 2 above the one before.
@pytest.mark.parametrize("n", [20, 300, 330])
def test_prices_that_outgrow_the_grid(n):
    rng = np.random.default_rng(21)
    cost = np.full((n, n), INF, np.float32)
    np.fill_diagonal(cost, 1)
    np.fill_diagonal(cost[:, 1:], -1)
    result = solve_assignment(cost[rng.permutation(n)][:, rng.permutation(n)])
    assert result.gap == 0.0
    assert result.objective == n
    assert np.ptp(result.v) == 2 * (n - 1)


def test_many_threads_at_once():
    cost = torch.rand(120, 120, generator=torch.Generator().manual_seed(0))
    expected = linear_sum_assignment(cost)[1]
    same = []

    def work():
        same.extend(torch.equal(linear_sum_assignment(cost)[1], expected) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same == [True] * 30


@pytest.mark.parametrize("shape", [(330, 330), (300, 345), (345, 300), (470, 230)])
@pytest.mark.parametrize("kind", FAMILIES)
def test_wide_matrices_against_scipy_certificate_and_other_orientation(kind, shape):
    rng = np.random.default_rng(11)
    cost = random_matrix(rng, kind, *shape)
    i, j = scipy.optimize.linear_sum_assignment(cost)
    result = solve_assignment(cost)
    expected = math.fsum(cost[i, j].astype(np.float64))
    assert result.objective == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert_certified(cost, result)
    for other in (
        solve_assignment(np.asfortranarray(cost)),
        solve_assignment(-cost, maximize=True),
        solve_assignment(cost, initial_duals=(result.u, result.v)),
        solve_assignment(cost.astype(np.float64)),
        solve_assignment(cost, initial_duals=(rng.random(shape[0]), rng.random(shape[1]))),
    ):
        assert other.gap == 0.0
        assert (other.cols == result.cols).all()


# Widths that are no multiple of any vector or block, wide enough for groups of several entries.
@pytest.mark.parametrize("shape", [(523, 523), (611, 1003), (1029, 701), (1203, 611)])
@pytest.mark.parametrize("kind", ["uniform", "low rank", "dead", "integers", "products"])
def test_widths_beyond_whole_blocks(kind, shape):
    cost = random_matrix(np.random.default_rng(16), kind, *shape)
    i, j = scipy.optimize.linear_sum_assignment(cost)
    result = solve_assignment(cost)
    expected = math.fsum(cost[i, j].astype(np.float64))
    assert result.objective == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert_certified(cost, result)


def test_warm_start_reads_less():
    rng = np.random.default_rng(12)
    cost = rng.random((300, 300), dtype=np.float32)
    cold = solve_assignment(cost)
    warm = solve_assignment(cost, initial_duals=(cold.u, cold.v))
    assert warm.list_visits + warm.rows_read < (cold.list_visits + cold.rows_read) / 2


@pytest.mark.parametrize("n", [250, 400])  # by scans of whole rows, by lists
def test_max_gap_stops_early_within_its_bound(n):
    cost = np.random.default_rng(13).random((n, n), dtype=np.float32)
    best = solve_assignment(cost)
    for max_gap in (10.0, 1.0, 0.01):
        result = solve_assignment(cost, max_gap=max_gap)
        assert sorted(result.cols.tolist()) == list(range(n))
        assert result.gap <= max_gap
        assert result.objective - best.objective <= result.gap * (1 + 1e-12)
    early = solve_assignment(cost, max_gap=10.0)
    assert early.list_visits + early.rows_read < best.list_visits + best.rows_read


def test_same_answer_for_any_thread_count():
    cost = np.random.default_rng(14).integers(0, 50, (300, 300)).astype(np.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            results.append(solve_assignment(cost, regrets=True))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        for field in ("cols", "u", "v", "margins", "regrets"):
            assert (getattr(result, field) == getattr(results[0], field)).all()


# Rows read per row and list visits per row: no clock, so no noise.
WORK = [("uniform", 10, 60), ("low rank", 25, 150), ("dead", 8, 80), ("constant", 6, 2)]


@pytest.mark.parametrize(("kind", "reads", "visits"), WORK)
def test_work_stays_bounded(kind, reads, visits):
    rng = np.random.default_rng(15)
    n = 600
    cost = random_matrix(rng, kind, n, n)
    result = solve_assignment(-cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= reads * n
    assert result.list_visits <= visits * n


# Dead units are not constant beside forbidden pairs, and would only outbid each other.
def test_dead_rows_and_columns_with_forbidden_pairs_take_little_work():
    rng = np.random.default_rng(23)
    n = 600
    cost = random_matrix(rng, "normal", n, n)
    cost[rng.random(n) < 0.3] = 0
    cost[:, rng.random(n) < 0.3] = 0
    cost[rng.random((n, n)) < 0.3] = INF
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 12 * n
    assert result.list_visits <= 20 * n


# To a search all dead units are one place; as many places they would make it read dozens of rows.
@pytest.mark.parametrize("sign", [1, -1])
def test_regrets_of_dead_rows_and_columns_take_little_work(sign):
    n = 600
    cost = sign * random_matrix(np.random.default_rng(21), "dead", n, n)
    plain, result = (solve_assignment(cost, regrets=regrets) for regrets in (False, True))
    assert result.rows_read - plain.rows_read <= 3.5 * n
    assert result.list_visits - plain.list_visits <= 60 * n


def with_dead_units(rows, cols):
    rng = np.random.default_rng(3)
    cost = rng.standard_normal((rows, 6)) @ rng.standard_normal((6, cols))
    cost += 0.5 * rng.standard_normal((rows, cols))
    cost[rng.random(rows) < 0.1] = 0
    cost[:, rng.random(cols) < 0.1] = 0
    return cost


# Free columns stay the cheapest, so constant rows and dummies have nothing to bid for.
def test_wide_matrices_take_little_work():
    rows, cols = 400, 1000
    cost = with_dead_units(rows, cols).astype(np.float32)
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= 3.2 * rows
    assert result.list_visits <= 8 * rows
    assert result.augmentations <= rows / 32


# The survey knows every row's best two columns: only rows that want the same one make lists.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_wide_matrices_make_lists_when_they_lose_their_favourites(dtype):
    rows, cols = 301, 2003
    cost = np.random.default_rng(6).standard_normal((rows, cols)).astype(dtype)
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 2.3 * rows
    assert result.list_visits <= 0.5 * rows


# Dummies that lose a column bid for another one; the others keep theirs.
def test_dummies_that_bid_take_little_work():
    rows, cols = 400, 800
    cost = random_matrix(np.random.default_rng(5), "low rank", rows, cols)
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= 11.5 * rows
    assert result.list_visits <= 56 * rows


# Columns to spare in several words of a row: the smallest columns of all optima.
def test_wide_ties_take_the_smallest_columns():
    rng = np.random.default_rng(8)
    for _ in range(60):
        rows = int(rng.integers(2, 5))
        cols = rows + int(rng.integers(1, 4))
        places = np.sort(rng.permutation(150)[:cols])
        cost = np.full((rows, 150), 50, np.float32)
        cost[:, places] = rng.integers(0, 3, (rows, cols))
        choices = itertools.permutations(places.tolist(), rows)
        expected = min(choices, key=lambda choice: (cost[range(rows), choice].sum(), choice))
        assert tuple(solve_assignment(cost).cols) == expected


# Short lines are copied the other way: no row without a partner looks for one.
@pytest.mark.parametrize(("kind", "reads", "visits"), [("uniform", 2.7, 2), ("grams", 10, 45)])
def test_slightly_tall_matrices_take_little_work(kind, reads, visits):
    rows, cols = 500, 400
    rng = np.random.default_rng(1)
    if kind == "uniform":
        cost = rng.random((rows, cols), dtype=np.float32)
    else:
        units, others = (
            np.maximum(rng.standard_normal((n, 32)) + 0.5, 0) * rng.gamma(2, 1, (n, 1))
            for n in (rows, cols)
        )
        cost = (units @ others.T).astype(np.float32)
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= reads * cols
    assert result.list_visits <= visits * cols


# Each column reads the rows once, and no row without a partner looks for one.
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tall_matrices_take_little_work(dtype):
    rows, cols = 2101, 1037
    cost = with_dead_units(rows, cols).astype(dtype)
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= 2 * rows + 1.1 * cols
    assert result.list_visits <= 8 * cols
    assert result.augmentations <= cols / 4
    other = solve_assignment(np.asfortranarray(cost), maximize=True)
    assert (other.cols == result.cols).all()


# Sorted products: dummies are sorted along with the rows and columns.
@pytest.mark.parametrize("shape", [(400, 1000), (1000, 400), (500, 600), (600, 500)])
def test_products_take_little_work(shape):
    cost = random_matrix(np.random.default_rng(0), "products", *shape)
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 8 * max(shape)
    assert result.list_visits <= 32 * max(shape)
    assert result.augmentations <= max(shape) / 2


# A network with itself, dead units and all.
@pytest.mark.parametrize("cols", [400, 500])
def test_rows_with_different_favourites_take_two_readings(cols):
    rng = np.random.default_rng(4)
    n = 400
    cost = rng.random((n, cols), dtype=np.float32) * 0.9
    favourite = rng.permutation(cols)[:n]
    cost[np.arange(n), favourite] = 1
    dead = rng.random(n) < 0.1
    cost[dead] = 0
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.rows_read == 2 * n
    assert (result.cols[~dead] == favourite[~dead]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(600, 600), (500, 601)])
def test_rows_with_several_favourites_share_them(shape, dtype):
    rng = np.random.default_rng(5)
    cost = rng.integers(0, 60, shape).astype(dtype)
    cost[rng.random(shape[0]) < 0.1] = 7
    result = solve_assignment(cost)
    rows, cols = scipy.optimize.linear_sum_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read == 2 * len(cost)
    assert result.objective == cost[rows, cols].sum()


# Every row has several best columns, but all want the same half of them.
def test_favourites_that_do_not_suffice_are_given_up():
    rng = np.random.default_rng(6)
    n = 400
    cost = rng.integers(1, 1000, (n, n)).astype(np.float32)
    cost[:, : n // 2] = rng.random((n, n // 2)) < 0.9
    result = solve_assignment(cost)
    rows, cols = scipy.optimize.linear_sum_assignment(cost)
    assert result.gap == 0.0
    assert result.objective == cost[rows, cols].sum()


# The lines that a small sample sees are zero but for one entry, as units that are dead may be.
def test_a_sample_of_dead_lines_is_not_of_rank_one():
    n = 960
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, n, 8))
    cost = x @ (0.7 * y + 0.7 * x[rng.permutation(n)]).T
    for lines in (5, 8):
        sample = (2 * np.arange(lines) + 1) * n // (2 * lines)
        cost[sample] = cost[:, sample] = 0
    cost[n // 10, n // 10] = cost[n // 16, n // 16] = 30
    result = solve_assignment(cost.astype(np.float32), maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= 5.5 * n
    assert result.list_visits <= 25 * n


# Half of the rows like only half of the columns, which the others took first: every search for a
# favourite is longer than the last, so the lists take over.
def test_favourites_are_not_looked_for_at_any_cost():
    n = 600
    half = np.arange(n // 2)
    cost = np.random.default_rng(0).random((n, n)).astype(np.float32) / 2
    cost[:, half] = 1
    cost[half, n // 2 + half] = 1
    result = solve_assignment(cost, maximize=True)
    assert result.gap == 0.0
    assert result.objective == n
    assert result.rows_read == 3 * n
    assert result.augmentations > 0


# Two strong directions and little else: prices have much farther to go than rows prefer their best.
@pytest.mark.parametrize("n", [600, 1500])
def test_prices_that_have_far_to_go_take_few_searches(n):
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n))
    z, w = rng.standard_normal((2, n))
    cost = np.outer(x, y) + 0.1 * np.outer(z, w) + 0.01 * rng.standard_normal((n, n))
    result = solve_assignment(cost.astype(np.float32), maximize=True)
    assert result.gap == 0.0
    assert result.rows_read <= 20 * n
    assert result.augmentations <= n / 20


# More equal best entries than a list holds: rows list different ones.
@pytest.mark.parametrize("values", [4, 12])
def test_many_ties_take_little_work(values):
    n = 600
    cost = np.random.default_rng(values).integers(0, values, (n, n)).astype(np.float32)
    cost[:, -1] = values  # nobody's favourite
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 3.6 * n
    assert result.list_visits <= 2 * n
    assert result.augmentations <= n / 8


# Hundreds of equal entries in every row, and no two columns alike.
def test_dead_columns_with_forbidden_pairs_take_bounded_work():
    n = 400
    rng = np.random.default_rng(0)
    cost = rng.random((n, n), dtype=np.float32)
    cost[:, rng.random(n) < 0.4] = 0
    cost[rng.random((n, n)) < 0.3] = np.inf
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 52 * n
    assert result.list_visits <= 54 * n


# Eight or 64 copies of every row, column or both: kinds are looked at, not each of their members.
@pytest.mark.parametrize("copies", [8, 64])
@pytest.mark.parametrize("copied", ["rows", "columns", "both"])
def test_copies_take_little_work(copied, copies):
    n = 768
    rng = np.random.default_rng(20)
    cost = rng.random((n, n), dtype=np.float32)
    if copied != "columns":
        cost = cost[rng.permutation(n) % (n // copies)]
    if copied != "rows":
        cost = cost[:, rng.permutation(n) % (n // copies)]
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.rows_read <= 4 * n
    assert result.list_visits <= 20 * n
    assert result.augmentations <= n / 8


def test_one_forbidden_pair_among_constant_columns():
    cost = np.full((344, 331), 0.75)
    cost[157, 157] = INF
    result = solve_assignment(cost)
    assert result.gap == 0.0
    assert result.objective == 0.75 * 331


# Signals by CPU time: however busy the machine is, the handler runs whenever a solve looks for
# signals, at least every 0.2 s of its thread's own time.
POLLING = """
import itertools, signal, sys, time
import numpy as np, torch
from lmc_fast import linear_sum_assignment, solve_assignment
torch.set_num_threads(1)
seen = []
signal.signal(signal.SIGVTALRM, lambda *_: seen.append(time.thread_time()))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.01, 0.01)
n = int(sys.argv[1])
rng = np.random.default_rng(0)
x, y = rng.random((2, n, 3))
products = (x @ y.T).astype(np.float32)  # three nearly equal products: the longest searches
ties = rng.integers(0, 4, (n, n)).astype(np.float32)
dead = rng.random((n, n), dtype=np.float32)
dead[rng.random(n) < 0.4] = 0
dead[:, rng.random(n) < 0.4] = 0
forbidden = rng.random((n, n), dtype=np.float32)
forbidden[rng.random((n, n)) < 0.3] = np.inf
ascending = np.outer(np.arange(n), np.arange(n)).astype(np.float32)
order = rng.permutation(n)
linear_sum_assignment(np.eye(6)[::2, ::2])  # what the first call imports
worst = {}
for name, call in {
    "products": lambda: linear_sum_assignment(products[: n // 2, : n // 2]),
    "ties": lambda: linear_sum_assignment(ties),
    "keep": lambda: solve_assignment(ties, ties="keep", prefer=order),
    "regrets": lambda: solve_assignment(dead, regrets=True),
    "columns": lambda: solve_assignment(dead.T),
    "wide": lambda: solve_assignment(dead[: n // 3]),
    "forbidden": lambda: linear_sum_assignment(forbidden),
    "tiny": lambda: linear_sum_assignment(np.ldexp(dead[: n // 2], -120)),
    "sorted": lambda: linear_sum_assignment(ascending),
    "batch": lambda: linear_sum_assignment(np.stack([dead[: n // 4]] * 4)),
}.items():
    seen.append(time.thread_time())
    call()
    seen.append(time.thread_time())
    worst[name] = max(later - earlier for earlier, later in itertools.pairwise(seen))
    seen.clear()
signal.setitimer(signal.ITIMER_VIRTUAL, 0)
print(worst)
"""


@pytest.mark.parametrize("n", [900, pytest.param(3000, marks=pytest.mark.slow)])
def test_a_solve_looks_for_signals(n):
    done = subprocess.run(
        [sys.executable, "-c", POLLING, str(n)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    worst = ast.literal_eval(done.stdout)
    assert max(worst.values()) < 0.2, worst


def test_interrupt_comes_through_and_the_next_call_works():
    code = """
import numpy as np, os, signal, threading, time
import torch
from lmc_fast import linear_sum_assignment
torch.set_num_threads(2)
rng = np.random.default_rng(0)
# Three nearly equal products: the solver's longest searches. Six of them for two threads.
x, y = rng.random((2, 700, 3))
cost = np.stack([(x @ y.T).astype(np.float32)] * 6)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
sent = []
def interrupt():
    sent.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
threading.Timer(1.0, interrupt).start()
before = cost.copy()
try:
    while True:
        linear_sum_assignment(cost)
except KeyboardInterrupt:
    late = time.process_time() - sent[0]
assert linear_sum_assignment(np.eye(3), maximize=True)[1].tolist() == [0, 1, 2]
assert np.array_equal(cost, before)
print(late)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    # CPU time of two threads.
    assert float(done.stdout) < 0.4


# The sanitizer build runs this too, with the baseline's instructions only.
GOLDEN = Path(__file__).parent / "golden" / "assignment.json"


def digests():
    found = {}
    for n in (60, 250, 530):
        for kind in FAMILIES:
            if kind == "low rank":  # a product of matrices is not the same on every machine
                continue
            rng = np.random.default_rng((17, n))
            result = solve_assignment(random_matrix(rng, kind, n, n))
            parts = (result.cols, result.u, result.v, result.margins, result.gap)
            found[f"{kind} {n}"] = hashlib.sha256(
                b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
            ).hexdigest()[:16]
    return found


def test_same_bits_for_every_instruction_set():
    assert digests() == json.loads(GOLDEN.read_text(encoding="utf-8"))


# Of the clones that the loader chooses from, those this processor can run, each built on its own.
LEVELS = {"x86-64": "sse2", "x86-64-v3": "avx2", "x86-64-v4": "avx512vl"}


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="these are levels of x86-64")
def test_same_bits_from_builds_for_every_instruction_set(tmp_path):
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        pytest.skip("no C++ compiler")
    csrc = Path(__file__).resolve().parents[1] / "csrc"
    sources = [str(csrc / "tests/assignment_test.cpp"), *map(str, csrc.glob("assignment_*.cpp"))]
    options = ["-std=c++20", "-O2", "-Wno-psabi", "-pthread", f"-I{csrc}"]
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    answers = set()
    for level, feature in LEVELS.items():
        program = tmp_path / level
        build = [compiler, *options, f"-march={level}", *sources, "-o", str(program)]
        subprocess.run(build, check=True)
        if feature in flags:
            done = subprocess.run([program], capture_output=True, text=True, check=True)
            answers.add(next(line for line in done.stdout.splitlines() if "digest" in line))
    assert len(answers) == 1


def test_extra_memory_is_a_tenth_of_the_matrix():
    code = """
import resource, numpy as np
from lmc_fast import linear_sum_assignment, solve_assignment
linear_sum_assignment(np.random.default_rng(0).random((400, 400), dtype=np.float32))
n = 3000
cost = np.random.default_rng(1).random((n, n), dtype=np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
solve_assignment(cost)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((after - before) * 1024 / cost.nbytes)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert float(done.stdout) <= 0.10


def test_random_matrices_of_all_kinds():
    for trial in range(250):
        rng = np.random.default_rng((99, trial))
        _, cost, maximize = draw(rng, largest=360)
        assert check(rng, cost, maximize) is None, trial
