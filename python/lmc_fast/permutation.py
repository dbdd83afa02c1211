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
from lmc_fast.gather import gather
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
