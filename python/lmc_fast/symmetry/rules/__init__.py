"""Rules of operations, one family a file, and the registry a user adds to."""

from lmc_fast.symmetry.rules import (
    attention,
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    recurrent,
    reduction,
    shape,
)
from lmc_fast.symmetry.rules.registry import find_rule, register_rule, registered_rules

__all__ = [
    "attention",
    "convolution",
    "elementwise",
    "find_rule",
    "indexing",
    "linear",
    "normalisation",
    "recurrent",
    "reduction",
    "register_rule",
    "registered_rules",
    "shape",
]
