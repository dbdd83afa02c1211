"""Real runs on a CUDA device: public calls against the CPU, streams, capture, memory."""

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lmc_fast import (
    CrossMoments,
    _core,
    barrier,
    cross_correlation,
    cuda_available,
    linear_sum_assignment,
    match,
    plane,
    solve_assignment,
)
from lmc_fast._cuda import cross_correlation as kernels
from lmc_fast._cuda import launcher, nvrtc
from lmc_fast.datasets import Dataset, make_moons
from lmc_fast.nets import MLP, digits_resnet, resnet20
from lmc_fast.recipe import Recipe
from lmc_fast.statistics import update_moments
from lmc_fast.training import train, train_population

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not cuda_available(), reason="no CUDA device of capability 8.0 or newer"),
]

SOURCES = ("assignment", "cross_correlation", "interpolation_grid")
DEVICE = torch.device("cuda", 0)


def draw(shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    y = (0.8 * x + 0.6 * torch.randn(shape, generator=generator)).relu()
    return x.to(dtype), y.to(dtype)


def exact(x, y):
    return cross_correlation(x.double(), y.double())


SHAPES = [(1000, 3), (4099, 64), (3000, 130), (70, 48, 7, 7), (33, 16, 16, 16), (20000, 1000)]


@pytest.mark.parametrize("augment", [False, True])
def test_networks_train_where_the_data_lies(augment):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, 16, 16, generator=generator)
    data = Dataset(x, torch.arange(40) % 10, x[:8], torch.arange(8), "random images", 10)
    recipe = Recipe("sgd", lr=0.01, epochs=2, batch_size=16, augment=augment)
    net = resnet20(4, norm="layernorm")
    here, there = (train(net, where, recipe, seed=0) for where in (data, data.to(DEVICE)))
    for ours, theirs in zip(here.parameters(), there.parameters(), strict=True):
        assert theirs.device == DEVICE
        torch.testing.assert_close(theirs.cpu(), ours, rtol=1e-3, atol=1e-4)


def test_populations_train_where_the_data_lies():
    data = make_moons(64)
    recipe = Recipe("adamw", lr=0.01, epochs=3, batch_size=16)
    net = MLP((2, 8, 1), binary=True)
    here, there = (
        train_population(net, where, recipe, seeds=[0, 1]) for where in (data, data.to(DEVICE))
    )
    for ours, theirs in zip(here, there, strict=True):
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name].cpu(), value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_correlation_is_as_good_as_promised(shape, dtype):
    x, y = draw(shape, dtype=dtype)
    found = cross_correlation(x.to(DEVICE), y.to(DEVICE))
    assert found.device == DEVICE
    assert (found.cpu().double() - exact(x, y)).abs().max() <= 2e-6


@pytest.mark.parametrize(("mode", "tolerance"), [("fast", 2e-3), ("exact", 1e-12)])
@pytest.mark.parametrize("shape", [(5000, 96), (5000, 20), (70, 48, 7, 7), (300, 1030)])
def test_other_modes(mode, tolerance, shape):
    x, y = draw(shape)
    found = cross_correlation(x.to(DEVICE), y.to(DEVICE), mode=mode)
    assert (found.cpu().double() - exact(x, y)).abs().max() <= tolerance


@pytest.mark.parametrize("shape", [(5000, 96), (70, 48, 7, 7)])
def test_float64_is_never_rounded(shape):
    x, y = draw(shape, dtype=torch.float64)
    found = cross_correlation(x.to(DEVICE), y.to(DEVICE))
    assert found.dtype == torch.float64
    assert (found.cpu() - exact(x, y)).abs().max() <= 1e-12


def test_the_same_input_gives_the_same_bits():
    x, y = (t.to(DEVICE) for t in draw((30000, 200)))
    first = cross_correlation(x, y)
    assert all(torch.equal(first, cross_correlation(x, y)) for _ in range(5))


def test_dead_units_are_zero_and_counted():
    x, y = draw((2000, 20))
    x[:, 3] = 0
    moments = CrossMoments()
    moments.update(x.to(DEVICE), y.to(DEVICE))
    assert moments.dead_x.nonzero().flatten().tolist() == [3]
    assert (moments.correlation()[3] == 0).all()


def test_layers_together_and_row_offsets_beyond_2_to_the_31():
    pairs = [draw((500, c, 5, 5), c) for c in range(3, 140, 4)]
    held = [CrossMoments() for _ in pairs]
    update_moments(held, [x.to(DEVICE) for x, _ in pairs], [y.to(DEVICE) for _, y in pairs])
    for moments, (x, y) in zip(held, pairs, strict=True):
        assert (moments.correlation().cpu().double() - exact(x, y)).abs().max() <= 2e-6
    rows, channels = (1 << 31) // 128 + 1000, 128
    if torch.cuda.mem_get_info(DEVICE)[0] < 3 * rows * channels * 2:
        pytest.skip("not enough memory for more than 2^31 elements")
    x = torch.randn(rows, channels, device=DEVICE, dtype=torch.float16)
    assert (cross_correlation(x, x).diagonal() - 1).abs().max() <= 2e-6


def test_work_is_ordered_on_a_side_stream():
    x, y = draw((200000, 64))
    stream = torch.cuda.Stream(DEVICE)
    stream.wait_stream(torch.cuda.current_stream(DEVICE))
    with torch.cuda.stream(stream):
        late_x = torch.zeros(x.shape, device=DEVICE)
        torch.cuda._sleep(50_000_000)
        late_x.copy_(x.to(DEVICE))
        found = cross_correlation(late_x, y.to(DEVICE)).cpu()
    assert (found.double() - exact(x, y)).abs().max() <= 2e-6


def late(tensor):
    """The tensor on the device, filled only after a pause of the current stream."""
    filled = torch.zeros_like(tensor, device=DEVICE)
    values = tensor.to(DEVICE)
    torch.cuda._sleep(50_000_000)
    return filled.copy_(values)


def test_barriers_and_assignments_are_ordered_on_a_side_stream():
    a, b = nets(lambda: MLP((20, 64, 10)))
    x, y = labelled((20,))
    cost = torch.randn(40, 30, 30, generator=torch.Generator().manual_seed(0))
    loss, cols = barrier(a, b, (x, y), alphas=5).loss, solve_assignment(cost).cols
    a, b = a.to(DEVICE), b.to(DEVICE)
    stream = torch.cuda.Stream(DEVICE)
    stream.wait_stream(torch.cuda.current_stream(DEVICE))
    with torch.cuda.stream(stream):
        np.testing.assert_allclose(barrier(a, b, (late(x), y), alphas=5).loss, loss, rtol=2e-5)
        assert torch.equal(solve_assignment(late(cost)).cols.cpu(), cols)


def test_networks_on_different_devices_are_not_matched_and_barriers_move_b():
    a, b = nets(lambda: MLP((20, 64, 10)))
    x, y = labelled((20,))
    expected = barrier(a, b, (x, y), alphas=3)
    a.to(DEVICE)
    with pytest.raises(ValueError, match="device"):
        match(a, b, data=x)
    np.testing.assert_allclose(barrier(a, b, (x, y), alphas=3).loss, expected.loss, rtol=2e-5)
    assert all(not t.is_cuda for t in b.state_dict().values())
    with pytest.raises(ValueError, match="one device"):
        cross_correlation(x.to(DEVICE), x)


CAPTURED = """
import torch
from lmc_fast import barrier, solve_assignment
from lmc_fast.nets import MLP
cost = torch.randn(8, 20, 20, device="cuda")
a, b = MLP((9, 20, 10)).cuda(), MLP((9, 20, 10)).cuda()
data = torch.randn(50, 9, device="cuda"), torch.randint(0, 10, (50,), device="cuda")
calls = {
    "assignment": lambda: solve_assignment(cost),
    "barrier": lambda: barrier(a, b, data, alphas=3),
}
call = calls[CALL]
call()
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        call()
except RuntimeError:
    print("refused")
"""


@pytest.mark.parametrize("call", ["assignment", "barrier"])
def test_a_call_that_reads_its_result_cannot_be_captured_and_says_so(call):
    run = subprocess.run(
        [sys.executable, "-c", f"CALL = {call!r}" + CAPTURED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused" in run.stdout, run.stderr[-4000:]


def test_kernels_can_be_captured_and_replayed():
    x, y = (t.to(DEVICE) for t in draw((4000, 40)))
    launch = launcher.launcher_for(DEVICE, "cross_correlation")
    warm = kernels.MomentBuffers.zeros(40, 40, DEVICE)
    kernels.accumulate([kernels.Update(x, y, warm, first=True)], launcher=launch)
    held = kernels.MomentBuffers.zeros(40, 40, DEVICE)
    torch.cuda.synchronize(DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels.accumulate([kernels.Update(x, y, held, first=True)], launcher=launch)
    graph.replay()
    torch.cuda.synchronize(DEVICE)
    assert torch.equal(held.cross, warm.cross)


def test_running_out_of_memory_takes_smaller_pieces_and_leaks_nothing(monkeypatch):
    x, y = (t.to(DEVICE) for t in draw((100000, 300)))
    expected = cross_correlation(x, y)
    torch.cuda.synchronize(DEVICE)
    before = torch.cuda.memory_allocated(DEVICE)
    allocate, refused = torch.empty, []

    def limited(size, **options):
        if isinstance(size, int) and size > 1 << 22:
            refused.append(size)
            raise torch.OutOfMemoryError("out of memory")
        return allocate(size, **options)

    monkeypatch.setattr(kernels.torch, "empty", limited)
    found = cross_correlation(x, y)
    monkeypatch.undo()
    assert refused
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    del found
    assert torch.cuda.memory_allocated(DEVICE) == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_every_device_works_whichever_is_current():
    x, y = draw((5000, 70))
    other = torch.device("cuda", torch.cuda.device_count() - 1)
    with torch.cuda.device(0):
        found = cross_correlation(x.to(other), y.to(other))
    assert found.device == other
    assert (found.cpu().double() - exact(x, y)).abs().max() <= 2e-6
    with pytest.raises(ValueError, match="one device"):
        cross_correlation(x.to(other), y.to(DEVICE))


@pytest.mark.parametrize("source", SOURCES)
def test_shipped_and_freshly_compiled_code_both_load(source, tmp_path, monkeypatch):
    folder = launcher.kernel_folder()
    shipped = folder / f"{source}.fatbin"
    if shipped.exists():
        _core.CudaModule(0, shipped.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    capability = torch.cuda.get_device_capability(DEVICE)
    _core.CudaModule(0, nvrtc.compile_kernels(folder, source, capability))


def nets(make, count=2):
    found = []
    for seed in range(count):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(make().eval())
    return found


def labelled(shape, count=3000):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, *shape, generator=generator)
    return x, torch.randint(0, 10, (count,), generator=generator)


MODELS = [
    (lambda: MLP((20, 64, 10)), (20,), "keep"),
    (lambda: MLP((20, 64, 64, 10)), (20,), "keep"),
    (lambda: MLP((20, 64, 64, 64, 10)), (20,), "repair"),
    (lambda: MLP((20, 64, 10), norm="layernorm"), (20,), "keep"),
    (digits_resnet, (1, 8, 8), "keep"),
    (digits_resnet, (1, 8, 8), "reset"),
]


@pytest.mark.parametrize(("make", "shape", "norm"), MODELS)
def test_barrier_is_that_of_the_cpu(make, shape, norm):
    a, b = nets(make)
    x, y = labelled(shape)
    torch.backends.cudnn.allow_tf32, before = False, torch.backends.cudnn.allow_tf32
    try:
        expected = barrier(a, b, (x, y), alphas=9, norm=norm)
        on_device = [copy.deepcopy(net).to(DEVICE) for net in (a, b)]
        found = barrier(*on_device, (x, y), alphas=9, norm=norm)
    finally:
        torch.backends.cudnn.allow_tf32 = before
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)
    assert np.abs(found.error - expected.error).max() <= 2 / len(x)


def test_plane_is_that_of_the_cpu():
    three = nets(lambda: MLP((20, 64, 10)), 3)
    data = labelled((20,))
    expected = plane(*three, data, resolution=5)
    found = plane(*(net.to(DEVICE) for net in three), data, resolution=5)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-5)


def test_a_target_that_is_no_class_is_an_error_not_a_fault():
    a, b = (net.to(DEVICE) for net in nets(lambda: MLP((20, 64, 10))))
    x, y = labelled((20,))
    y[5] = 10
    with pytest.raises(ValueError, match="class target"):
        barrier(a, b, (x, y), alphas=3)
    y[5] = 0
    assert np.isfinite(barrier(a, b, (x, y), alphas=3).loss).all()


@pytest.mark.parametrize("size", [5, 64, 128])
def test_batches_of_assignments_are_those_of_the_cpu(size):
    cost = torch.randn(40, size, size, generator=torch.Generator().manual_seed(size))
    cost[:, ::7] = 0
    found, expected = solve_assignment(cost.to(DEVICE)), solve_assignment(cost)
    assert torch.equal(found.cols.cpu(), expected.cols)
    assert (found.gap == 0).all()
    assert torch.equal(linear_sum_assignment(cost.to(DEVICE))[1].cpu(), expected.cols)
    again = solve_assignment(cost.to(DEVICE), initial_duals=(found.u, found.v), max_gap=0.1)
    assert torch.equal(again.cols.cpu(), expected.cols)
    wanted = torch.arange(size).flip(0).expand(40, size)
    kept = solve_assignment(cost.to(DEVICE), ties="keep", prefer=wanted.to(DEVICE))
    assert torch.equal(kept.cols.cpu(), solve_assignment(cost, ties="keep", prefer=wanted).cols)


def test_tall_matrices_are_those_of_the_cpu():
    cost = torch.randn(40, 30, 20, generator=torch.Generator().manual_seed(0))
    found, expected = solve_assignment(cost.to(DEVICE)), solve_assignment(cost)
    assert torch.equal(found.cols.cpu(), expected.cols)
    pairs, host = linear_sum_assignment(cost.to(DEVICE)), linear_sum_assignment(cost)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(pairs, host, strict=True))


@pytest.mark.parametrize("method", ["weights", "activations"])
def test_match_on_the_device_gives_the_permutation_of_the_cpu(method):
    a, _ = nets(lambda: MLP((20, 48, 48, 10)))
    hidden = copy.deepcopy(a)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        hidden.linears[0].weight.copy_(a.linears[0].weight[order])
        hidden.linears[0].bias.copy_(a.linears[0].bias[order])
        hidden.linears[1].weight.copy_(a.linears[1].weight[:, order])
    x, _ = labelled((20,))
    data = x if method == "activations" else None
    expected = match(a, hidden, data=data, method=method, example_inputs=x[:2])
    on_device = [net.to(DEVICE) for net in (a, hidden)]
    found = match(*on_device, data=data, method=method, example_inputs=x[:2].to(DEVICE))
    for name, indices in expected.permutation.items():
        assert torch.equal(found.permutation[name].cpu(), indices)


SCRIPT = """
import torch
from lmc_fast import barrier, cross_correlation, solve_assignment
from lmc_fast.nets import MLP
for shape in ((300, 20), (300, 70), (300, 130), (6, 20, 7, 7)):
    x = torch.randn(shape, device="cuda")
    for mode in ("float32", "fast", "exact"):
        cross_correlation(x, x, mode=mode)
for sizes in ((9, 20, 10), (9, 20, 70, 10)):
    a, b = MLP(sizes).cuda(), MLP(sizes).cuda()
    barrier(a, b, (torch.randn(300, 9), torch.randint(0, 10, (300,))), alphas=9)
found = solve_assignment(torch.randn(8, 40, 40, device="cuda"))
solve_assignment(torch.randn(8, 40, 40, device="cuda"), initial_duals=(found.u, found.v))
torch.cuda.synchronize()
print("finished")
"""


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_under_compute_sanitizer(tool, tmp_path):
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not installed")
    script = Path(tmp_path) / "script.py"
    script.write_text(SCRIPT)
    command = [program, "--tool", tool, "--launch-timeout", "60", sys.executable, str(script)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Device not supported" in run.stdout:
        pytest.skip("compute-sanitizer does not support this device")
    assert "finished" in run.stdout, run.stdout[-4000:] + run.stderr[-4000:]
    # Torch's own kernels run beside these, and are not judged.
    ours = re.compile("correlation_|interpolation_|assignment")
    reports = [line for line in run.stdout.splitlines() if line.startswith("=========")]
    assert not [line for line in reports if ours.search(line)], run.stdout[-4000:]
