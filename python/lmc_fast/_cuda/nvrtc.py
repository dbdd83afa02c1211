"""Compile kernels at first use with the NVRTC library that a CUDA build of torch carries."""

from __future__ import annotations

import ctypes
import hashlib
import os
import site
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch


def compile_kernels(folder: Path, source: str, capability: tuple[int, int]) -> bytes:
    """Machine code of FOLDER/SOURCE.cu for a compute capability, cached in the user's cache folder.

    Raises
    ------
    RuntimeError
        If there is no NVRTC library, or it refuses the source; its log is in the message.
    """
    library = _library()
    architecture = f"sm_{capability[0]}{capability[1]}"
    text = (folder / f"{source}.cu").read_bytes()
    headers = {path.name: path.read_bytes() for path in sorted(folder.glob("*.cuh"))}
    key = hashlib.sha256(b"\0".join((text, *headers.values(), repr(_version(library)).encode())))
    cached = cache_folder() / f"{source}-{architecture}-{key.hexdigest()[:24]}.cubin"
    if cached.is_file():
        return cached.read_bytes()
    image = _compile(library, source, text, headers, architecture)
    _store(cached, image)
    return image


def cache_folder() -> Path:
    """Where compiled kernels are kept: $XDG_CACHE_HOME/lmc_fast, else ~/.cache/lmc_fast."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "lmc_fast"


def _store(path: Path, image: bytes) -> None:
    """Write beside the target and rename, so that no reader sees half a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(image)
        os.replace(file.name, path)
    except OSError:
        # A read-only home costs one compilation for each process, nothing else.
        return


def _compile(
    library: ctypes.CDLL, source: str, text: bytes, headers: dict[str, bytes], architecture: str
) -> bytes:
    program = ctypes.c_void_p()
    count = len(headers)
    texts = (ctypes.c_char_p * count)(*headers.values())
    names = (ctypes.c_char_p * count)(*(each.encode() for each in headers))
    name = f"{source}.cu".encode()
    _check(
        library,
        library.nvrtcCreateProgram(ctypes.byref(program), text, name, count, texts, names),
        "cannot create a program",
    )
    try:
        flags = (b"-std=c++17", f"-arch={architecture}".encode())
        options = (ctypes.c_char_p * len(flags))(*flags)
        status = library.nvrtcCompileProgram(program, len(flags), options)
        if status:
            log = _fetch(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
            raise RuntimeError(f"NVRTC: {name.decode()} for {architecture} does not compile: {log}")
        return _fetch(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _fetch(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    get_size = getattr(library, f"nvrtcGet{what}Size")
    _check(library, get_size(program, ctypes.byref(size)), f"no size of {what}")
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer), f"no {what}")
    return buffer.raw


def _check(library: ctypes.CDLL, status: int, what: str) -> None:
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {what}: {library.nvrtcGetErrorString(status).decode()}")


def _version(library: ctypes.CDLL) -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "no version")
    return major.value, minor.value


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    for candidate in _candidates():
        with suppress(OSError):
            return ctypes.CDLL(candidate)
    raise RuntimeError(
        "CUDA kernels: this build carries no machine code for the device and no NVRTC library was "
        "found to make it: install a CUDA build of torch, or build with nvcc (LMC_CUDA=ON)"
    )


def _candidates() -> Iterator[str]:
    """Torch's own version first: by name, then in the folders of its packages."""
    major = (torch.version.cuda or "").split(".")[0]
    if major:
        yield f"libnvrtc.so.{major}"
    roots = {Path(torch.__file__).parents[1], *map(Path, site.getsitepackages())}
    for root in [*roots, *map(Path, sys.path)]:
        for pattern in ("nvidia/*/lib/libnvrtc.so.*", "torch/lib/libnvrtc*.so*"):
            matches = root.glob(pattern)
            yield from sorted(str(path) for path in matches if "builtins" not in path.name)
