"""Matching: weight matching, activation matching, and what they return."""

from lmc_fast.matching.many import ManyMatching, disagreement, match_many, mean_state
from lmc_fast.matching.match import match
from lmc_fast.matching.result import GroupStatistics, Matching
from lmc_fast.matching.sequence import match_sequence, transport_masks

__all__ = [
    "GroupStatistics",
    "ManyMatching",
    "Matching",
    "disagreement",
    "match",
    "match_many",
    "match_sequence",
    "mean_state",
    "transport_masks",
]
