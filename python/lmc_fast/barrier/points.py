"""Points in weight space: weighted sums of networks of one architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

StateDict: TypeAlias = Mapping[str, Tensor]

_UNUSED = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Points:
    """K points ``theta_k = sum_j weight[k, j] anchors[index[k, j]]``.

    Attributes
    ----------
    anchors
        State dicts of one architecture.
    index
        Shape (K, m), int64: which anchors each point mixes.
    weight
        Shape (K, m), float64: by how much; each row sums to one. Zero weights are padding.
    """

    anchors: tuple[StateDict, ...]
    index: NDArray[np.int64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def state(self, k: int) -> dict[str, Tensor]:
        """Return the weights of point ``k``: the anchor's own tensors where it is an anchor.

        Integer entries (counters, masks) are those of the point's first anchor. Floating point
        entries are formed as ``first + sum of weighted differences``, which is exact where the
        anchors agree, in at least float32.
        """
        used = np.flatnonzero(self.weight[k])
        first = self.anchors[self.index[k, used[0]]]
        if used.size == 1:
            return dict(first)
        others = [(self.anchors[self.index[k, j]], float(self.weight[k, j])) for j in used[1:]]
        return {
            name: _mix(tensor, [(other[name], weight) for other, weight in others])
            for name, tensor in first.items()
        }


def distinct(points: Points) -> tuple[Points, NDArray[np.int64]]:
    """Return the distinct points, and for each given point the index of its representative.

    Anchors that agree in every tensor count as one, so that a point between equal networks is the
    network itself and every path through it is exactly flat.
    """
    representative = np.array(_first_equal(points.anchors), dtype=np.int64)
    index, weight = representative[points.index], points.weight.copy()
    for j in range(1, index.shape[1]):
        for i in range(j):
            same = index[:, i] == index[:, j]
            weight[same, i] += weight[same, j]
            weight[same, j] = 0.0
    single = (weight != 0).sum(axis=1) == 1
    weight[single] = weight[single] != 0
    index[weight == 0] = _UNUSED
    order = np.argsort(index, axis=1, kind="stable")
    rows = np.concatenate(
        [np.take_along_axis(part, order, axis=1) for part in (index, weight)], axis=1
    )
    order = np.lexsort(rows.T[::-1])
    rows = rows[order]
    new = np.concatenate([[True], (rows[1:] != rows[:-1]).any(axis=1)])
    inverse = np.empty(len(rows), dtype=np.int64)
    inverse[order] = np.cumsum(new) - 1
    index, weight = np.split(rows[new], 2, axis=1)
    used = max(1, int((weight != 0).sum(axis=1).max()))
    # Padding repeats a point's first network, so that its differences vanish.
    index = np.where(weight == 0, index[:, :1], index)
    return (
        Points(points.anchors, index[:, :used].astype(np.int64), weight[:, :used]),
        inverse,
    )


def module_state(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer of ``model``, detached, including unsaved buffers."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: tensor.detach() for name, tensor in named}


def complete_state(model: nn.Module, state: StateDict, label: str) -> dict[str, Tensor]:
    """Return ``state`` on the model's device with the model's own unsaved buffers added.

    Raises
    ------
    ValueError
        If names, shapes or dtypes differ from the model's; up to five differences are listed.
    """
    full = module_state(model)
    saved = model.state_dict().keys()
    faults = [f"{name} is missing" for name in full if name in saved and name not in state]
    for name, tensor in state.items():
        if name not in full:
            if isinstance(tensor, Tensor) and not name.endswith("_extra_state"):
                faults.append(f"{name} is not in the model")
        elif tensor.shape != full[name].shape:
            faults.append(f"{name} has shape {tuple(tensor.shape)}, not {tuple(full[name].shape)}")
        elif tensor.dtype != full[name].dtype:
            faults.append(f"{name} has dtype {tensor.dtype}, not {full[name].dtype}")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise ValueError(f"{label} does not fit the model: {'; '.join(faults[:5])}{more}")
    for name in full:
        if name in state:
            full[name] = state[name].detach().to(full[name].device)
    return full


def _mix(first: Tensor, others: Sequence[tuple[Tensor, float]]) -> Tensor:
    if not (first.is_floating_point() or first.is_complex()):
        return first
    wide = torch.promote_types(first.dtype, torch.float32)
    base = first.to(wide)
    mixed = base.clone()
    for other, weight in others:
        mixed.add_(other.to(wide) - base, alpha=weight)
    return mixed.to(first.dtype)


def _first_equal(anchors: Sequence[StateDict]) -> list[int]:
    """Return for each anchor the index of the first anchor equal to it."""
    by_digest: dict[float, list[int]] = {}
    by_identity: dict[int, int] = {}
    first: list[int] = []
    for k, anchor in enumerate(anchors):
        known = by_identity.setdefault(id(anchor), k)
        if known != k:
            first.append(first[known])
            continue
        candidates = by_digest.setdefault(_digest(anchor), [])
        same = next((j for j in candidates if _equal(anchors[j], anchor)), k)
        if same == k:
            candidates.append(k)
        first.append(same)
    return first


def _digest(state: StateDict) -> float:
    """Return a number that equal states share, cheap to compare before the states are."""
    tensor = next((t for t in state.values() if t.is_floating_point() and t.numel()), None)
    return 0.0 if tensor is None else float(tensor.flatten()[:64].double().nan_to_num().sum())


def _equal(a: StateDict, b: StateDict) -> bool:
    return all(a[name] is b[name] or torch.equal(a[name], b[name]) for name in a)
