"""Prove a spec on a model: random permutations must not change what the model computes."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmc_fast.permutation import (
    Permutation,
    apply_permutation,
    identity_permutation,
    random_permutation,
)
from lmc_fast.spec import PermutationSpec
from lmc_fast.symmetry.trace import call_arguments

TOLERANCE = 1e-10
"""Largest relative output change, in float64, at which a permutation counts as a symmetry."""

_LOW = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Proof:
    """What random permutations did to the outputs of a model.

    Attributes
    ----------
    change : float
        Largest relative output change with all groups permuted at once.
    groups : Mapping[str, float]
        The change of each group permuted alone; empty where all at once passed.
    trials : int
        Number of random permutations tried.
    tolerance : float
        Largest change that passes.
    """

    change: float
    groups: Mapping[str, float]
    trials: int
    tolerance: float = TOLERANCE

    @property
    def passed(self) -> bool:
        """Whether all groups at once left the outputs as they were."""
        return self.change <= self.tolerance

    @property
    def failed(self) -> tuple[str, ...]:
        """Groups that alone change the outputs."""
        return tuple(g for g, change in self.groups.items() if not change <= self.tolerance)

    def __str__(self) -> str:
        drawn = "permutation" if self.trials == 1 else "permutations"
        found = (
            f"{self.trials} random {drawn} of all groups at once changed the outputs by at most "
            f"{self.change:.1e}, relative, in float64; {self.tolerance:.0e} is allowed"
        )
        alone = "; ".join(f"{g} alone {self.groups[g]:.1e}" for g in self.failed)
        return found + (f"; {alone}" if alone else "")


def prove_spec(
    spec: PermutationSpec,
    model: nn.Module,
    example_inputs: Any,
    *,
    trials: int = 1,
    generator: torch.Generator | None = None,
) -> Proof:
    """Permute a model at random and compare its outputs in float64.

    The model is copied, put in eval mode and in float64, and all its float parameters and buffers
    are perturbed: fresh statistics and zero biases would hide a wrong mapping. The model itself,
    its mode and the global seed are left alone.

    Parameters
    ----------
    spec : PermutationSpec
        What is to be proven.
    model : torch.nn.Module
        A model of the spec's architecture, in any mode.
    example_inputs : Tensor, tuple or dict
        Inputs to call the model with.
    trials : int
        Random permutations tried.
    generator : torch.Generator, optional
        Source of randomness; a fixed one by default.

    Returns
    -------
    Proof
        With the change of each group alone where all at once failed.

    Raises
    ------
    SpecMismatchError
        If the model's tensors are not those of the spec.
    ValueError
        If the model has no float outputs, or they are not finite.

    Notes
    -----
    ``trials + 1`` forward passes, and one more per group after a failure.
    """
    spec.check(model)
    generator = generator or torch.Generator().manual_seed(0)
    probe = _perturbed_copy(model, generator)
    args, kwargs = call_arguments(_to_double(example_inputs))
    targets = probe.state_dict(keep_vars=True)
    state = {name: t.detach() for name, t in targets.items()}

    def outputs(tensors: Mapping[str, Tensor]) -> list[Tensor]:
        for name, tensor in tensors.items():
            targets[name].data = tensor
        with torch.no_grad(), _Double():
            return _float_tensors(probe(*args, **kwargs))

    def change(permutation: Permutation) -> float:
        return _change(reference, outputs(apply_permutation(spec, permutation, state)))

    reference = outputs(state)
    if not reference or not all(t.isfinite().all() for t in reference):
        what = "values that are not finite" if reference else "no float tensors"
        raise ValueError(
            f"expected finite float outputs to compare, got {what}: pass other example_inputs"
        )
    draws = [random_permutation(spec, generator=generator) for _ in range(trials)]
    whole = max((change(p) for p in draws), default=0.0)
    groups: dict[str, float] = {}
    if not whole <= TOLERANCE:
        still = identity_permutation(spec)
        groups = {name: change({**still, name: draws[0][name]}) for name in spec.groups}
    return Proof(whole, MappingProxyType(groups), trials)


class _Double(TorchFunctionMode):
    """Compute in float64 where a model asks for a lower precision by name."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return args[0].double() if args[0].is_floating_point() else func(*args)
        args = tuple(torch.float64 if _is_low(a) else a for a in args)
        named = {k: torch.float64 if _is_low(v) else v for k, v in (kwargs or {}).items()}
        result = func(*args, **named)
        # What is made out of nothing comes in the default dtype.
        made = isinstance(result, Tensor) and not any(isinstance(a, Tensor) for a in args)
        return result.double() if made and result.dtype in _LOW else result


def _is_low(argument: Any) -> bool:
    return isinstance(argument, torch.dtype) and argument in _LOW


def _perturbed_copy(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Copy a model in eval mode and float64; scale every entry at random, shift constant zeros."""
    perturbed = {id(t) for t in model.state_dict(keep_vars=True).values()}
    copies: dict[int, Tensor] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        moved = tensor.detach().clone()
        if tensor.is_floating_point():
            moved = moved.double()
            if id(tensor) in perturbed:
                noise = torch.rand(tensor.shape, generator=generator).to(tensor.device)
                # Positive factors keep variances positive.
                if moved.any():
                    moved.mul_(noise.mul_(0.5).add_(0.75))
                else:
                    moved.add_(noise.sub_(0.5).mul_(0.2))
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(moved, requires_grad=False) if is_parameter else moved
    return copy.deepcopy(model, copies).eval()


def _to_double(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, Mapping):
        return {k: _to_double(v) for k, v in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(_to_double(v) for v in inputs)
    return inputs


def _float_tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result.double()] if result.is_floating_point() else []
    if isinstance(result, Mapping):
        return [t for v in result.values() for t in _float_tensors(v)]
    if isinstance(result, (tuple, list)):
        return [t for v in result for t in _float_tensors(v)]
    return []


def _change(reference: Sequence[Tensor], moved: Sequence[Tensor]) -> float:
    """Return the largest difference relative to the largest entry, over all outputs."""
    worst = 0.0
    for a, b in zip(reference, moved, strict=True):
        if a.numel():
            scale = float(a.abs().max()) or 1.0
            difference = float((a - b).abs().max()) / scale
            worst = max(worst, difference) if difference == difference else float("inf")
    return worst
