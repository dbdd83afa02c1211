"""Activation matching: one assignment per group on the similarity of activations (Li 2015)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmc_fast.assignment import Assignment, solve_together
from lmc_fast.data import Batch, call, count_examples, device_of, move
from lmc_fast.errors import SpecMismatchError
from lmc_fast.matching.structured import (
    Piece,
    StructuredAssignment,
    families_of,
    solve_structured,
)
from lmc_fast.matching.taps import Tap, captured, find_taps, units_of
from lmc_fast.permutation import Permutation
from lmc_fast.progress import progress_bar
from lmc_fast.spec import PermutationSpec
from lmc_fast.statistics import CrossMoments, update_moments

METRICS = ("correlation", "covariance", "gram", "cosine")


@dataclass(frozen=True)
class ActivationSimilarity:
    """How alike the units of two models are on data.

    Attributes
    ----------
    similarity : dict[str, Tensor]
        For every plain group the (units of A, units of B) matrix, summed over the group's taps.
    pieces : dict[str, tuple of Piece]
        For every outer group of a structure the similarity of its units, one piece for each tap.
    taps : dict[str, int]
        How many activations each matrix sums over.
    dead_a, dead_b : dict[str, int]
        Units that are constant on the data at every tap.
    samples : int
        Examples seen.
    """

    similarity: dict[str, Tensor]
    pieces: dict[str, tuple[Piece, ...]]
    taps: dict[str, int]
    dead_a: dict[str, int]
    dead_b: dict[str, int]
    samples: int


def activation_similarity(
    spec: PermutationSpec,
    a: nn.Module,
    b: nn.Module,
    batches: Iterable[Batch],
    *,
    metric: str = "correlation",
    progress: bool = False,
) -> ActivationSimilarity:
    """Measure the similarity of the units of two models, one forward pass each per batch.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    a, b : torch.nn.Module
        Run in evaluation mode without gradients; their modes are restored.
    batches : iterable of Batch
        Each batch is read once and shown to both models, so shuffled loaders are safe.
    metric : {"correlation", "covariance", "gram", "cosine"}
        What is computed from the moments.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    SpecMismatchError
        If some group's activations are seen nowhere in the model.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: expected one of {METRICS}, got {metric!r}")
    taps = find_taps(spec, a)
    moments: dict[str, dict[Tap, CrossMoments]] = {name: {} for name in taps}
    modes = [(model, model.training) for root in (a, b) for model in root.modules()]
    families = families_of(spec)
    samples = 0
    try:
        a.eval()
        b.eval()
        with torch.no_grad(), captured(a, taps) as seen_a, captured(b, taps) as seen_b:
            for batch in progress_bar(batches, desc="activations", show=progress, leave=False):
                call(a, move(batch.inputs, device_of(a)))
                call(b, move(batch.inputs, device_of(b)))
                samples += count_examples(batch.inputs)
                layers = [
                    layer
                    for group, entries in taps.items()
                    for layer in _seen_at(spec, entries, seen_a, seen_b, moments[group])
                ]
                update_moments(
                    [held for held, _, _ in layers],
                    [x for _, x, _ in layers],
                    [y for _, _, y in layers],
                )
                seen_a.clear()
                seen_b.clear()
    finally:
        for model, mode in modes:
            model.training = mode
    seen = {g for entries in moments.values() for tap in entries for g in tap.groups(spec)}
    unseen = [name for name in spec.groups if name not in seen]
    if unseen:
        raise SpecMismatchError(
            f"expected the activations of every group at a layer of the model, saw none of "
            f"{unseen[:5]}: match these by weights"
        )
    return ActivationSimilarity(
        {g: _total(list(m.values()), metric) for g, m in moments.items() if g not in families},
        {g: tuple(_pieces(spec, moments[g], metric)) for g in families},
        {g: len(m) for g, m in moments.items()},
        {g: _dead(spec, {t: m.dead_x for t, m in ms.items()}) for g, ms in moments.items()},
        {g: _dead(spec, {t: m.dead_y for t, m in ms.items()}) for g, ms in moments.items()},
        samples,
    )


def match_activations(
    spec: PermutationSpec, similarity: ActivationSimilarity, prefer: Permutation
) -> dict[str, Assignment]:
    """Solve one assignment per group, all in one call; of equal optima the nearest to `prefer`."""
    names, matrices = list(similarity.similarity), list(similarity.similarity.values())
    wanted = [prefer[name] for name in names]
    found = solve_together(matrices, maximize=True, prefer=wanted)
    return dict(zip(names, found, strict=True))


def match_families(
    spec: PermutationSpec, similarity: ActivationSimilarity
) -> dict[str, StructuredAssignment]:
    """Solve a two-level assignment for every outer group and the groups nested in it."""
    return {
        outer: solve_structured(spec.groups, outer, pieces)
        for outer, pieces in similarity.pieces.items()
    }


def _pieces(
    spec: PermutationSpec, moments: dict[Tap, CrossMoments], metric: str
) -> Iterator[Piece]:
    for tap, held in moments.items():
        groups = tap.groups(spec)
        shape = [spec.groups[g] for g in groups]
        yield Piece(groups[1:], getattr(held, metric)().reshape(*shape, *shape))


def _seen_at(
    spec: PermutationSpec,
    taps: tuple[Tap, ...],
    seen_a: dict[tuple[str, str], Tensor],
    seen_b: dict[tuple[str, str], Tensor],
    moments: dict[Tap, CrossMoments],
) -> Iterator[tuple[CrossMoments, Tensor, Tensor]]:
    """One batch's units at every tap of a group; layers that read the same tensor count once."""
    done: set[int] = set()
    for tap in taps:
        key = tap.key
        if key not in seen_a or key not in seen_b or id(seen_a[key]) in done:
            continue
        done.add(id(seen_a[key]))
        x, y = units_of(spec, tap, seen_a[key]), units_of(spec, tap, seen_b[key])
        yield moments.setdefault(tap, CrossMoments()), x, y.to(x.device)


def _total(moments: list[CrossMoments], metric: str) -> Tensor:
    total: Tensor = getattr(moments[0], metric)()
    for other in moments[1:]:
        total = total + getattr(other, metric)()
    return total


def _dead(spec: PermutationSpec, masks: dict[Tap, Tensor]) -> int:
    """Count the units that are dead at every tap that sees them."""
    alike: dict[tuple[str, ...], list[Tensor]] = {}
    for tap, mask in masks.items():
        alike.setdefault(tap.groups(spec), []).append(mask)
    return sum(int(torch.stack(each).all(0).sum().item()) for each in alike.values())
