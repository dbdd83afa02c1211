"""Timing on a CUDA device, and the ceilings that other times are read against."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

CACHE_BYTES = 256 << 20
"""More than any second-level cache; inputs rotate through at least this much."""

PRODUCT_SIZES = (4096, 8192)
TALL_ROWS = 2_000_000
"""Of the ceilings: sizes of square products, and rows of products of few channels."""


@dataclass(frozen=True)
class Case:
    """One row of the results: its name in the table of targets, and what measures it."""

    name: str
    run: Callable[[], dict[str, Any]]


@dataclass
class Timer:
    """Medians of repeated runs, until a deadline shared by the whole benchmark."""

    device: torch.device
    deadline: float
    repeats: int = 20

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def seconds(self, run: Callable[[int], Any], *, longest: float = 4.0) -> float:
        """Median seconds of ``run(k)``, k = 0, 1, ...; at most `longest` seconds of repeats."""
        begin = time.monotonic()
        for k in range(2):
            run(k)
        torch.cuda.synchronize(self.device)
        once = (time.monotonic() - begin) / 2
        repeats = max(3, min(self.repeats, int(min(longest, self.left()) / max(once, 1e-6))))
        events = [
            (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            for _ in range(repeats)
        ]
        for k, (start, stop) in enumerate(events):
            start.record()
            run(k)
            stop.record()
        torch.cuda.synchronize(self.device)
        return median(start.elapsed_time(stop) for start, stop in events) / 1e3


def rotated(make: Callable[[], tuple[Tensor, ...]], least: int = 2) -> list[tuple[Tensor, ...]]:
    """Enough independent inputs that one is out of the cache when it comes round again."""
    first = make()
    size = sum(t.numel() * t.element_size() for t in first)
    return [first, *(make() for _ in range(max(least, -(-CACHE_BYTES // max(size, 1))) - 1))][:8]


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Fix the arithmetic of float32 products and convolutions: their defaults differ."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def ceilings(timer: Timer) -> dict[str, float]:
    """Copy bandwidth in TB/s (read plus write) and products X^T Y in TFLOP/s, by type and size."""
    device = timer.device
    size = min(1 << 30, torch.cuda.mem_get_info(device)[0] // 8) // 4
    source = torch.randn(size, device=device)
    target = torch.empty_like(source)
    seconds = timer.seconds(lambda k, to=target, source=source: to.copy_(source))
    found = {"copy TB/s": 8e-12 * size / seconds}
    del source, target
    kinds = {
        "float32": (torch.float32, False),
        "tf32": (torch.float32, True),
        "float16": (torch.float16, False),
        "float64": (torch.float64, False),
    }
    for name, (dtype, allowed) in kinds.items():
        for n in PRODUCT_SIZES:
            x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            with tf32(allowed):
                seconds = timer.seconds(lambda k, x=x, y=y: x.T @ y, longest=2.0)
            found[f"{name} {n} TFLOP/s"] = 2e-12 * n**3 / seconds
    for channels in (16, 32, 64, 128):
        x, y = (torch.randn(TALL_ROWS, channels, device=device) for _ in range(2))
        with tf32(False):
            seconds = timer.seconds(lambda k, x=x, y=y: x.T @ y, longest=2.0)
        found[f"float32 n={TALL_ROWS:.0e} p={channels} TB/s"] = 8e-12 * x.numel() / seconds
    return found
