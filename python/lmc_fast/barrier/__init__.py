"""Barriers: loss and error at points of weight space between networks."""

from lmc_fast.barrier.curve import BarrierCurve
from lmc_fast.barrier.segment import barrier

__all__ = ["BarrierCurve", "barrier"]
