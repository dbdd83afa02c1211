"""The device tests and the GPU benchmark, run on a pretended device: no Python error is left."""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import test_cuda_device as device_tests
import torch
from lmc_fast import LmcWarning, barrier, cross_correlation, cuda_available
from lmc_fast._cuda import launcher
from pretend_cuda import DeviceTensor, pretend_cuda

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import gpu, gpu_assignment, gpu_correlation, gpu_grid, gpu_timing, record

pytestmark = pytest.mark.skipif(cuda_available(), reason="a CUDA device is there")


@pytest.fixture
def device(monkeypatch):
    """Inputs of the device tests cut to what the shim takes in seconds."""
    draw, labelled = device_tests.draw, device_tests.labelled
    monkeypatch.setattr(
        device_tests,
        "draw",
        lambda shape, *rest, **k: draw((min(shape[0], 90), *shape[1:]), *rest, **k),
    )
    monkeypatch.setattr(device_tests, "labelled", lambda shape: labelled(shape, 60))
    with pretend_cuda():
        yield


def test_the_pretended_device_refuses_what_a_real_one_does(device):
    x = torch.randn(3, 4)
    y = x.to("cuda")
    assert isinstance(y, DeviceTensor)
    assert y.is_cuda
    assert torch.equal((y + 1).cpu(), x + 1)
    assert torch.zeros(2, device="cuda:0").is_cuda
    for wrong in (lambda: x + y, lambda: torch.cat([x, y]), y.numpy):
        with pytest.raises((RuntimeError, TypeError), match="cuda"):
            wrong()


CASES = [
    ("correlation_is_as_good_as_promised", (70, 12, 3, 3), torch.bfloat16),
    ("other_modes", "fast", 2e-3, (80, 20)),
    ("other_modes", "exact", 1e-12, (80, 20)),
    ("other_modes", "exact", 1e-12, (80, 1030)),
    ("float64_is_never_rounded", (30, 9, 2, 2)),
    ("the_same_input_gives_the_same_bits",),
    ("dead_units_are_zero_and_counted",),
    ("work_is_ordered_on_a_side_stream",),
    ("barriers_and_assignments_are_ordered_on_a_side_stream",),
    ("networks_on_different_devices_are_not_matched_and_barriers_move_b",),
    ("kernels_can_be_captured_and_replayed",),
    *(("barrier_is_that_of_the_cpu", *model) for model in device_tests.MODELS),
    ("plane_is_that_of_the_cpu",),
    ("a_target_that_is_no_class_is_an_error_not_a_fault",),
    ("batches_of_assignments_are_those_of_the_cpu", 5),
    ("tall_matrices_are_those_of_the_cpu",),
    ("match_on_the_device_gives_the_permutation_of_the_cpu", "weights"),
    ("match_on_the_device_gives_the_permutation_of_the_cpu", "activations"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_device_test_runs(device, case):
    name, *arguments = case
    getattr(device_tests, f"test_{name}")(*arguments)


def test_without_kernels_torch_gives_the_same_and_one_warning_says_so(device, monkeypatch):
    def refused(index, source):
        raise RuntimeError("no machine code")

    monkeypatch.setattr(launcher, "_load", refused)
    x, y = device_tests.draw((80, 6))
    with pytest.warns(LmcWarning, match=r"no machine code; torch's own operations") as told:
        found = [cross_correlation(x.to("cuda"), y.to("cuda")).cpu() for _ in range(2)]
    assert len(told) == 1
    torch.testing.assert_close(found[0], cross_correlation(x, y))
    assert torch.equal(*found)


def test_an_old_device_takes_torch_s_path(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(launcher, "_load", None)
    assert not cuda_available()
    x, y = device_tests.draw((80, 6))
    found = cross_correlation(x.to("cuda"), y.to("cuda"))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), cross_correlation(x, y))


def test_evaluations_on_a_device_hold_the_memory_limit(device):
    a, b = (net.to("cuda") for net in device_tests.nets(device_tests.digits_resnet))
    x, y = device_tests.labelled((1, 8, 8))
    wide = barrier(a, b, (x, y), alphas=2, norm="keep").loss
    need = 12 * sum(t.numel() * t.element_size() for t in a.state_dict().values())
    narrow = barrier(a, b, (x, y), alphas=2, norm="keep", max_memory=need).loss
    np.testing.assert_allclose(narrow, wide, rtol=1e-5)
    with pytest.raises(ValueError, match="max_memory is 1000 bytes"):
        barrier(a, b, (x, y), alphas=2, norm="keep", max_memory=1000)


def once(timer, run, *, longest=4.0):
    run(0)
    return 1.0


def broken(x, y):
    raise RuntimeError("no compiler")


def test_the_timer_gives_the_median_of_its_events(device):
    runs = []
    timer = gpu_timing.Timer(device_tests.DEVICE, deadline=time.monotonic() + 60, repeats=7)
    assert timer.seconds(runs.append) == 1e-3
    assert runs == [0, 1, *range(7)]


def test_the_whole_benchmark_runs(device, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_timing, "PRODUCT_SIZES", (8,))
    monkeypatch.setattr(gpu_timing, "TALL_ROWS", 100)
    monkeypatch.setattr(gpu_timing, "CACHE_BYTES", 1)
    shrunk = [
        (name, mode, (40, *[min(n, 4) for n in shape[1:]]))
        for name, mode, shape in gpu_correlation.CASES
    ]
    monkeypatch.setattr(gpu_correlation, "CASES", {case[:2]: case for case in shrunk}.values())
    monkeypatch.setattr(gpu_correlation, "KINDS", ("normal",))
    monkeypatch.setattr(gpu_correlation, "accuracy", partial(gpu_correlation.accuracy, samples=50))
    one_batch = partial(gpu_correlation.all_layers, batch=1, parts=1)
    monkeypatch.setattr(gpu_correlation, "all_layers", one_batch)
    monkeypatch.setattr(gpu_correlation, "triton_rival", lambda device: broken)
    measured = gpu_grid.measured
    monkeypatch.setattr(
        gpu_grid,
        "measured",
        lambda timer, case, make, shape, points, corners=2: measured(
            timer, case, make, shape, 3, corners, samples=10
        ),
    )
    monkeypatch.setattr(gpu_assignment, "LAYERS", ((6, 2), (9, 8)))
    monkeypatch.setattr(gpu_assignment, "PLACES", ((6, 8),))
    monkeypatch.setattr(gpu_timing.Timer, "seconds", once)
    status = gpu.main(["--seconds", "500"])
    shown = capsys.readouterr().out
    (path,) = tmp_path.iterdir()
    stored = record.load(path.stem)
    assert not [row for row in stored["rows"] if "failed" in row], shown
    assert status == 0
    assert stored["not reached"] == []
    assert set(gpu.TARGETS) <= {row["id"] for row in stored["rows"]}
    errors = [row["lmc_fast error"] for row in stored["rows"] if "lmc_fast error" in row]
    assert max(errors) < 1e-5
    assert "triton failed" in next(row for row in stored["rows"] if row["id"] == "A2")
    assert all(row["same answer"] for row in stored["rows"] if "same answer" in row)
