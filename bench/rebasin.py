"""The rival: coordinate descent (Ainsworth 2022, algorithm 1) in plain torch and SciPy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from lmc_fast import PermutationSpec
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def weight_matching(
    spec: PermutationSpec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    tensors: list[str],
    *,
    seed: int,
    max_sweeps: int = 100,
) -> tuple[dict[str, Tensor], int]:
    """Return the permutation and the number of sweeps; one group per axis, no blocks."""
    generator = torch.Generator().manual_seed(seed)
    axes = {
        name: [term.groups[0] if term.groups else None for term in spec.tensors[name]]
        for name in tensors
    }
    places: dict[str, list[tuple[str, int]]] = {name: [] for name in spec.groups}
    for name, groups in axes.items():
        for axis, group in enumerate(groups):
            if group is not None:
                places[group].append((name, axis))
    permutation = {name: torch.arange(size) for name, size in spec.groups.items()}
    names = list(permutation)
    for sweep in range(1, max_sweeps + 1):
        progress = False
        for i in torch.randperm(len(names), generator=generator).tolist():
            group = names[i]
            n = spec.groups[group]
            similarity = torch.zeros(n, n)
            for name, axis in places[group]:
                moved = b[name]
                for other, index in enumerate(axes[name]):
                    if index is not None and other != axis:
                        moved = moved.index_select(other, permutation[index])
                left = a[name].movedim(axis, 0).reshape(n, -1)
                similarity += left @ moved.movedim(axis, 0).reshape(n, -1).T
            _, columns = linear_sum_assignment(similarity.numpy(), maximize=True)
            chosen = torch.as_tensor(columns)
            old = similarity.gather(1, permutation[group][:, None]).sum()
            new = similarity.gather(1, chosen[:, None]).sum()
            progress |= bool(new > old + 1e-12)
            permutation[group] = chosen
        if not progress:
            return permutation, sweep
    return permutation, max_sweeps
