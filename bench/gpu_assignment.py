"""Assignment on CUDA: one launch for all layers against the CPU solver, and the placement rule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from lmc_fast import linear_sum_assignment
from lmc_fast._cuda import assignment as device
from lmc_fast._cuda.launcher import launcher_for
from torch import Tensor

from bench.gpu_timing import Case, Timer

# The hidden groups of a ResNet-50: the width of each and how many there are.
LAYERS = ((64, 7), (128, 8), (256, 13), (512, 7), (1024, 1), (2048, 1))
PLACES = tuple((size, problems) for size in (64, 128, 256, 512) for problems in (1, 8, 32, 128))


def cases(timer: Timer) -> Iterator[Case]:
    """All layers of a network, then batches that tell where a problem belongs."""
    yield Case("C1", partial(measured, timer, "C1", LAYERS))
    for size, problems in PLACES:
        yield Case("place", partial(measured, timer, "place", ((size, problems),)))


def similarity(problems: int, n: int, device: torch.device) -> Tensor:
    """Correlation-like matrices with a hidden permutation: (problems, n, n) float32."""
    order = torch.stack([torch.randperm(n, device=device) for _ in range(problems)])
    noise = torch.randn(problems, n, n, device=device) / 16
    return noise.scatter_add_(2, order[:, :, None], torch.full_like(noise[:, :, :1], 0.3))


def measured(timer: Timer, case: str, sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """Times of the kernel and of the CPU solver, copies included; the answers must be equal."""
    costs = [similarity(problems, size, timer.device) for size, problems in sizes]
    launcher = launcher_for(timer.device, "assignment")

    def on_device(k: int) -> list[device.DeviceAssignment]:
        return device.solve(costs, maximize=True, launcher=launcher)

    def on_host(k: int) -> list[Tensor]:
        found = [linear_sum_assignment(cost.cpu(), maximize=True)[1] for cost in costs]
        return [cols.to(timer.device) for cols in found]

    same = all(
        torch.equal(mine.cols, theirs)
        for mine, theirs in zip(on_device(0), on_host(0), strict=True)
    )
    return {
        "id": case,
        "problems": [list(cost.shape) for cost in costs],
        "same answer": same,
        "device s": timer.seconds(on_device, longest=2.0),
        "cpu s": timer.seconds(on_host, longest=2.0),
    }
