"""The weights of one outer group and its inner groups, arranged for a two-level assignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from lmc_fast.gather import gather
from lmc_fast.matching.places import Place
from lmc_fast.matching.structured import Piece
from lmc_fast.permutation import Permutation
from lmc_fast.spec import PermutationSpec


def weight_pieces(
    spec: PermutationSpec,
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    places: Sequence[Place],
    permutation: Permutation,
) -> list[Piece]:
    """Return the similarity of a family in the weights, relative to the permutation at hand.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    a, b : Mapping[str, Tensor]
        The weights of both models.
    places : sequence of Place
        Where the outer group moves tensors.
    permutation : Permutation
        Applied to B first.
    """
    pieces = []
    moved: dict[str, Tensor] = {}
    for place in places:
        name = place.tensor
        if name not in moved:
            moved[name] = gather(spec, spec.tensors[name], permutation, b[name])
        left, inner = _arranged(spec, place, a[name])
        right, _ = _arranged(spec, place, moved[name])
        shape = left.shape[: 1 + len(inner)]
        similarity = left.flatten(0, len(inner)) @ right.flatten(0, len(inner)).T
        pieces.append(Piece(inner, similarity.reshape(*shape, *shape)))
    return pieces


def _arranged(
    spec: PermutationSpec, place: Place, tensor: Tensor
) -> tuple[Tensor, tuple[str, ...]]:
    """Bring a tensor to the shape (outer, inner..., rest) and name the inner groups."""
    terms = spec.tensors[place.tensor]
    own = terms[place.axis].segments
    lengths = [math.prod(spec.factor_sizes(s)) for s in own]
    tensor = tensor.narrow(place.axis, sum(lengths[: place.segment]), lengths[place.segment])
    labels: list[str | None] = []
    sizes: list[int] = []
    for axis, term in enumerate(terms):
        segment = own[place.segment] if axis == place.axis else term.segments[0]
        nested = any(spec.parents.get(str(f)) == place.group for f in segment)
        if axis == place.axis or (nested and len(term.segments) == 1):
            for f, n in zip(segment, spec.factor_sizes(segment), strict=True):
                inside = isinstance(f, str) and spec.parents.get(f) == place.group
                labels.append(f if inside and isinstance(f, str) else None)
                sizes.append(n)
            if axis == place.axis:
                labels[len(labels) - len(segment) + place.factor] = place.group
        else:
            labels.append(None)
            sizes.append(tensor.shape[axis])
    # With more than two inner groups the others stay where they are for this step.
    inner = tuple(dict.fromkeys(f for f in labels if f is not None and f != place.group))[:2]
    front = [labels.index(f) for f in (place.group, *inner)]
    rest = [d for d in range(len(labels)) if d not in front]
    ordered = tensor.reshape(sizes).permute(*front, *rest)
    return ordered.reshape(*ordered.shape[: len(front)], -1), inner
