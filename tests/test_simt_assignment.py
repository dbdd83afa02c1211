"""The assignment kernel, run on the host by the SIMT shim, against the CPU solver and SciPy."""

import pytest
import torch
from lmc_fast import linear_sum_assignment, solve_assignment
from lmc_fast._cuda import assignment as cuda
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


def test_placement_needs_many_problems_and_no_tall_matrices():
    assert not cuda.belongs_on_device(1, 64, 64)
    assert cuda.belongs_on_device(100, 64, 64)
    assert not cuda.belongs_on_device(100, 65, 64)
    assert all(place.size <= cuda.MAX_SIZE for place in cuda.PLACEMENT)
    assert cuda._shared_bytes(cuda.MAX_SIZE, cuda.MAX_SIZE) <= 99 * 1024


@pytest.fixture
def placed(library, monkeypatch):
    """Send batches of CPU tensors where the placement rule sends CUDA ones."""
    monkeypatch.setattr(cuda, "launcher_of", lambda cost: HostLauncher(library))


def batch_of(count, rows, cols):
    return torch.stack([draw("dead", rows, cols, seed) for seed in range(count)]).view(
        2, count // 2, rows, cols
    )


@pytest.mark.parametrize("maximize", [False, True])
def test_public_calls_give_the_same_wherever_they_run(placed, monkeypatch, maximize):
    cost = batch_of(8, 10, 12)
    pairs = linear_sum_assignment(cost, maximize)
    found = solve_assignment(cost, maximize=maximize)
    monkeypatch.setattr(cuda, "launcher_of", lambda cost: None)
    expected = solve_assignment(cost, maximize=maximize)
    for mine, host in zip(pairs, linear_sum_assignment(cost, maximize), strict=True):
        assert torch.equal(mine, host)
    for name in ("cols", "gap", "grid", "moved", "moved_by"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    for name in ("u", "v", "margins", "objective"):
        assert getattr(found, name).shape == getattr(expected, name).shape
    torch.testing.assert_close(found.objective, expected.objective)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_public_errors_are_the_same_wherever_they_run(placed, monkeypatch, bad):
    cost = batch_of(8, 6, 6)
    cost[1, 2, 3] = bad
    with pytest.raises(ValueError, match="cost") as here:
        linear_sum_assignment(cost)
    monkeypatch.setattr(cuda, "launcher_of", lambda cost: None)
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
