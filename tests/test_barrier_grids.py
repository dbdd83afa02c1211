import lmc_fast
import numpy as np
import pytest
import torch
from lmc_fast import PermutationSpec, barrier
from lmc_fast.barrier import barrier_matrix, checkpoint_grid, plane, simplex
from test_barrier import Residual, images, mlp, naive_curve, vectors

SPEC = "0.weight: hidden 4\n0.bias: hidden\n2.weight: 3 hidden\n2.bias: 3"


def permutation(seed, like):
    spec = PermutationSpec.parse(SPEC, like=like)
    return spec, lmc_fast.random_permutation(spec, generator=torch.Generator().manual_seed(seed))


def test_the_planes_edges_equal_segments():
    a, b, c = (mlp(seed) for seed in range(3))
    grid = plane(a, b, c, vectors(), resolution=6, margin=0.0)
    edge = barrier(a, b, vectors(), alphas=7)
    start = int(np.flatnonzero(grid.x == 0)[0])
    np.testing.assert_array_equal(grid.loss[0, start : start + 7], edge.loss)
    np.testing.assert_array_equal(grid.error[0, start : start + 7], edge.error)


def test_the_plane_measures_weight_space():
    a, b, c = (mlp(seed) for seed in range(3))
    grid = plane(a, b, c, vectors(), resolution=3, margin=0.4)
    flat = [torch.cat([p.detach().flatten().double() for p in n.parameters()]) for n in (a, b, c)]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(grid.corners[i] - grid.corners[j]) == pytest.approx(
            float((flat[i] - flat[j]).norm()), rel=1e-6
        )
    mixed = sum(w * f for w, f in zip(grid.weights[-1, 0], flat, strict=True))
    assert np.hypot(grid.x[0], grid.y[-1]) == pytest.approx(
        float((mixed - flat[0]).norm()), rel=1e-6
    )
    np.testing.assert_allclose(grid.weights.sum(-1), 1)
    assert grid.x[0] < 0 < grid.corners[1, 0] < grid.x[-1]
    assert grid.y[0] < 0 < grid.corners[2, 1] < grid.y[-1]


def test_networks_on_one_line_span_no_plane():
    a, b = mlp(0), mlp(1)
    middle = {k: (a.state_dict()[k] + b.state_dict()[k]) / 2 for k in a.state_dict()}
    with pytest.raises(ValueError, match="on one line"):
        plane(a, b, middle, vectors())


def test_the_simplexes_edges_equal_segments():
    nets = [mlp(seed) for seed in range(3)]
    grid = simplex(nets, vectors(), resolution=4)
    assert grid.weights.shape == (15, 3)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        edge = barrier(nets[i], nets[j], vectors(), alphas=5)
        on_edge = np.isclose(grid.weights[:, i] + grid.weights[:, j], 1)
        order = grid.weights[on_edge, j].argsort()
        np.testing.assert_array_equal(grid.loss[on_edge][order], edge.loss)
    assert grid.loss_barrier() >= barrier(nets[0], nets[2], vectors(), alphas=5).loss_barrier()
    same = simplex([nets[0]] * 4, vectors(), resolution=3)
    assert same.loss_barrier() == same.error_barrier() == 0.0


def test_the_matrix_is_symmetric_and_made_of_segments():
    nets = [mlp(seed) for seed in range(4)]
    matrix = barrier_matrix(nets, vectors(), alphas=5, names="abcd")
    for kind in ("chord", "mean", "max", "midpoint"):
        heights = matrix.loss_barrier(kind)
        np.testing.assert_allclose(heights, heights.T, rtol=1e-12)
        assert not heights.diagonal().any()
    np.testing.assert_array_equal(matrix.loss, matrix.loss.transpose(1, 0, 2)[..., ::-1])
    for i, j in ((0, 1), (1, 3), (3, 1)):
        curve = barrier(nets[i], nets[j], vectors(), alphas=5)
        np.testing.assert_allclose(matrix.loss[i, j], curve.loss, rtol=1e-6)
        np.testing.assert_allclose(matrix.error[i, j], curve.error, atol=1e-12)
    assert matrix.linkage().shape == (3, 4)


@pytest.mark.parametrize("max_memory", [1 << 30, 4000])
def test_pairs_are_moved_by_their_own_permutations(max_memory):
    nets = [mlp(seed) for seed in range(3)]
    moves = {}
    for i, j in ((0, 1), (1, 2)):
        spec, moves[i, j] = permutation(10 * i + j, nets[0])
    matrix = barrier_matrix(
        nets, vectors(), permutations=moves, spec=spec, alphas=3, max_memory=max_memory
    )
    for i, j in ((0, 1), (0, 2), (1, 2)):
        curve = barrier(
            nets[i], nets[j], vectors(), permutation=moves.get((i, j)), spec=spec, alphas=3
        )
        np.testing.assert_allclose(matrix.loss[i, j], curve.loss, rtol=1e-6)


def test_permuted_copies_brought_to_one_basis_have_no_barrier():
    nets, moves = [mlp(0)], [None]
    for seed in range(3):
        spec, p = permutation(seed, nets[0])
        nets.append(lmc_fast.apply_permutation(spec, p, nets[0].state_dict()))
        moves.append(lmc_fast.invert(p))
    raw = barrier_matrix(nets, vectors(), alphas=5)
    undone = barrier_matrix(nets, vectors(), alphas=5, permutations=moves, spec=spec)
    assert (raw.loss[0, 1:, 2] != raw.loss[0, 0, 0]).all()
    assert not undone.loss_barrier().any()


def test_the_checkpoint_grid_is_made_of_segments():
    run_a, run_b = [mlp(0), mlp(1)], [mlp(2), mlp(3), mlp(4)]
    spec, p = permutation(5, run_a[0])
    grid = checkpoint_grid(run_a, run_b, vectors(), permutation=p, spec=spec, alphas=3)
    assert grid.loss_barrier().shape == grid.error_barrier().shape == (2, 3)
    for s in range(2):
        for t in range(3):
            curve = barrier(run_a[s], run_b[t], vectors(), permutation=p, spec=spec, alphas=3)
            np.testing.assert_allclose(grid.loss[s, t], curve.loss, rtol=1e-6)
    each = checkpoint_grid(
        run_a, run_b, vectors(), permutation=[None, p, None], spec=spec, alphas=3
    )
    np.testing.assert_array_equal(each.loss[:, 1], grid.loss[:, 1])
    assert (each.loss[:, 0, 1] != grid.loss[:, 0, 1]).all()


def test_grids_normalise_like_segments():
    nets = [Residual(seed) for seed in range(3)]
    matrix = barrier_matrix(nets, images(), alphas=3, norm="reset")
    curve = barrier(nets[0], nets[2], images(), alphas=3, norm="reset")
    np.testing.assert_allclose(matrix.loss[0, 2], curve.loss, rtol=1e-6)


def test_data_is_read_once_for_all_points():
    reads = []

    def loader():
        x, y = vectors()
        for part in range(0, 200, 50):
            reads.append(part)
            yield x[part : part + 50], y[part : part + 50]

    barrier_matrix([mlp(seed) for seed in range(4)], loader(), alphas=5)
    assert reads == [0, 50, 100, 150]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: barrier_matrix([mlp(0)], vectors()), "at least 2"),
        (lambda: barrier_matrix([mlp(0)] * 2, vectors(), alphas=[0, 0.2, 1]), "symmetric"),
        (lambda: barrier_matrix([mlp(0)] * 2, vectors(), names="a"), "names must name"),
        (lambda: barrier_matrix([mlp(0)] * 2, vectors(), permutations={(1, 0): {}}), "pair"),
        (lambda: checkpoint_grid([], [mlp(0)], vectors()), "a checkpoint of each run"),
        (lambda: simplex([mlp(0)], vectors()), "at least 2"),
        (lambda: plane(mlp(0), mlp(1), mlp(2), vectors(), resolution=0), "resolution"),
        (lambda: barrier(mlp(0), mlp(1), vectors(), max_memory=0), "positive"),
    ],
)
def test_bad_arguments_are_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_per_example_losses_average_to_the_curve():
    a, b = mlp(0), mlp(1)
    x, y = vectors()
    curve = barrier(a, b, [(x[:70], y[:70]), (x[70:], y[70:])], alphas=5, per_example=True)
    examples = curve.example_losses
    assert examples.loss.shape == examples.error.shape == (5, 200)
    np.testing.assert_allclose(examples.loss.mean(1), curve.loss, rtol=1e-12)
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(a(x).double(), y, reduction="none")
    np.testing.assert_allclose(examples.loss[0], wanted, rtol=1e-6)


def test_intervals_hold_the_barrier_and_narrow_with_data():
    a, b = mlp(0), mlp(1)
    widths = []
    for n in (100, 4000):
        curve = barrier(a, b, vectors(n), alphas=5, per_example=True)
        low, high = curve.interval(resamples=200)
        assert low <= curve.loss_barrier() <= high
        assert curve.interval(resamples=200) == (low, high)
        widths.append(high - low)
    assert widths[1] < widths[0] / 4
    flat = barrier(a, a, vectors(), alphas=5, per_example=True)
    assert flat.interval(metric="error") == (0.0, 0.0)
    with pytest.raises(ValueError, match="per_example=True"):
        barrier(a, b, vectors(), alphas=3).interval()
    with pytest.raises(ValueError, match="level"):
        curve.interval(level=95)


def test_calibrated_loss_is_the_best_over_temperatures():
    a, b = mlp(0), mlp(1)
    x, y = vectors()
    with torch.no_grad():
        a[2].weight.mul_(30)
        y = torch.where(torch.arange(200) % 10 < 7, a(x).argmax(1), y)
    curve = barrier(
        a, b, [(x[:90], y[:90]), (x[90:], y[90:])], alphas=3, calibrate_temperature=True
    )
    raw = barrier(a, b, (x, y), alphas=3)
    np.testing.assert_allclose(curve.loss, raw.loss, rtol=1e-6)
    for k, net in ((0, a), (2, b)):
        with torch.no_grad():
            z = net(x).double()
        best = min(
            float(torch.nn.functional.cross_entropy(z * s, y))
            for s in np.geomspace(1 / 32, 32, 401)
        )
        assert curve.calibrated_loss[k] == pytest.approx(best, rel=1e-5)
        at = torch.nn.functional.cross_entropy(z / curve.temperature[k], y)
        assert float(at) == pytest.approx(best, rel=1e-5)
    assert (curve.calibrated_loss <= curve.loss + 1e-9).all()
    assert curve.calibrated_barrier() != curve.loss_barrier()
    # Fitted on other examples, the temperature is theirs and the loss is that of the data with it.
    rest = (x[:90], y[:90])
    held_out = barrier(
        a, b, (x[90:], y[90:]), calibration=rest, alphas=3, calibrate_temperature=True
    )
    fitted = barrier(a, b, rest, alphas=3, calibrate_temperature=True)
    np.testing.assert_allclose(held_out.temperature, fitted.temperature, rtol=1e-9)
    assert held_out.settings["temperature_fitted_on"] == "calibration"
    assert fitted.settings["temperature_fitted_on"] == "data"
    with torch.no_grad():
        z = a(x[90:]) / held_out.temperature[0]
        wanted = float(torch.nn.functional.cross_entropy(z.double(), y[90:]))
    assert held_out.calibrated_loss[0] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="calibrate_temperature=True"):
        raw.calibrated_barrier()
    with pytest.raises(ValueError, match="calibrate_temperature needs"):
        barrier(a, b, (x, y), loss="mse", calibrate_temperature=True)


def test_many_points_equal_a_float64_loop():
    nets = [mlp(seed, width=5) for seed in range(5)]
    matrix = barrier_matrix(nets, vectors(), alphas=4)
    for i in range(5):
        for j in range(i):
            loss, _ = naive_curve(nets[j], nets[i], vectors(), matrix.alphas)
            np.testing.assert_allclose(matrix.loss[j, i], loss, rtol=1e-5)
