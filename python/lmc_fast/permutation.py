"""Permutations of hidden units: make, check, compose, apply, save.

A permutation is a plain ``dict[str, Tensor]`` of int64 gather indices, one entry per group of a
`PermutationSpec`: ``perm[i] = j`` matches unit ``i`` of model A to unit ``j`` of model B, and B is
aligned by gathering. A group that exists once for each unit of another has a 2-D entry whose row
``i`` belongs to unit ``i`` of A's outer group.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmc_fast.errors import SpecMismatchError
from lmc_fast.files import replacing
from lmc_fast.notation import Segment
from lmc_fast.spec import PermutationSpec, Term

Permutation = dict[str, Tensor]


def identity_permutation(spec: PermutationSpec) -> Permutation:
    """Return the permutation that moves nothing."""
    return {
        name: torch.arange(spec.groups[name]).expand(spec.permutation_shape(name)).contiguous()
        for name in spec.groups
    }


def random_permutation(spec: PermutationSpec, *, generator: torch.Generator) -> Permutation:
    """Draw a permutation of every group uniformly at random.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    generator : torch.Generator
        Source of randomness, on the CPU; the global seed is never touched.
    """
    permutation = {}
    for name, size in spec.groups.items():
        shape = spec.permutation_shape(name)
        rows = [torch.randperm(size, generator=generator) for _ in range(math.prod(shape[:-1]))]
        permutation[name] = torch.stack(rows).reshape(shape)
    return permutation


def check_permutation(spec: PermutationSpec, permutation: Mapping[str, Tensor]) -> None:
    """Raise unless there is exactly one bijection of the right size for every group.

    Raises
    ------
    ValueError
        Naming the first group whose indices are not a bijection of int64.
    """
    if set(permutation) != set(spec.groups):
        missing = sorted(set(spec.groups) - set(permutation))
        extra = sorted(set(permutation) - set(spec.groups))
        raise SpecMismatchError(
            f"expected one permutation for every group, missing {missing[:5]}, unknown {extra[:5]}"
        )
    for name, index in permutation.items():
        shape = spec.permutation_shape(name)
        if not isinstance(index, Tensor) or index.dtype != torch.int64:
            kind = index.dtype if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"permutation of {name!r}: expected an int64 tensor, got {kind}")
        if tuple(index.shape) != shape:
            raise ValueError(
                f"permutation of {name!r}: expected shape {shape}, got {tuple(index.shape)}"
            )
        expected = torch.arange(shape[-1], device=index.device).expand(shape)
        if not torch.equal(index.sort(dim=-1).values, expected):
            raise ValueError(
                f"permutation of {name!r}: expected every index 0..{shape[-1] - 1} exactly once, "
                "got repeated or out-of-range indices"
            )


def invert(p: Mapping[str, Tensor], spec: PermutationSpec | None = None) -> Permutation:
    """Return the permutation that undoes `p`: ``compose(p, invert(p))`` is the identity.

    Parameters
    ----------
    p : Mapping[str, Tensor]
        The permutation.
    spec : PermutationSpec, optional
        Needed only where `p` has 2-D entries: it names the outer group of each.
    """
    result = {}
    for name, index in p.items():
        inverse = index.argsort(dim=-1)
        result[name] = inverse if index.ndim == 1 else inverse[_outer(name, p, spec).argsort()]
    return result


def compose(
    p: Mapping[str, Tensor], q: Mapping[str, Tensor], spec: PermutationSpec | None = None
) -> Permutation:
    """Return the permutation that gathers by `q` first and by `p` after it.

    Applying the result to a state dict equals applying `q`, then `p`: if `q` aligns C to B and `p`
    aligns B to A, ``compose(p, q)`` aligns C to A.

    Parameters
    ----------
    p, q : Mapping[str, Tensor]
        Permutations of the same groups.
    spec : PermutationSpec, optional
        Needed only where they have 2-D entries: it names the outer group of each.
    """
    if set(p) != set(q):
        raise ValueError(
            f"expected the same groups in both, got {sorted(p)[:5]} and {sorted(q)[:5]}"
        )
    result = {}
    for name, index in p.items():
        other = q[name]
        if index.shape != other.shape:
            raise ValueError(
                f"permutation of {name!r}: expected equal shapes, got {tuple(index.shape)} and "
                f"{tuple(other.shape)}"
            )
        if index.ndim == 2:
            other = other[_outer(name, p, spec)]
        result[name] = other.gather(-1, index)
    return result


def _outer(name: str, p: Mapping[str, Tensor], spec: PermutationSpec | None) -> Tensor:
    if spec is None or name not in spec.parents:
        raise ValueError(
            f"permutation of {name!r} is nested (2-D): pass spec= so that its outer group is known"
        )
    return p[spec.parents[name]]


def axis_index(
    spec: PermutationSpec, terms: tuple[Term, ...], axis: int, permutation: Mapping[str, Tensor]
) -> Tensor:
    """Return the positions to gather along one axis.

    The index is 1-D where it depends on nothing else. Where its groups are nested in groups of
    other axes it has one dimension per axis of the tensor and broadcasts against the others.
    """
    segments = terms[axis].segments
    if len(segments) == 1 and len(segments[0]) == 1:
        name = segments[0][0]
        if isinstance(name, str) and name not in spec.parents:
            return permutation[name]
    pieces, offset = [], 0
    for segment in segments:
        piece = _segment_index(spec, terms, axis, segment, permutation)
        pieces.append(piece + offset)
        offset += math.prod(spec.factor_sizes(segment))
    if len(pieces) == 1:
        return pieces[0]
    if any(piece.ndim > 1 for piece in pieces):
        raise SpecMismatchError(
            f"axis {axis} of ({' '.join(map(str, terms))}): expected nested groups of a "
            "concatenation to have their outer group on the same axis"
        )
    return torch.cat(pieces)


def _segment_index(
    spec: PermutationSpec,
    terms: tuple[Term, ...],
    axis: int,
    segment: Segment,
    p: Mapping[str, Tensor],
) -> Tensor:
    """Row-major position of every entry of a segment, from the position along each factor."""
    sizes = spec.factor_sizes(segment)
    elsewhere: set[int] = set()
    for factor in segment:
        parent = spec.parents.get(factor) if isinstance(factor, str) else None
        if parent is not None and parent not in segment:
            elsewhere.add(_axis_of(terms, parent))
    # Dimensions: the tensor's other axes that hold an outer group, then the factors of the segment.
    lead = sorted(elsewhere)
    device = next(iter(p.values())).device
    position = torch.zeros((), dtype=torch.int64, device=device)
    for i, factor in enumerate(segment):
        view = [1] * (len(lead) + len(sizes))
        view[len(lead) + i] = sizes[i]
        along = torch.arange(sizes[i], device=device)
        if isinstance(factor, str):
            along = p[factor]
            parent = spec.parents.get(factor)
            if parent in segment:
                outer = segment.index(parent)
                view[len(lead) + outer] = sizes[outer]
                along = along if outer < i else along.T
            elif parent is not None:
                axis_of_outer = _axis_of(terms, parent)
                units = _units(spec, terms[axis_of_outer].segments[0], parent).to(device)
                along = along[units]
                view[lead.index(axis_of_outer)] = len(units)
        position = position * sizes[i] + along.reshape(view)
    full = [math.prod(spec.factor_sizes(terms[a].segments[0])) for a in lead]
    position = position.expand(*full, *sizes).reshape(*full, -1)
    if not lead:
        return position
    at = {a: d for d, a in enumerate((*lead, axis))}
    order = sorted(at)
    shape = [position.shape[at[a]] if a in at else 1 for a in range(len(terms))]
    return position.permute([at[a] for a in order]).reshape(shape)


def _axis_of(terms: tuple[Term, ...], name: str) -> int:
    for axis, term in enumerate(terms):
        if len(term.segments) == 1 and name in term.segments[0]:
            return axis
    raise SpecMismatchError(
        f"({' '.join(map(str, terms))}): expected the outer group {name!r} in the same segment or "
        "on an axis that is no concatenation"
    )


def _units(spec: PermutationSpec, segment: Segment, name: str) -> Tensor:
    """Return the unit of one group at every position of an axis."""
    sizes = spec.factor_sizes(segment)
    at = segment.index(name)
    inner = math.prod(sizes[at + 1 :])
    return (torch.arange(math.prod(sizes)) // inner) % sizes[at]


def gather(
    spec: PermutationSpec,
    terms: tuple[Term, ...],
    permutation: Mapping[str, Tensor],
    tensor: Tensor,
) -> Tensor:
    """Move one tensor: gather every axis by the permutations of its groups.

    Parameters
    ----------
    spec : PermutationSpec
        The groups.
    terms : tuple of Term
        One per axis of `tensor`.
    permutation : Mapping[str, Tensor]
        Gather indices on the device of `tensor`.
    tensor : Tensor
        Left unchanged; the result is a new tensor, or `tensor` itself where no axis moves.
    """
    indices = [
        None if term.is_fixed else axis_index(spec, terms, axis, permutation)
        for axis, term in enumerate(terms)
    ]
    if all(index is None or index.ndim == 1 for index in indices):
        for axis, index in enumerate(indices):
            if index is not None:
                tensor = tensor.index_select(axis, index)
        return tensor
    grid = []
    for axis, index in enumerate(indices):
        if index is None or index.ndim == 1:
            view = [1] * tensor.ndim
            view[axis] = -1
            along = (
                torch.arange(tensor.shape[axis], device=tensor.device) if index is None else index
            )
            index = along.reshape(view)
        grid.append(index)
    return tensor[tuple(grid)]


def apply_permutation(
    spec: PermutationSpec, permutation: Mapping[str, Tensor], state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Move the hidden units of a state dict: the aligned weights of model B.

    Parameters
    ----------
    spec : PermutationSpec
        Says which group moves which axis.
    permutation : Mapping[str, Tensor]
        ``perm[i] = j``: unit i of the result is unit j of `state_dict`.
    state_dict : Mapping[str, Tensor]
        Left unchanged. Tensors that are one tensor under two names stay one.

    Returns
    -------
    dict[str, Tensor]
        New tensors with the same names, dtypes, devices; gradients flow through the gather.

    Raises
    ------
    SpecMismatchError
        If the state dict and the spec disagree; up to five tensors are named.
    ValueError
        If the permutation is not one bijection per group; before anything is moved.

    Notes
    -----
    O(size of the state dict) time and memory.
    """
    spec.check(state_dict)
    check_permutation(spec, permutation)
    on_device: dict[torch.device, Permutation] = {}
    moved: dict[tuple[object, tuple[Term, ...]], Tensor] = {}
    result = {}
    for name, tensor in state_dict.items():
        terms = spec.tensors.get(name, ())
        if all(term.is_fixed for term in terms):
            result[name] = tensor.clone()
            continue
        if tensor.device not in on_device:
            on_device[tensor.device] = {n: i.to(tensor.device) for n, i in permutation.items()}
        key = (_identity(tensor), terms)
        if key not in moved:
            moved[key] = gather(spec, terms, on_device[tensor.device], tensor)
        result[name] = moved[key]
    return result


def _identity(tensor: Tensor) -> object:
    """Return a key that two views of the same elements share: tied weights are one tensor."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # functorch and fake tensors have no address
        address = 0
    return (address, tensor.shape, tensor.stride(), tensor.dtype) if address else id(tensor)


def save_permutation(
    permutation: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str]
) -> None:
    """Write a permutation as safetensors, whole or not at all.

    Parameters
    ----------
    permutation : Mapping[str, Tensor]
        Written as int64, on the CPU.
    path : path
        What it held is replaced only when all has been written.
    metadata : Mapping[str, str]
        Strings kept beside the tensors.
    """
    tensors = {name: index.detach().cpu().contiguous() for name, index in permutation.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata=dict(metadata))


def load_permutation(path: str | os.PathLike[str]) -> tuple[Permutation, dict[str, str]]:
    """Read a permutation and its metadata from safetensors.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, ValueError
        If the path does not name a readable safetensors file.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"expected a safetensors file, got the directory {target}")
    if not target.exists():
        raise FileNotFoundError(f"expected a safetensors file at {target}, found nothing")
    try:
        with safe_open(target, framework="pt") as file:
            permutation = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return permutation, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{target}: expected a safetensors file, got {error}") from error
