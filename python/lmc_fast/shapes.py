"""What makes a spec, and shapes of tensors against it: agreement, inference, who disagrees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lmc_fast.errors import SpecMismatchError
from lmc_fast.notation import Term, fixed

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_OFFENDERS = 5
"""How many offending tensors an error message names."""


def shapes_of(like: nn.Module | Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a module's state dict or of a state dict."""
    state = like if isinstance(like, Mapping) else like.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def agree(expected: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Tell whether a shape is the expected one, where None expects any size."""
    return all(e is None or e == n for e, n in zip(expected, shape, strict=True))


def check_structure(
    groups: Mapping[str, int], tensors: Mapping[str, tuple[Term, ...]], parents: Mapping[str, str]
) -> None:
    """Raise `ValueError` unless groups, nesting and terms make a spec."""
    for name, size in groups.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"group {name!r}: expected a size of at least 1, got {size!r}")
    for child, parent in parents.items():
        if child not in groups or parent not in groups:
            raise ValueError(f"group {child!r} per {parent!r}: expected both to be groups")
        if parent in parents:
            raise ValueError(
                f"group {child!r} per {parent!r}: expected {parent!r} to be a plain group, "
                "got one that is nested itself; two levels are supported"
            )
    for tensor, terms in tensors.items():
        present = {name for term in terms for name in term.groups}
        for segment in (segment for term in terms for segment in term.segments):
            named = [f for f in segment if isinstance(f, str)]
            if len(named) != len(set(named)):
                raise ValueError(f"{tensor}: expected a group at most once in {segment}")
        for name in present:
            if name not in groups:
                raise ValueError(
                    f"{tensor}: expected one of the groups {sorted(groups)}, got {name!r}"
                )
            if name in parents and parents[name] not in present:
                raise ValueError(
                    f"{tensor}: group {name!r} exists once per unit of "
                    f"{parents[name]!r}, which must appear in the same tensor"
                )


def check_tensors(
    tensors: Mapping[str, tuple[Term, ...]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise unless every tensor of the spec is there with as many axes as it has terms."""
    offenders = [f"{name} (missing)" for name in tensors if name not in shapes]
    offenders += [
        f"{name} (expected {len(terms)} axes, got shape {shapes[name]})"
        for name, terms in tensors.items()
        if name in shapes and len(terms) != len(shapes[name])
    ]
    raise_offenders("tensors do not fit the spec", offenders)


def raise_offenders(what: str, offenders: list[str]) -> None:
    """Raise `SpecMismatchError` naming the first offenders; return where there are none."""
    if offenders:
        more = len(offenders) - MAX_OFFENDERS
        listed = ", ".join(offenders[:MAX_OFFENDERS]) + (f" and {more} more" if more > 0 else "")
        raise SpecMismatchError(
            f"{what}: {listed}; derive the spec with PermutationSpec.from_model or mend these lines"
        )


def infer_sizes(
    tensors: Mapping[str, tuple[Term, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    sizes: dict[str, int],
) -> None:
    """Add the sizes of groups that are the only unknown of some axis, until none is left."""
    progress = True
    while progress:
        progress = False
        for name, terms in tensors.items():
            for term, total in zip(terms, shapes[name], strict=True):
                unknown = [g for g in term.groups if g not in sizes]
                if len(unknown) != 1 or fixed(None) == term:
                    continue
                known, coefficient = 0, 0
                for segment in term.segments:
                    product = math.prod(
                        (sizes.get(f, 1) if isinstance(f, str) else int(f or 0)) for f in segment
                    )
                    if unknown[0] in segment:
                        coefficient += product
                    else:
                        known += product
                size, remainder = divmod(total - known, coefficient or 1)
                if remainder or size < 1:
                    raise SpecMismatchError(
                        f"{name}: expected an axis of the form {term}, got {total} entries"
                    )
                sizes[unknown[0]] = size
                progress = True
