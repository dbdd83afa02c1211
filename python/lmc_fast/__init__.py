"""Align the hidden units of two trained networks and measure the loss barrier left between them."""

from lmc_fast._cuda.launcher import cuda_available
from lmc_fast.assignment import Assignment, linear_sum_assignment, solve_assignment
from lmc_fast.barrier import (
    BarrierCurve,
    BarrierMatrix,
    CheckpointGrid,
    PlaneGrid,
    SimplexGrid,
    barrier,
    barrier_matrix,
    checkpoint_grid,
    plane,
    simplex,
)
from lmc_fast.errors import LmcWarning, SpecMismatchError
from lmc_fast.matching import (
    GroupStatistics,
    ManyMatching,
    Matching,
    match,
    match_many,
    match_sequence,
)
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
    "BarrierMatrix",
    "CheckpointGrid",
    "CrossMoments",
    "GroupStatistics",
    "LmcWarning",
    "ManyMatching",
    "Matching",
    "PermutationSpec",
    "Pin",
    "PlaneGrid",
    "Proof",
    "SimplexGrid",
    "SpecMismatchError",
    "apply_permutation",
    "barrier",
    "barrier_matrix",
    "checkpoint_grid",
    "compose",
    "cross_correlation",
    "cuda_available",
    "identity_permutation",
    "invert",
    "linear_sum_assignment",
    "match",
    "match_many",
    "match_sequence",
    "plane",
    "prove_spec",
    "random_permutation",
    "register_rule",
    "simplex",
    "solve_assignment",
]
