"""Two-dimensional cuts: the plane through three networks, and the simplex between n."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from lmc_fast.barrier.networks import Networks, Options, gathering
from lmc_fast.barrier.points import StateDict
from lmc_fast.barrier.segment import evaluate_at, settings_of
from lmc_fast.barrier.stored import Stored
from lmc_fast.checkpoints import Network
from lmc_fast.data import Data


@dataclass(frozen=True, eq=False)
class PlaneGrid(Stored):
    """Loss and error on the plane through networks A, B and C.

    Attributes
    ----------
    x, y
        Shapes (nx,) and (ny,): distances in weight space; A is the origin, B lies on the x axis.
    corners
        Shape (3, 2): where A, B and C lie.
    weights
        Shape (ny, nx, 3): how each point mixes A, B and C; sums to one.
    loss, error
        Shape (ny, nx), float64; ``error`` is None without class targets.
    settings
        What was evaluated and how.
    """

    kind = "plane"

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    corners: NDArray[np.float64]
    weights: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SimplexGrid(Stored):
    """Loss and error at mixtures of n networks.

    Attributes
    ----------
    weights
        Shape (K, n): non-negative, each row sums to one.
    loss, error
        Shape (K,), float64; ``error`` is None without class targets.
    settings
        What was evaluated and how.
    """

    kind = "simplex"

    weights: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    settings: Mapping[str, Any]

    def loss_barrier(self) -> float:
        """Return the largest excess of the loss over the mixture of the networks' losses."""
        return self._barrier(self.loss)

    def error_barrier(self) -> float:
        """Return the largest excess of the error over the mixture of the networks' errors."""
        if self.error is None:
            raise ValueError("this simplex has no error: the targets are no class labels")
        return self._barrier(self.error)

    def _barrier(self, values: NDArray[np.float64]) -> float:
        corner = np.array(
            [values[self.weights[:, i] == 1][0] for i in range(self.weights.shape[1])]
        )
        # Differences from one corner: exact where all corners agree.
        chord = corner[0] + self.weights @ (corner - corner[0])
        return float((values - chord).max())


def plane(
    a: Network,
    b: Network,
    c: Network,
    data: Data,
    *,
    permutations: Sequence[Any] = (None, None, None),
    resolution: int = 12,
    margin: float = 0.25,
    **options: Unpack[Options],
) -> PlaneGrid:
    """Evaluate loss and error on a grid of the plane through three networks.

    Parameters
    ----------
    a, b, c
        Networks, as in `barrier`.
    data
        As in `barrier`.
    permutations
        What moves A, B and C first: each a `Matching`, a mapping (with ``spec``) or None.
    resolution
        Grid intervals between A and B, and from their line up to C.
    margin
        How far the grid reaches beyond the triangle, as a share of its sides.
    **options
        ``spec``, ``model``, ``loss``, ``norm``, ``calibration``, ``max_memory``, ``progress``:
        as in `barrier`.

    Raises
    ------
    ValueError
        If the three networks lie on one line, or for what `barrier` raises.
    """
    if resolution < 1 or margin < 0:
        raise ValueError(
            f"resolution must be at least 1 and margin at least 0, got {resolution} and {margin}"
        )
    networks = Networks.gather((a, b, c), permutations, labels="abc", **gathering(options))
    base, foot, height = _triangle(*networks.states)
    beyond = math.ceil(margin * resolution)
    steps = np.arange(-beyond, resolution + beyond + 1)
    left = min(0, math.floor(foot * resolution)) - beyond
    right = max(resolution, math.ceil(foot * resolution)) + beyond
    along, up = np.meshgrid(np.arange(left, right + 1) / resolution, steps / resolution)
    share_b = along - foot * up
    weights = np.stack([1 - share_b - up, share_b, up], axis=2)
    found = evaluate_at(
        networks,
        np.tile(np.arange(3), (up.size, 1)),
        weights.reshape(-1, 3),
        data,
        **options,
    )
    return PlaneGrid(
        x=along[0] * base,
        y=up[:, 0] * height,
        corners=np.array([[0.0, 0.0], [base, 0.0], [foot * base, height]]),
        weights=weights,
        loss=found.loss.reshape(up.shape),
        error=None if found.error is None else found.error.reshape(up.shape),
        settings=settings_of(networks, found, **options),
    )


def simplex(
    models: Sequence[Network],
    data: Data,
    *,
    permutations: Sequence[Any] | None = None,
    resolution: int = 10,
    **options: Unpack[Options],
) -> SimplexGrid:
    """Evaluate loss and error at the mixtures of n networks with weights i / ``resolution``.

    Parameters
    ----------
    models
        n networks, as in `barrier`. There are ``comb(resolution + n - 1, n - 1)`` mixtures.
    permutations
        What moves each network first: `Matching`, mapping (with ``spec``) or None.
    **options
        As in `plane`.

    Raises
    ------
    ValueError
        If there are fewer than two networks, or for what `barrier` raises.
    """
    n = len(models)
    if n < 2 or resolution < 1:
        raise ValueError(
            f"simplex needs at least 2 networks and resolution 1, got {n} and {resolution}"
        )
    networks = Networks.gather(
        models,
        [None] * n if permutations is None else permutations,
        labels=[f"models[{i}]" for i in range(n)],
        **gathering(options),
    )
    weights = _simplex_weights(n, resolution)
    found = evaluate_at(
        networks, np.tile(np.arange(n), (len(weights), 1)), weights, data, **options
    )
    return SimplexGrid(weights, found.loss, found.error, settings_of(networks, found, **options))


def _simplex_weights(n: int, resolution: int) -> NDArray[np.float64]:
    """Return every way to split ``resolution`` steps among n networks (stars and bars)."""
    bars = np.array(list(combinations(range(resolution + n - 1), n - 1)), dtype=np.int64)
    edges = np.concatenate(
        [np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), resolution + n - 1)], axis=1
    )
    return (np.diff(edges, axis=1) - 1) / resolution


def _triangle(a: StateDict, b: StateDict, c: StateDict) -> tuple[float, float, float]:
    """Return |AB|, the foot of C's height as a share of AB, and the height, in weight space."""
    ab = ac = bc = 0.0
    for name, origin in a.items():
        if origin.is_floating_point():
            to_b = (b[name] - origin).double().flatten()
            to_c = (c[name] - origin).double().flatten()
            ab += float(to_b @ to_b)
            ac += float(to_c @ to_c)
            bc += float(to_b @ to_c)
    area = ab * ac - bc * bc
    if not area > 1e-12 * ab * ac:
        raise ValueError("the three networks lie on one line: they span no plane")
    return math.sqrt(ab), bc / ab, math.sqrt(area / ab)
