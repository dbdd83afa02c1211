"""Align the hidden units of two trained networks and measure the loss barrier left between them."""

from lmc_fast.errors import LmcWarning, SpecMismatchError

__all__ = ["LmcWarning", "SpecMismatchError"]
