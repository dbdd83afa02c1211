"""A form of specs that does not depend on the names of their groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmc_fast.notation import Term


def canonical(
    groups: Mapping[str, int], tensors: Mapping[str, tuple[Term, ...]], parents: Mapping[str, str]
) -> tuple[Any, ...]:
    """Rename groups by order of first appearance and merge neighbouring fixed factors."""
    names: dict[str, int] = {}
    spelled = []
    for tensor in sorted(tensors):
        terms = []
        for term in tensors[tensor]:
            segments = []
            for segment in term.segments:
                factors: list[tuple[str, int]] = []
                for f in segment:
                    if isinstance(f, str):
                        factors.append(("group", names.setdefault(f, len(names))))
                    elif factors and factors[-1][0] == "fixed":
                        factors[-1] = ("fixed", factors[-1][1] * int(f or 0))
                    elif f != 1 or len(segment) == 1:
                        factors.append(("fixed", int(f or 0)))
                segments.append(tuple(factors))
            terms.append(tuple(segments))
        spelled.append((tensor, tuple(terms)))
    sizes = tuple((i, groups[n], names.get(parents.get(n, ""), -1)) for n, i in names.items())
    return tuple(spelled), sizes
