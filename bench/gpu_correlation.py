"""Cross-correlation on CUDA: the kernels against torch and Triton, with errors against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lmc_fast import CrossMoments, cross_correlation
from lmc_fast.nets import resnet20
from lmc_fast.statistics import update_moments
from torch import Tensor

from bench.gpu_timing import Case, Timer, rotated, tf32

CASES = (
    ("A1", "float32", (1024, 16, 32, 32)),
    ("A1", "float32", (1024, 32, 32, 32)),
    ("A1", "float32", (1024, 64, 32, 32)),
    ("A1", "float32", (1024, 128, 32, 32)),
    ("A2", "float32", (1_000_000, 512)),
    ("A3", "float32", (100_000, 4096)),
    ("A4", "float32", (100_000, 14336)),
    ("A5", "fast", (1_000_000, 512)),
    ("A5", "fast", (400_000, 1024)),
    ("A5", "fast", (200_000, 2048)),
    ("exact", "exact", (1024, 64, 32, 32)),
    ("exact", "exact", (200_000, 512)),
    ("exact", "exact", (50_000, 1023)),
    ("exact", "exact", (50_000, 1024)),
)
KINDS = ("normal", "relu", "lognormal", "sparse", "offset")


def cases(timer: Timer) -> Iterator[Case]:
    """Every correlation case, then accuracy by kind of data, then all layers of a network."""
    for name, mode, shape in CASES:
        yield Case(name, partial(measured, timer, name, mode, shape))
    for kind in KINDS:
        yield Case("acc", partial(accuracy, timer.device, kind))
    yield Case("A6", partial(all_layers, timer))


def draw(shape: tuple[int, ...], device: torch.device, kind: str = "normal") -> tuple[Tensor, ...]:
    """A pair of inputs whose channels are well correlated, the pairs that matching looks for."""
    base = torch.randn(shape, device=device)
    x, y = base + 0.3 * torch.randn(shape, device=device), base
    if kind == "relu":
        return x.relu_(), y.relu_()
    if kind == "lognormal":
        return x.exp_(), y.exp_()
    if kind == "sparse":
        keep = torch.rand(shape, device=device) < 0.01
        return x * keep, y * keep
    if kind == "offset":
        return x + 30, y + 30
    return x, y


def as_rows(x: Tensor) -> Tensor:
    """The copy that torch needs: (n, channels, ...) to (rows, channels)."""
    return x if x.ndim == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])


def torch_correlation(x: Tensor, y: Tensor) -> Tensor:
    """The best plain formulation: row copy, means and variances, one centred product."""
    x, y = as_rows(x), as_rows(y)
    variance_x, mean_x = torch.var_mean(x, 0, correction=0)
    variance_y, mean_y = torch.var_mean(y, 0, correction=0)
    product = torch.addr(x.T @ y, mean_x, mean_y, alpha=-len(x))
    return product / len(x) * variance_x.rsqrt()[:, None] * variance_y.rsqrt()


def float64_correlation(x: Tensor, y: Tensor, chosen: int = 256) -> Tensor:
    """Of the first channels, in float64, a few rows at a time."""
    x, y = as_rows(x[:, :chosen]), as_rows(y[:, :chosen])
    step = max(1, (1 << 27) // x.shape[1])
    mean_x, mean_y = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
    cross = torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
    square_x, square_y = torch.zeros_like(mean_x), torch.zeros_like(mean_y)
    for start in range(0, len(x), step):
        dx = x[start : start + step].double() - mean_x
        dy = y[start : start + step].double() - mean_y
        cross += dx.T @ dy
        square_x += dx.square().sum(0)
        square_y += dy.square().sum(0)
    return cross * square_x.rsqrt()[:, None] * square_y.rsqrt()


def error(found: Tensor, expected: Tensor) -> float:
    """Greatest absolute difference, over the channels that were computed in float64."""
    p, q = expected.shape
    return float((found[:p, :q].double() - expected).abs().max())


def measured(timer: Timer, case: str, mode: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Times and errors of one shape by every formulation."""
    pairs = rotated(lambda: draw(shape, timer.device))
    x, _ = pairs[0]
    expected = float64_correlation(*pairs[0])
    calls: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], bool]] = {
        "lmc_fast": (lambda x, y: cross_correlation(x, y, mode=mode), False),
        "torch float32": (torch_correlation, False),
        "torch tf32": (torch_correlation, True),
    }
    if (
        mode == "exact"
    ):  # 1023 channels take the kernel, 1024 cuBLAS: the widths tell which is faster
        calls["torch float64"] = (lambda x, y: torch_correlation(x.double(), y.double()), False)
    row: dict[str, Any] = {"id": case, "mode": mode, "shape": list(shape)}
    for name, (call, allowed) in calls.items():
        with tf32(allowed):
            row[f"{name} error"] = error(call(*pairs[0]), expected)
            row[f"{name} s"] = timer.seconds(lambda k, call=call: call(*pairs[k % len(pairs)]))
    if mode == "float32" and len(shape) == 2 and (rival := triton_rival(x.device)) is not None:
        try:
            row["triton error"] = error(rival(*pairs[0]), expected)
            row["triton s"] = timer.seconds(lambda k: rival(*pairs[k % len(pairs)]))
        except Exception as failure:  # a rival's failure must not cost the row
            row["triton failed"] = f"{type(failure).__name__}: {failure}"
    row["input bytes"] = 2 * x.numel() * x.element_size()
    row["FLOP of one product"] = 2 * x.numel() * shape[1]
    return row


def triton_rival(device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The Triton kernel, where Triton is installed and has a GPU to run on."""
    if device.type != "cuda":
        return None
    try:
        from bench.gpu_triton import triton_correlation
    except ImportError:
        return None
    return triton_correlation


def accuracy(device: torch.device, kind: str, samples: int = 500_000) -> dict[str, Any]:
    """Errors of all modes on one kind of data."""
    x, y = draw((samples, 128), device, kind)
    expected = float64_correlation(x, y)
    row: dict[str, Any] = {"id": "acc", "kind": kind, "shape": list(x.shape)}
    for mode in ("float32", "fast", "exact"):
        row[f"{mode} error"] = error(cross_correlation(x, y, mode=mode), expected)
    for name, allowed in (("torch float32", False), ("torch tf32", True)):
        with tf32(allowed):
            row[f"{name} error"] = error(torch_correlation(x, y), expected)
    return row


def all_layers(timer: Timer, batch: int = 1000, parts: int = 10) -> dict[str, Any]:
    """A6: what the moments of all layers of two ResNet-20 add to their forward passes."""
    nets = [resnet20().to(timer.device).eval() for _ in range(2)]
    images = [torch.randn(batch, 3, 32, 32, device=timer.device) for _ in range(2)]
    seen: list[list[Tensor]] = [[], []]

    def keep(which: int) -> Callable[..., None]:
        return lambda module, args, output: seen[which].append(output)

    def forwards(k: int) -> None:
        for part in range(parts):
            for which, net in enumerate(nets):
                seen[which].clear()
                net(images[(k + part) % 2])

    def with_moments(k: int) -> None:
        held: list[CrossMoments] = []
        for part in range(parts):
            for which, net in enumerate(nets):
                seen[which].clear()
                net(images[(k + part) % 2])
            held = held or [CrossMoments() for _ in seen[0]]
            update_moments(held, *seen)

    for which, net in enumerate(nets):
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(keep(which))
    with torch.no_grad(), tf32(False):
        alone, together = timer.seconds(forwards), timer.seconds(with_moments)
    return {"id": "A6", "forwards s": alone, "with moments s": together, "layers": len(seen[0])}
