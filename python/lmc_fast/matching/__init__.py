"""Matching: weight matching, activation matching, and what they return."""

from lmc_fast.matching.match import match
from lmc_fast.matching.result import GroupStatistics, Matching

__all__ = ["GroupStatistics", "Matching", "match"]
