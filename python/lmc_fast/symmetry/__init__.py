"""Derive the permutation spec of any PyTorch model, and prove it on the model."""

from lmc_fast.symmetry.derive import derive_spec, prove_once
from lmc_fast.symmetry.inputs import example_inputs_for
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.proof import Proof, prove_spec
from lmc_fast.symmetry.rules import register_rule

__all__ = [
    "Operation",
    "Proof",
    "Value",
    "derive_spec",
    "example_inputs_for",
    "prove_once",
    "prove_spec",
    "register_rule",
]
