"""Finding the driver, the shipped machine code and NVRTC: everything that needs no GPU."""

import os
import shutil
import subprocess
import sys

import lmc_fast
import pytest
import torch
from lmc_fast import _core
from lmc_fast._cuda import launcher, nvrtc

NO_GPU = not torch.cuda.is_available()


def test_cuda_available_is_a_bool_and_agrees_with_torch():
    assert isinstance(lmc_fast.cuda_available(), bool)
    if NO_GPU:
        assert not lmc_fast.cuda_available()


@pytest.mark.skipif(not NO_GPU, reason="a CUDA device is there")
def test_without_a_device_loading_names_the_reason():
    with pytest.raises(RuntimeError, match="no device 0 among 0"):
        _core.CudaModule(0, b"")


def test_the_sources_are_installed_beside_the_core():
    names = {path.name for path in launcher.kernel_folder().iterdir()}
    sources = {"assignment.cu", "cross_correlation.cu", "interpolation_grid.cu"}
    assert sources | {"primitives.cuh", "correlation_layers.cuh", "correlation_tile.cuh"} <= names


def test_import_needs_no_driver_and_starts_none():
    code = "import lmc_fast, torch; print(lmc_fast.cuda_available(), torch.cuda.is_initialized())"
    environment = dict(os.environ, CUDA_VISIBLE_DEVICES="")
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["False", "False"]


@pytest.fixture
def library():
    try:
        return nvrtc._library()
    except RuntimeError as error:
        pytest.skip(str(error))


def small_kernel(folder, body="out[0] = 1.0f;"):
    shutil.copy(launcher.kernel_folder() / "primitives.cuh", folder)
    text = f'#include "primitives.cuh"\nextern "C" __global__ void k(float *out) {{ {body} }}\n'
    (folder / "small.cu").write_text(text)


def test_nvrtc_compiles_once_and_caches(library, tmp_path, monkeypatch):
    small_kernel(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = nvrtc.compile_kernels(tmp_path, "small", (9, 0))
    assert first[:4] == b"\x7fELF"
    monkeypatch.setattr(nvrtc, "_compile", None)
    assert nvrtc.compile_kernels(tmp_path, "small", (9, 0)) == first


def test_nvrtc_reports_what_does_not_compile(library, tmp_path, monkeypatch):
    small_kernel(tmp_path, body="out[0] = missing;")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(RuntimeError, match="missing"):
        nvrtc.compile_kernels(tmp_path, "small", (9, 0))


def test_a_cache_that_cannot_be_written_is_no_failure(library, tmp_path, monkeypatch):
    small_kernel(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert nvrtc.compile_kernels(tmp_path, "small", (9, 0))[:4] == b"\x7fELF"


@pytest.mark.slow
@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_nvrtc_compiles_the_kernels(library, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = launcher.kernel_folder()
    for source in folder.glob("*.cu"):
        assert nvrtc.compile_kernels(folder, source.stem, capability)[:4] == b"\x7fELF"


def test_machine_code_that_the_driver_refuses_is_compiled_anew(tmp_path, monkeypatch):
    """As by a driver older than the compiler."""
    (tmp_path / "small.fatbin").write_bytes(b"shipped")
    loaded = []

    def module(index, image):
        loaded.append(image)
        if image == b"shipped":
            raise RuntimeError("CUDA driver: cannot load the kernels")
        return image

    monkeypatch.setattr(launcher, "kernel_folder", lambda: tmp_path)
    monkeypatch.setattr(launcher._core, "CudaModule", module)
    monkeypatch.setattr(nvrtc, "compile_kernels", lambda *_: b"compiled")
    assert launcher._load_module(0, "small", (9, 0)) == b"compiled"
    assert loaded == [b"shipped", b"compiled"]


def test_no_nvrtc_says_what_to_do(monkeypatch):
    monkeypatch.setattr(nvrtc, "_candidates", lambda: iter(()))
    nvrtc._library.cache_clear()
    with pytest.raises(RuntimeError, match="install a CUDA build of torch"):
        nvrtc._library()
