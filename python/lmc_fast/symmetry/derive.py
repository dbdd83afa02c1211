"""Derive the spec of a model and prove it; once per architecture."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from lmc_fast.errors import LmcWarning, SpecMismatchError
from lmc_fast.notation import Term, fixed
from lmc_fast.spec import PermutationSpec, Pin, shapes_of
from lmc_fast.symmetry.architecture import architecture_key
from lmc_fast.symmetry.proof import Proof, prove_spec
from lmc_fast.symmetry.propagate import propagate
from lmc_fast.symmetry.remember import remember
from lmc_fast.symmetry.rules import registered_rules
from lmc_fast.symmetry.spell import settle, spell
from lmc_fast.symmetry.trace import trace


def derive_spec(model: nn.Module, example_inputs: Any, *, strict: bool = True) -> PermutationSpec:
    """Derive the permutation spec of a model by tracing it, and prove it on the model.

    Parameters
    ----------
    model : torch.nn.Module
        Neither its state nor its mode is touched.
    example_inputs : Tensor, tuple or dict
        Inputs to call the model with.
    strict : bool
        With False, a model that cannot be traced yields a spec in which everything is fixed.

    Returns
    -------
    PermutationSpec
        Proven; a group that fails its proof is fixed, with a warning and a `Pin`.

    Raises
    ------
    SpecMismatchError
        If torch.export refuses the model.

    Notes
    -----
    The result is remembered per architecture: types and simple attributes of the modules, names,
    shapes and ties of the tensors, shapes and dtypes of the inputs; and per set of rules.
    """
    rules = frozenset(registered_rules().items())
    try:
        return remember(
            (architecture_key(model, example_inputs), rules),
            lambda: proven(derive_unproven(model, example_inputs), model, example_inputs),
        )
    except SpecMismatchError as error:
        if strict:
            raise
        return fixed_spec(model, str(error))


def prove_once(spec: PermutationSpec, model: nn.Module, example_inputs: Any) -> Proof:
    """Prove a given spec on a model, once for this spec and architecture."""
    key = (spec, architecture_key(model, example_inputs))
    return remember(key, lambda: prove_spec(spec, model, example_inputs))


def derive_unproven(model: nn.Module, example_inputs: Any) -> PermutationSpec:
    """Derive the spec from the operations alone."""
    found = propagate(trace(model, example_inputs), model)
    settle(found)
    return spell(found, shapes_of(model))


def proven(spec: PermutationSpec, model: nn.Module, example_inputs: Any) -> PermutationSpec:
    """Return the spec without the groups that fail their proof, each pinned with a warning.

    Raises
    ------
    SpecMismatchError
        If what is left still changes the outputs.
    """
    proof = prove_spec(spec, model, example_inputs)
    if proof.passed:
        return spec
    failed = proof.failed or tuple(spec.groups)
    spec = without_groups(
        spec,
        {g: f"its proof failed: outputs changed by {proof.groups[g]:.1e}" for g in failed},
    )
    warnings.warn(
        f"the derived spec of {type(model).__name__} changes the outputs for "
        f"{len(failed)} groups, which stay fixed: {', '.join(failed[:5])}",
        LmcWarning,
        stacklevel=4,
    )
    remaining = prove_spec(spec, model, example_inputs)
    if not remaining.passed:
        raise SpecMismatchError(
            f"expected outputs that a permutation leaves alone, {type(model).__name__} changes by "
            f"{remaining.change:.1e} in float64: write the spec by hand with PermutationSpec.parse"
        )
    return spec


def without_groups(spec: PermutationSpec, reasons: dict[str, str]) -> PermutationSpec:
    """Return a spec in which some groups, and those nested in them, are fixed."""
    gone = {
        g: spec.groups[g] for g in spec.groups if g in reasons or spec.parents.get(g) in reasons
    }
    tensors = {
        name: tuple(
            Term(
                tuple(
                    tuple(gone.get(f, f) if isinstance(f, str) else f for f in segment)
                    for segment in term.segments
                )
            )
            for term in terms
        )
        for name, terms in spec.tensors.items()
    }
    pins = [
        Pin(g, "proof", reasons.get(g, f"it exists once per unit of {spec.parents.get(g)}"))
        for g in gone
    ]
    return PermutationSpec(
        {g: n for g, n in spec.groups.items() if g not in gone},
        tensors,
        {g: p for g, p in spec.parents.items() if g not in gone},
        (*spec.pinned, *pins),
    )


def fixed_spec(model: nn.Module, reason: str) -> PermutationSpec:
    """Return the spec in which nothing moves."""
    tensors = {name: tuple(fixed(n) for n in s) for name, s in shapes_of(model).items()}
    return PermutationSpec({}, tensors, {}, (Pin("all tensors", "torch.export", reason),))
