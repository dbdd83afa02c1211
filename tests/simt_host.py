"""Compiles a kernel source for the host and launches it through tests/simt, on CPU tensors."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KERNELS = ROOT / "csrc" / "cuda"
SIMT = ROOT / "tests" / "simt"
COMPILER = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


@cache
def host_kernels(name):
    """The kernels of csrc/cuda/NAME.cu, built once for all test modules of a run."""
    with tempfile.TemporaryDirectory() as folder:
        return compile_kernels(name, Path(folder))


def compile_kernels(name, folder, *, replacements=()):
    """Build tests/simt/NAME.cpp into `folder`; `replacements` change the kernels' source first."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    sources = folder / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    texts = {path: path.read_text() for path in (KERNELS / f"{name}.cu", *KERNELS.glob("*.cuh"))}
    for old, new in replacements:
        count = sum(text.count(old) for text in texts.values())
        assert count == 1, f"{old!r} is in {name}.cu and its headers {count} times"
        texts = {path: text.replace(old, new) for path, text in texts.items()}
    for path, text in texts.items():
        (sources / path.name).write_text(text)
    library = folder / f"{name}.so"
    prefix = Path(standard_headers().name) / "standard.hpp"
    run_compiler(
        *("-shared", "-Wno-unknown-pragmas", "-include", str(prefix)),
        *(f"-I{sources}", f"-I{SIMT}", "-o", str(library), str(SIMT / f"{name}.cpp")),
    )
    return ctypes.CDLL(str(library))


@cache
def standard_headers():
    """A folder with the standard headers of the shim, compiled once: most of a build's time."""
    folder = tempfile.TemporaryDirectory()
    prefix = Path(folder.name) / "standard.hpp"
    lines = (SIMT / "simt.hpp").read_text().splitlines()
    standard = [line for line in lines if re.fullmatch(r"#include <\w+(\.h)?>", line)]
    prefix.write_text("\n".join(standard) + "\n")
    run_compiler("-x", "c++-header", "-o", f"{prefix}.gch", str(prefix))
    return folder


def run_compiler(*arguments):
    command = [COMPILER, "-std=c++20", "-O1", "-fPIC"]
    if os.environ.get("LMC_SIMT_SANITIZE"):
        command += ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    built = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr


@dataclass
class HostLauncher:
    """Stands in for a device: every launch runs at once, under a schedule drawn from `seed`."""

    library: ctypes.CDLL
    seed: int = 0
    multiprocessors: int = 2

    def launch(self, kernel, grid, threads, shared_bytes, params):
        call = self.library.simt_launch
        call.restype = ctypes.c_char_p
        raw = bytes(params)
        error = call(
            kernel.encode(),
            *grid,
            threads,
            shared_bytes,
            self.seed,
            raw,
            ctypes.c_longlong(len(raw)),
        )
        self.seed += 1
        if error:
            raise RuntimeError(f"{kernel}: {error.decode()}")
