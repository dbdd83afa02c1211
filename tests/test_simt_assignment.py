"""The assignment kernel, run on the host by the SIMT shim, against the CPU solver and SciPy."""

from functools import partial

import pytest
import torch
from lmc_fast import linear_sum_assignment, match, solve_assignment
from lmc_fast._cuda import assignment as cuda
from lmc_fast._cuda import placement
from lmc_fast.assignment import solve_together
from lmc_fast.nets import MLP
from simt_host import HostLauncher, compile_kernels, host_kernels


@pytest.fixture(scope="module")
def library():
    return host_kernels("assignment")


def draw(kind, rows, cols, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if kind == "normal":
        return torch.randn(rows, cols, generator=generator)
    if kind == "float64":
        return torch.randn(rows, cols, generator=generator, dtype=torch.float64)
    if kind == "ties":
        return torch.randint(0, 3, (rows, cols), generator=generator).float()
    if kind == "constant":
        return torch.full((rows, cols), -2.5)
    if kind == "dead":
        cost = torch.randn(rows, cols, generator=generator)
        cost[::3] = 0
        cost[:, 1::4] = 0
        return cost
    if kind == "tiny":
        return torch.randn(rows, cols, generator=generator, dtype=torch.float64) * 1e-300
    if kind == "huge":
        return torch.randn(rows, cols, generator=generator, dtype=torch.float64) * 1e300
    raise AssertionError(kind)


KINDS = ["normal", "float64", "ties", "constant", "dead", "tiny", "huge"]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (33, 33), (12, 40), (40, 41)])
def test_same_optimum_as_the_cpu_with_a_certificate(library, shape, kind, maximize):
    cost = draw(kind, *shape)
    (found,) = cuda.solve([cost[None]], maximize=maximize, launcher=HostLauncher(library))
    expected = solve_assignment(cost, maximize=maximize)
    assert found.status[0, 0] == 0
    assert torch.equal(found.cols[0], expected.cols)
    gap, grid, moved, moved_by, *_ = found.reports[0].tolist()
    assert gap == 0.0
    assert (grid, moved, moved_by) == (expected.grid, expected.moved, expected.moved_by)
    slack = cost.double() - found.u[0][:, None] - found.v[0]
    slack = -slack if maximize else slack
    rounding = 2 * expected.moved_by + 1e-15 * float(cost.double().abs().max())
    assert slack.min() >= -rounding
    assert slack.gather(1, found.cols[0][:, None]).abs().max() <= rounding
    objective = cuda.objective(cost[None], found.cols)[0].item()
    assert objective == pytest.approx(expected.objective, rel=1e-14)


def test_a_batch_and_several_sizes_in_one_launch(library):
    costs = [
        torch.stack([draw("normal", 20, 20, seed) for seed in range(3)]),
        draw("ties", 7, 9)[None],
        draw("normal", 30, 30, 5).T[None],
        torch.empty(0, 4, 4),
    ]
    found = cuda.solve(costs, maximize=True, launcher=HostLauncher(library))
    for batch, result in zip(costs, found, strict=True):
        for cost, cols in zip(batch, result.cols, strict=True):
            assert torch.equal(cols, solve_assignment(cost, maximize=True).cols)


def test_any_schedule_gives_the_same_bits(library):
    cost = draw("dead", 50, 50)[None]
    runs = [
        cuda.solve([cost], maximize=False, launcher=HostLauncher(library, seed))[0]
        for seed in (1, 2)
    ]
    assert torch.equal(runs[0].cols, runs[1].cols)
    assert torch.equal(runs[0].u, runs[1].u)


def test_forbidden_pairs_and_infeasible_problems(library):
    cost = draw("normal", 12, 12)
    cost[torch.rand(12, 12, generator=torch.Generator().manual_seed(1)) < 0.5] = torch.inf
    cost.fill_diagonal_(3.0)
    closed = cost.clone()
    closed[3] = torch.inf
    costs = torch.stack((cost, closed))
    (found,) = cuda.solve([costs], maximize=False, launcher=HostLauncher(library))
    assert found.status[:, 0].tolist() == [0, 1]
    assert torch.equal(found.cols[0], solve_assignment(cost).cols)


@pytest.mark.parametrize(
    ("bad", "maximize"), [(torch.nan, False), (-torch.inf, False), (torch.inf, True)]
)
def test_the_first_invalid_entry_is_named(library, bad, maximize):
    cost = draw("normal", 6, 8)
    cost[2, 5] = cost[4, 1] = bad
    (found,) = cuda.solve([cost[None]], maximize=maximize, launcher=HostLauncher(library))
    assert found.status[0].tolist() == [2, 2 * 8 + 5]


def test_margins_are_those_of_the_duals(library):
    cost = draw("normal", 9, 11)
    (found,) = cuda.solve([cost[None]], maximize=True, launcher=HostLauncher(library))
    found_margins = cuda.margins(cost[None], found, maximize=True)[0]
    chosen = found.cols[0]
    for i in range(9):
        others = [j for j in range(11) if j != chosen[i]]
        slack = found.u[0, i] + found.v[0, others] - cost[i, others].double()
        assert found_margins[i] == slack.min()


def test_placement_needs_many_problems_in_a_call():
    assert placement.placed_here([(64, 64)]) == [False]
    assert placement.placed_here([(100, 64, 64)]) == [True]
    assert placement.placed_here([(64, 64)] * 7 + [(130, 64)]) == [False] * 8
    assert placement.placed_here([(64, 64)] * 8 + [(130, 64)]) == [True] * 8 + [False]
    assert placement.placed_here([(64, 64)] * 8 + [(24, 130, 64)]) == [True] * 9
    assert all(place.size <= cuda.MAX_SIZE for place in placement.PLACEMENT)
    assert cuda._shared_bytes(cuda.MAX_SIZE, cuda.MAX_SIZE) <= 99 * 1024


@pytest.fixture
def placed(library, monkeypatch):
    """Send batches of CPU tensors where the placement rule sends CUDA ones."""
    monkeypatch.setattr(placement, "launcher_of", lambda cost: HostLauncher(library))


def batch_of(count, rows, cols):
    return torch.stack([draw("dead", rows, cols, seed) for seed in range(count)]).view(
        2, count // 2, rows, cols
    )


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(10, 12), (12, 7)])
def test_public_calls_give_the_same_wherever_they_run(placed, monkeypatch, maximize, shape):
    cost = batch_of(8, *shape)
    pairs = linear_sum_assignment(cost, maximize)
    found = solve_assignment(cost, maximize=maximize)
    wanted = torch.arange(shape[0]).flip(0).clamp_max(shape[1] - 1).expand(cost.shape[:-1])
    keep = partial(solve_assignment, cost, maximize=maximize, ties="keep", prefer=wanted)
    kept = keep()
    monkeypatch.setattr(placement, "launcher_of", lambda cost: None)
    expected = solve_assignment(cost, maximize=maximize)
    assert torch.equal(kept.cols, keep().cols)
    for mine, host in zip(pairs, linear_sum_assignment(cost, maximize), strict=True):
        assert torch.equal(mine, host)
    for name in ("cols", "gap", "grid", "moved", "moved_by"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("u", "v", "margins", "objective"):
        assert getattr(found, name).shape == getattr(expected, name).shape
    torch.testing.assert_close(found.objective, expected.objective)
    slack = cost.double() - found.u[..., None] - found.v[..., None, :]
    assert (slack if not maximize else -slack).min() >= -1e-12
    assert (found.u[found.cols < 0] == 0).all()
    assert (found.margins >= -1e-12).all()


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(20, 20), (12, 20), (20, 12)])
def test_initial_duals_and_max_gap_change_no_optimum_and_save_work(placed, maximize, shape):
    cost = batch_of(8, *shape)
    found = solve_assignment(cost, maximize=maximize)
    again = solve_assignment(cost, maximize=maximize, initial_duals=(found.u, found.v), max_gap=0.5)
    wild = torch.full(found.v.shape, 1e200, dtype=torch.float64)
    far = solve_assignment(cost, maximize=maximize, initial_duals=(found.u.numpy(), wild))
    for other in (again, far):
        assert torch.equal(other.cols, found.cols)
        assert (other.gap == 0).all()
    assert (again.rows_read <= found.rows_read).all()
    if shape[0] == shape[1]:
        assert again.rows_read.sum() < found.rows_read.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial_duals": (torch.zeros(8, 6), torch.zeros(8, 5))}, "initial dual v of shape"),
        ({"initial_duals": (torch.zeros(8, 6), torch.full((8, 6), torch.nan))}, "finite"),
        ({"max_gap": -1.0}, "max_gap"),
        ({"ties": "keep"}, "prefer"),
    ],
)
def test_options_are_checked_wherever_it_is_solved(placed, options, message):
    cost = torch.stack([draw("normal", 6, 6, seed) for seed in range(8)])
    with pytest.raises(ValueError, match=message):
        solve_assignment(cost, **options)


@pytest.mark.parametrize("maximize", [False, True])
def test_the_problems_of_a_network_are_solved_in_one_call(library, monkeypatch, maximize):
    shapes = [(20, 20), (7, 7), (31, 31), (9, 12), (12, 9), (1, 1), (15, 15), (5, 4, 4)]
    generator = torch.Generator().manual_seed(0)
    costs = [torch.randint(0, 3, shape, generator=generator).float() for shape in shapes]
    costs[2] = draw("normal", 31, 31)
    costs[6] = draw("constant", 15, 15)
    prefer = [torch.randint(-1, s[-1], s[:-1], generator=generator) for s in shapes]
    expected = [
        solve_assignment(cost, maximize=maximize, ties="keep", prefer=wanted)
        for cost, wanted in zip(costs, prefer, strict=True)
    ]
    launched = []

    class Recording(HostLauncher):
        def launch(self, *arguments):
            launched.append(arguments[0])
            super().launch(*arguments)

    monkeypatch.setattr(placement, "launcher_of", lambda cost: Recording(library))
    found = solve_together(costs, maximize=maximize, prefer=prefer)
    assert launched == ["assignment"] * 2  # the optima, then the choice among them
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.cols, theirs.cols)
        for name in ("gap", "grid", "moved", "moved_by"):
            assert type(getattr(mine, name)) is type(getattr(theirs, name))
            assert torch.equal(*(torch.as_tensor(getattr(a, name)) for a in (mine, theirs)))
        torch.testing.assert_close(mine.objective, theirs.objective)


def test_activation_matching_sends_all_groups_in_one_call(library, monkeypatch):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (MLP((6, *[7] * 8, 3)) for _ in range(2))
        x = torch.randn(50, 6)
    expected = match(a, b, data=x)
    calls = []
    solve = cuda.solve
    monkeypatch.setattr(placement, "launcher_of", lambda cost: HostLauncher(library))
    monkeypatch.setattr(
        placement, "solve", lambda c, **options: calls.append(len(c)) or solve(c, **options)
    )
    found = match(a, b, data=x)
    assert calls == [8, 8]  # the optima, then the choice among them
    for name, indices in expected.permutation.items():
        assert torch.equal(found.permutation[name], indices)
    assert found.objective == pytest.approx(expected.objective, rel=1e-12)
    assert found.bound == pytest.approx(expected.bound, rel=1e-12)


def test_a_network_with_an_invalid_matrix_is_refused(placed):
    costs = [draw("normal", 6, 6, seed) for seed in range(8)]
    costs[3][2, 4] = torch.nan
    with pytest.raises(ValueError, match="row 2, column 4"):
        solve_together(costs, maximize=True, prefer=[torch.arange(6)] * 8)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_public_errors_are_the_same_wherever_they_run(placed, monkeypatch, bad):
    cost = batch_of(8, 6, 6)
    cost[1, 2, 3] = bad
    with pytest.raises(ValueError, match="cost") as here:
        linear_sum_assignment(cost)
    monkeypatch.setattr(placement, "launcher_of", lambda cost: None)
    with pytest.raises(ValueError, match="cost") as there:
        linear_sum_assignment(cost)
    assert str(here.value) == str(there.value)


MUTANTS = {
    "missing barrier": (
        "      values[threadIdx.x / 32] = mine.value;\n"
        "      keys[threadIdx.x / 32] = mine.key;\n    }\n    barrier();",
        "      values[threadIdx.x / 32] = mine.value;\n"
        "      keys[threadIdx.x / 32] = mine.key;\n    }\n",
    ),
    "one set of slots": ("parity = 1 - parity;\n    return mine;", "return mine;"),
    "wrong dual": ("u[free_row] += reached;", "u[free_row] += 0;"),
    "no canonical order": ("      settle(i);", "      ;"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_faults_are_caught(mutant, tmp_path):
    library = compile_kernels("assignment", tmp_path, replacements=(MUTANTS[mutant],))
    wrong = False
    for seed in range(3):
        cost = draw("ties" if mutant == "no canonical order" else "normal", 40, 40, seed)
        try:
            (found,) = cuda.solve(
                [cost[None]], maximize=False, launcher=HostLauncher(library, seed)
            )
        except RuntimeError:  # threads met at different places
            wrong = True
            continue
        same = torch.equal(found.cols[0], solve_assignment(cost).cols)
        wrong = wrong or not same or found.reports[0, 0] != 0
    assert wrong
