"""Align the hidden units of two trained networks and measure the loss barrier left between them."""

from lmc_fast._cuda.launcher import cuda_available
from lmc_fast.assignment import Assignment, linear_sum_assignment, solve_assignment
from lmc_fast.barrier import BarrierCurve, barrier
from lmc_fast.errors import LmcWarning, SpecMismatchError
from lmc_fast.permutation import (
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
)
from lmc_fast.spec import PermutationSpec, Pin
from lmc_fast.statistics import CrossMoments, cross_correlation
from lmc_fast.symmetry import Proof, prove_spec, register_rule

__all__ = [
    "Assignment",
    "BarrierCurve",
    "CrossMoments",
    "LmcWarning",
    "PermutationSpec",
    "Pin",
    "Proof",
    "SpecMismatchError",
    "apply_permutation",
    "barrier",
    "compose",
    "cross_correlation",
    "cuda_available",
    "identity_permutation",
    "invert",
    "linear_sum_assignment",
    "prove_spec",
    "random_permutation",
    "register_rule",
    "solve_assignment",
]
