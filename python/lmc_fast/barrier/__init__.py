"""Barriers: loss and error at points of weight space between networks."""

from lmc_fast.barrier.curve import BarrierCurve
from lmc_fast.barrier.population import (
    BarrierMatrix,
    CheckpointGrid,
    barrier_matrix,
    checkpoint_grid,
)
from lmc_fast.barrier.segment import barrier
from lmc_fast.barrier.surface import PlaneGrid, SimplexGrid, plane, simplex

__all__ = [
    "BarrierCurve",
    "BarrierMatrix",
    "CheckpointGrid",
    "PlaneGrid",
    "SimplexGrid",
    "barrier",
    "barrier_matrix",
    "checkpoint_grid",
    "plane",
    "simplex",
]
