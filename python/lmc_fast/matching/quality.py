"""How well the units of every group are matched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lmc_fast.assignment import Assignment, solve_assignment
from lmc_fast.matching.families import weight_pieces
from lmc_fast.matching.objective import WeightProblem
from lmc_fast.matching.places import places_of
from lmc_fast.matching.result import GroupStatistics
from lmc_fast.matching.structured import Piece, families_of, inner_similarity
from lmc_fast.permutation import Permutation, identity_permutation
from lmc_fast.spec import PermutationSpec

UNDETERMINED = 0.1
"""A unit is undetermined if its regret is at most this share of what matching gains per unit.

In random matrices without anything to find the median regret is about 0.07 of that gain; of planted
units with more than twice this regret most are found (docs/assignment.md).
"""


def group_statistics(
    spec: PermutationSpec,
    name: str,
    assignment: Assignment,
    similarity: Tensor,
    identity: float,
    matched: float,
    dead_a: int | None = None,
    dead_b: int | None = None,
    *,
    regrets: bool,
) -> GroupStatistics:
    """Describe a group by its last assignment, what that maximised, and its mean similarities."""
    regret, undetermined = None, None
    if regrets:
        best = solve_assignment(
            similarity,
            maximize=True,
            initial_duals=(assignment.u, assignment.v),
            ties="keep",
            prefer=assignment.cols,
            regrets=True,
        )
        regret, undetermined = _identifiability(similarity, best)
    return GroupStatistics(
        spec.groups[name], identity, matched, assignment.gap, regret, undetermined, dead_a, dead_b
    )


def inner_statistics(
    spec: PermutationSpec,
    outer: str,
    pieces: Sequence[Piece],
    permutation: Permutation,
    *,
    regrets: bool,
) -> dict[str, GroupStatistics]:
    """Describe the groups nested in an outer group, all others as they are matched.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    outer : str
        The outer group.
    pieces : sequence of Piece
        The similarity of the units of A and B, B as given.
    permutation : Permutation
        The final one.
    regrets : bool
        Whether to find how well the units are determined.

    Notes
    -----
    One assignment for every outer unit certifies the choice within it.
    """
    own = {
        n: permutation[n].to(pieces[0].similarity.device)
        for n in (outer, *families_of(spec)[outer])
    }
    still = {n: torch.arange(p.shape[-1], device=p.device).expand_as(p) for n, p in own.items()}
    result = {}
    for name in dict.fromkeys(name for piece in pieces for name in piece.inner):
        similarity = inner_similarity(pieces, name, outer, own)
        before = inner_similarity(pieces, name, outer, still).diagonal(dim1=1, dim2=2)
        after = similarity.gather(2, own[name][..., None]).squeeze(2)
        best = solve_assignment(
            similarity, maximize=True, ties="keep", prefer=own[name], regrets=regrets
        )
        short = torch.as_tensor(best.objective) - after.sum(-1, dtype=torch.float64).cpu()
        result[name] = GroupStatistics(
            spec.groups[name],
            before.double().mean().item(),
            after.double().mean().item(),
            float(torch.as_tensor(best.gap).sum() + short.clamp(min=0).sum()),
            *(_identifiability(similarity, best) if regrets else (None, None)),
        )
    return result


def inner_statistics_of_weights(
    problem: WeightProblem, permutation: Permutation, *, regrets: bool
) -> dict[str, GroupStatistics]:
    """Describe all groups nested in others by the weights they move."""
    spec = problem.spec
    still = identity_permutation(spec)
    result: dict[str, GroupStatistics] = {}
    for outer, inner in families_of(spec).items():
        places = [p for p in places_of(spec, list(problem.a)) if p.group == outer]
        if not places:
            continue
        device = permutation[outer].device
        others = {**permutation, **{n: still[n].to(device) for n in (outer, *inner)}}
        pieces = weight_pieces(spec, problem.a, problem.b, places, others)
        result |= inner_statistics(spec, outer, pieces, permutation, regrets=regrets)
    return result


def _identifiability(similarity: Tensor, best: Assignment) -> tuple[float, int]:
    """Return the median regret of the units (0 if there is but one) and how many are undetermined.

    Parameters
    ----------
    similarity : Tensor, shape (..., units, units)
    best : Assignment
        Its optimum, with regrets.
    """
    regrets = best.regrets
    units = regrets.shape[-1]
    paired = torch.as_tensor(best.objective, dtype=torch.float64).cpu() / units
    gain = paired - similarity.mean((-2, -1), dtype=torch.float64).cpu()
    undetermined = regrets.cpu() <= UNDETERMINED * gain[..., None]
    return regrets.median().item() if units > 1 else 0.0, int(undetermined.sum())
