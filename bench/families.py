"""Families of random matrices on which assignment solvers go wrong or slow."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FAMILIES = (
    "uniform",
    "normal",
    "integers",
    "constant",
    "low rank",
    "products",
    "dead",
    "duplicates",
    "forbidden",
    "copies",
)


def random_matrix(rng: np.random.Generator, kind: str, rows: int, cols: int) -> NDArray[Any]:
    """A cost matrix, to be minimised, of the family `kind`."""
    if kind == "uniform":
        return rng.random((rows, cols))
    if kind == "normal":
        return rng.standard_normal((rows, cols)).astype(np.float32)
    if kind == "integers":
        return rng.integers(0, 4, (rows, cols)).astype(np.float32)
    if kind == "constant":
        return np.full((rows, cols), 0.1, dtype=np.float32)
    if kind == "low rank":
        x, y = rng.standard_normal((rows, 2)), rng.standard_normal((cols, 2))
        return (x @ y.T).astype(np.float32)
    if kind == "products":
        return np.outer(np.arange(1, rows + 1), np.arange(1, cols + 1)).astype(np.float32)
    cost = rng.random((rows, cols)).astype(np.float32)
    if kind == "dead":
        cost[rng.random(rows) < 0.4] = 0
        cost[:, rng.random(cols) < 0.4] = 0
    elif kind == "duplicates":
        cost = cost[rng.integers(0, rows, rows)][:, rng.integers(0, cols, cols)]
    elif kind == "copies":
        shares = rng.choice([1.0, 0.5, 0.2, 0.02], 2)
        kinds = [max(1, int(n * share)) for n, share in zip(cost.shape, shares, strict=True)]
        if rng.random() < 0.3:
            cost = np.floor(4 * cost)
        if rng.random() < 0.2:
            cost[rng.random((rows, cols)) < 0.1] = np.inf
        cost = cost[rng.integers(0, kinds[0], rows)][:, rng.integers(0, kinds[1], cols)]
    elif kind == "forbidden":
        cost[rng.random((rows, cols)) < 0.3] = np.inf
    else:
        raise ValueError(f"family: expected one of {FAMILIES}, got {kind!r}")
    return cost
