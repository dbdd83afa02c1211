"""The interpolation grid on CUDA: barrier and plane against the loop one writes with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lmc_fast import barrier, plane
from lmc_fast.nets import MLP, resnet20
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from bench.gpu_timing import Case, Timer, tf32

SAMPLES = 10_000
BATCHES = (1024, SAMPLES)
"""The library reads tensors in batches of 1024; the loop is also given its best, one batch."""


def cases(timer: Timer) -> Iterator[Case]:
    """Every grid case: a segment of two networks, or a plane of three."""
    small, deep = (784, 512, 10), (784, 512, 512, 512, 10)
    digits, pictures = (784,), (3, 32, 32)
    yield Case("B1", partial(measured, timer, "B1", lambda: MLP(small), digits, 25))
    yield Case("B2", partial(measured, timer, "B2", lambda: MLP(deep), digits, 25))
    for sizes in (small, deep):
        yield Case("B3", partial(measured, timer, "B3", partial(MLP, sizes), digits, 21, 3))
    yield Case("B4", partial(measured, timer, "B4", resnet20, pictures, 25))


def measured(
    timer: Timer,
    case: str,
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    points: int,
    corners: int = 2,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Times of the library and of the loop, and their errors against a float64 loop."""
    nets = [make().to(timer.device).eval() for _ in range(corners)]
    inputs = torch.randn(samples, *shape, device=timer.device)
    targets = torch.randint(0, 10, (samples,), device=timer.device)
    if corners == 2:
        found = barrier(*nets, (inputs, targets), alphas=points, norm="keep")
        mine = torch.from_numpy(found.loss)
        alphas = torch.linspace(0, 1, points, dtype=torch.float64)
        shares = torch.stack((1 - alphas, alphas), 1).tolist()

        def library(k: int) -> object:
            return barrier(*nets, (inputs, targets), alphas=points, norm="keep")
    else:
        grid = plane(*nets, (inputs, targets), resolution=points, norm="keep")
        mine = torch.from_numpy(grid.loss).flatten()
        shares = grid.weights.reshape(-1, 3).tolist()

        def library(k: int) -> object:
            return plane(*nets, (inputs, targets), resolution=points, norm="keep")

    row: dict[str, Any] = {"id": case, "points": len(shares), "samples": samples, "nets": corners}
    row["net"] = type(nets[0]).__name__
    row["parameters"] = sum(t.numel() for t in nets[0].parameters())
    probes = list(range(0, len(shares), max(1, len(shares) // 8)))
    with tf32(False), torch.no_grad():
        wide = [copy.deepcopy(net).double() for net in nets]
        exact = loop(wide, inputs.double(), targets, [shares[k] for k in probes], 1024)[0]
        plain = loop(nets, inputs, targets, [shares[k] for k in probes], 1024)[0]
        row["lmc_fast error"] = float((mine[probes] - exact.cpu()).abs().max())
        row["torch error"] = float((plain - exact).abs().max())
        row["lmc_fast s"] = timer.seconds(library)
        for batch in BATCHES:
            row[f"torch loop of {batch} s"] = timer.seconds(
                lambda k, batch=batch: loop(nets, inputs, targets, shares, batch)
            )
    return row


def loop(
    nets: Sequence[nn.Module],
    inputs: Tensor,
    targets: Tensor,
    shares: Sequence[Sequence[float]],
    batch: int,
) -> tuple[Tensor, Tensor]:
    """Point by point: mix the state dicts, run, add up on the device."""
    states = [net.state_dict() for net in nets]
    loss = torch.zeros(len(shares), dtype=torch.float64, device=inputs.device)
    wrong = torch.zeros(len(shares), dtype=torch.int64, device=inputs.device)
    for k, row in enumerate(shares):
        state = {}
        for name, first in states[0].items():
            state[name] = first
            if first.is_floating_point():
                parts = [w * other[name] for w, other in zip(row, states, strict=True)]
                state[name] = sum(parts[1:], parts[0])
        for start in range(0, len(inputs), batch):
            labels = targets[start : start + batch]
            logits = functional_call(nets[0], state, (inputs[start : start + batch],))
            loss[k] += F.cross_entropy(logits, labels, reduction="sum").double()
            wrong[k] += (logits.argmax(1) != labels).sum()
    return loss / len(inputs), wrong
