"""The GPU benchmark without a GPU: its cases run on the CPU, its command says what it lacks."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lmc_fast import cuda_available

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from simt_host import HostLauncher, host_kernels  # noqa: E402

from bench import gpu, gpu_assignment, gpu_correlation, gpu_grid  # noqa: E402


class HostTimer:
    """Runs once by the host's clock, where the real one uses device events."""

    device = torch.device("cpu")

    def seconds(self, run, *, longest=4.0):
        start = time.perf_counter()
        run(0)
        return time.perf_counter() - start

    def left(self):
        return 1.0


@pytest.mark.skipif(cuda_available(), reason="a CUDA device is there")
def test_without_a_device_the_command_says_so_and_exits_with_3():
    found = subprocess.run(
        [sys.executable, "-m", "bench", "gpu"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == gpu.NO_DEVICE == 3
    assert "no CUDA device" in found.stderr


@pytest.mark.parametrize(("mode", "shape"), [("float32", (40, 6, 3, 3)), ("fast", (300, 8))])
def test_a_correlation_case(mode, shape, monkeypatch):
    monkeypatch.setattr("bench.gpu_timing.CACHE_BYTES", 1)
    row = gpu_correlation.measured(HostTimer(), "A5", mode, shape)
    assert row["lmc_fast error"] < 1e-5
    assert row["torch float32 error"] < 1e-5
    assert gpu.speedup(row) == row["torch tf32 s"] / row["lmc_fast s"]
    assert "(" in gpu.line(row)


@pytest.mark.parametrize("kind", gpu_correlation.KINDS)
def test_an_accuracy_case(kind):
    row = gpu_correlation.accuracy(torch.device("cpu"), kind, samples=3000)
    assert row["exact error"] < 1e-12
    assert row["float32 error"] < 1e-4


def test_the_all_layers_case():
    row = gpu_correlation.all_layers(HostTimer(), batch=2)
    assert row["layers"] == 21
    assert row["with moments s"] > 0


@pytest.mark.parametrize(("corners", "points"), [(2, 4), (3, 3)])
def test_a_grid_case(corners, points):
    def make():
        return torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))

    row = gpu_grid.measured(HostTimer(), "B1", make, (5,), points, corners, samples=60)
    assert row["lmc_fast error"] < 1e-5
    assert gpu.speedup(row) > 0


def test_an_assignment_case(monkeypatch):
    library = host_kernels("assignment")
    monkeypatch.setattr(gpu_assignment, "launcher_for", lambda *_: HostLauncher(library))
    row = gpu_assignment.measured(HostTimer(), "C1", ((12, 2), (20, 1)))
    assert row["same answer"]
    assert gpu.speedup(row) == row["cpu s"] / row["device s"]


def test_every_section_lists_its_cases_and_every_target_has_one():
    names = {
        case.name
        for module in (gpu_correlation, gpu_grid, gpu_assignment)
        for case in module.cases(HostTimer())
    }
    assert set(gpu.TARGETS) <= names


def test_a_run_stores_rows_failures_and_what_it_did_not_reach(tmp_path, monkeypatch):
    from bench import gpu_timing, record

    class Properties:
        name = "Some GPU 100"
        multi_processor_count = 2

    class Module:
        @staticmethod
        def cases(timer):
            yield gpu_timing.Case(
                "A1", lambda: {"id": "A1", "torch float32 s": 4.0, "lmc_fast s": 1.0}
            )
            yield gpu_timing.Case("A2", lambda: 1 / 0)

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(gpu_timing, "ceilings", lambda timer: {"copy TB/s": 1.0})
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr("bench.gpu_correlation.cases", Module.cases)
    assert gpu.run(torch.device("cpu"), 10, ("correlation",)) == 1
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("gpu-some-gpu-100-")
    stored = record.load(path.stem)
    assert stored["rows"][0]["id"] == "A1"
    assert "ZeroDivisionError" in stored["rows"][1]["failed"]
    assert gpu.run(torch.device("cpu"), -1, ("correlation",)) == 1
    assert record.load(path.stem)["not reached"] == ["A1", "A2"]
