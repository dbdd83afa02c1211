"""The permutation spec: the symmetry group of one architecture, tensor by tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lmc_fast.canonical import canonical
from lmc_fast.notation import Factor, Term, fixed, group, parse_lines, parse_terms
from lmc_fast.shapes import (
    MAX_OFFENDERS,
    agree,
    check_structure,
    check_tensors,
    infer_sizes,
    raise_offenders,
    shapes_of,
)

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Pin:
    """An axis that stays fixed because an operation on it is not equivariant or has no rule.

    Attributes
    ----------
    axis : str
        The axis, as ``tensor[axis]`` or the name of the group that was given up.
    operation : str
        The operation that pins it.
    reason : str
        Why, in one sentence.
    source : str
        File and line of the operation in the model's code, where known.
    """

    axis: str
    operation: str
    reason: str
    source: str = ""


@dataclass(frozen=True)
class PermutationSpec:
    """Which permutation group moves which axis of which tensor of an architecture.

    Attributes
    ----------
    groups : Mapping[str, int]
        Name and size of every group of interchangeable units.
    tensors : Mapping[str, tuple of Term]
        One `Term` per axis for every tensor of the state dict.
    parents : Mapping[str, str]
        Groups that exist once for each unit of another (the channels within each attention
        head): ``parents["head_dim"] == "heads"``. Their permutations are 2-D.
    pinned : tuple of Pin
        Axes that a derivation left fixed, with the reason.

    Notes
    -----
    Write one by hand with `parse`, take a git-re-basin style dict with `from_axes`, or derive it
    from the model with `from_model`, which also proves it.
    """

    groups: Mapping[str, int]
    tensors: Mapping[str, tuple[Term, ...]]
    parents: Mapping[str, str] = field(default_factory=dict)
    pinned: tuple[Pin, ...] = ()

    def __post_init__(self) -> None:
        for name in ("groups", "tensors", "parents"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        check_structure(self.groups, self.tensors, self.parents)

    def __hash__(self) -> int:
        return hash((frozenset(self.groups.items()), tuple(self.tensors.items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return (PermutationSpec.from_json, (self.to_json(),))

    @classmethod
    def from_model(
        cls, model: nn.Module, example_inputs: Any, *, strict: bool = True
    ) -> PermutationSpec:
        """Derive the spec of a model by tracing it, and prove it on the model.

        Parameters
        ----------
        model : torch.nn.Module
            The model; neither its state nor its mode is touched.
        example_inputs : Tensor, tuple or dict
            Inputs to call the model with: positional (a tensor or a tuple) or by keyword (a dict).
        strict : bool
            With False, an architecture that cannot be traced yields a spec in which everything is
            fixed, with the reason in `pinned`, instead of an error.

        Returns
        -------
        PermutationSpec
            Derived once per architecture and cached.

        Raises
        ------
        SpecMismatchError
            If the model cannot be traced; the message says why, where, and the way out.

        Notes
        -----
        What an operation without a rule touches stays fixed, with a line in `pinned`. Register a
        rule with `register_rule`, or supply the axes by hand: in the notation a later line of a
        tensor replaces an earlier one.

        Examples
        --------
        >>> import torch, lmc_fast
        >>> class Renorm(torch.nn.Module):
        ...     def forward(self, x):
        ...         return x.renorm(2, 0, 1.0)
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 6), Renorm(), torch.nn.Linear(6, 3))
        >>> x = torch.randn(2, 4)
        >>> spec = PermutationSpec.from_model(net, x)
        >>> spec.pinned[0].operation, dict(spec.groups)
        ('aten.renorm', {})
        >>> mended = PermutationSpec.parse(f'''{spec}
        ...     h = 6
        ...     0.weight: h 4
        ...     0.bias: h
        ...     2.weight: 3 h
        ... ''', like=net)
        >>> lmc_fast.prove_spec(mended, net, x).passed
        True
        """
        from lmc_fast.symmetry import derive_spec

        return derive_spec(model, example_inputs, strict=strict)

    @classmethod
    def parse(
        cls, text: str, like: nn.Module | Mapping[str, torch.Tensor] | None = None
    ) -> PermutationSpec:
        """Read a spec in the notation of `lmc_fast.notation`.

        Parameters
        ----------
        text : str
            Lines ``name: terms`` for tensors and ``name = size`` or ``name = size per other`` for
            groups. Blank lines and lines that start with ``#`` are ignored.
        like : Module or state dict, optional
            Where group sizes that the text leaves out, and tensors that no group moves, are taken.

        Raises
        ------
        ValueError
            If a line is not in the notation or a group's size cannot be found.

        Examples
        --------
        >>> spec = PermutationSpec.parse('''
        ...     hidden = 512
        ...     fc1.weight: hidden 784
        ...     fc1.bias: hidden
        ...     fc2.weight: 10 hidden
        ...     fc2.bias: 10
        ... ''')
        >>> spec.groups["hidden"]
        512
        """
        tensors, sizes, parents = parse_lines(text)
        return cls._complete(tensors, sizes, parents, like)

    @classmethod
    def from_axes(
        cls,
        axes: Mapping[str, Sequence[str | None] | str],
        like: nn.Module | Mapping[str, torch.Tensor],
    ) -> PermutationSpec:
        """Build a spec from a git-re-basin style dict of axes to permutations.

        Parameters
        ----------
        axes : Mapping[str, sequence of (str or None) or str]
            For every tensor the group of each axis or None, ``{"fc.weight": ("P_0", None)}``; an
            entry may be a term of the notation (``"(P_0 49)"``), and a whole value may be one line
            of it (``"P_1 (P_0 49)"``).
        like : Module or state dict
            Gives the sizes.
        """
        tensors = {
            name: parse_terms(value)
            if isinstance(value, str)
            else tuple(
                term
                for entry in value
                for term in ((fixed(None),) if entry is None else parse_terms(entry))
            )
            for name, value in axes.items()
        }
        return cls._complete(tensors, {}, {}, like)

    @classmethod
    def _complete(
        cls,
        tensors: dict[str, tuple[Term, ...]],
        sizes: dict[str, int],
        parents: dict[str, str],
        like: nn.Module | Mapping[str, torch.Tensor] | None,
    ) -> PermutationSpec:
        """Fill in what the shapes of `like` tell: group sizes, fixed sizes, fixed tensors."""
        if like is not None:
            shapes = shapes_of(like)
            check_tensors(tensors, shapes)
            infer_sizes(tensors, shapes, sizes)
            for name, shape in shapes.items():
                terms = tensors.get(name, tuple(fixed(n) for n in shape))
                tensors[name] = tuple(
                    fixed(n) if term == fixed(None) else term
                    for term, n in zip(terms, shape, strict=True)
                )
        names = dict.fromkeys(g for terms in tensors.values() for t in terms for g in t.groups)
        unknown = [name for name in names if name not in sizes]
        if unknown:
            raise ValueError(
                f"expected a size for every group, found none for {unknown[:MAX_OFFENDERS]}: add a "
                "line 'group = size' or pass like=model"
            )
        ordered = dict.fromkeys((*names, *sizes))
        spec = cls({name: sizes[name] for name in ordered}, tensors, parents)
        if like is not None:
            spec.check(like)
        return spec

    def check(self, like: nn.Module | Mapping[str, torch.Tensor]) -> None:
        """Raise unless every tensor has the names, ranks and sizes that this spec expects.

        Zero-dimensional tensors that the spec does not mention are allowed: nothing can move them.

        Raises
        ------
        SpecMismatchError
            Naming up to five offending tensors.
        """
        shapes = shapes_of(like)
        check_tensors(self.tensors, shapes)
        offenders = [
            f"{name} (expected [{' '.join(map(str, terms))}] = {expected}, got {shapes[name]})"
            for name, terms in self.tensors.items()
            if not agree(expected := tuple(self.axis_size(t) for t in terms), shapes[name])
        ]
        offenders += [
            f"{name} (not in the spec)"
            for name, shape in shapes.items()
            if name not in self.tensors and shape
        ]
        raise_offenders("sizes do not fit the spec", offenders)

    def axis_size(self, term: Term) -> int | None:
        """Return the number of entries of an axis; None where the spec leaves it open."""
        if any(f is None for segment in term.segments for f in segment):
            return None
        return sum(math.prod(self.factor_sizes(segment)) for segment in term.segments)

    def factor_sizes(self, segment: Sequence[Factor]) -> tuple[int, ...]:
        """Return the extent of every factor of a segment whose sizes are all known."""
        return tuple(self.groups[f] if isinstance(f, str) else int(f or 0) for f in segment)

    def permutation_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the permutation of a group: (size,), or (outer, size) if nested."""
        size = self.groups[name]
        return (self.groups[self.parents[name]], size) if name in self.parents else (size,)

    def __str__(self) -> str:
        lines = [
            f"{name} = {size}" + (f" per {self.parents[name]}" if name in self.parents else "")
            for name, size in self.groups.items()
        ]
        width = max((len(name) for name in self.tensors), default=0)
        lines += [
            f"{name + ':':<{width + 1}} {' '.join(map(str, terms))}".rstrip()
            for name, terms in self.tensors.items()
        ]
        lines += [
            f"# pinned: {pin.axis} by {pin.operation}: {pin.reason}"
            + (f" ({pin.source})" if pin.source else "")
            for pin in self.pinned
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the spec as JSON; `from_json` reads it back to an equal spec."""
        return json.dumps(
            {
                "groups": dict(self.groups),
                "parents": dict(self.parents),
                "tensors": {n: [str(t) for t in terms] for n, terms in self.tensors.items()},
                "pinned": [vars(pin) for pin in self.pinned],
            }
        )

    @classmethod
    def from_json(cls, text: str) -> PermutationSpec:
        """Read a spec written by `to_json`."""
        content = json.loads(text)
        return cls(
            content["groups"],
            {n: parse_terms(" ".join(terms)) for n, terms in content["tensors"].items()},
            content["parents"],
            tuple(Pin(**pin) for pin in content["pinned"]),
        )

    def equivalent(self, other: PermutationSpec) -> bool:
        """Tell whether two specs are the same up to the names of their groups."""
        own, others = (canonical(s.groups, s.tensors, s.parents) for s in (self, other))
        return own == others


__all__ = ["PermutationSpec", "Pin", "Term", "fixed", "group", "shapes_of"]
