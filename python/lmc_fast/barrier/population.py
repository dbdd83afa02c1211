"""Barriers of all pairs of a population, and between the checkpoints of two runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from typing_extensions import Unpack

from lmc_fast.barrier.definitions import barrier_height
from lmc_fast.barrier.engine import Evaluation
from lmc_fast.barrier.memory import state_bytes, too_little_memory
from lmc_fast.barrier.networks import (
    MAX_MEMORY,
    Networks,
    Options,
    gathering,
    moved,
)
from lmc_fast.barrier.points import StateDict
from lmc_fast.barrier.segment import alpha_grid, evaluate_at, settings_of
from lmc_fast.barrier.stored import Stored
from lmc_fast.checkpoints import Network
from lmc_fast.data import Data, batches


@dataclass(frozen=True, eq=False)
class BarrierMatrix(Stored):
    """Curves between all pairs of n networks.

    Attributes
    ----------
    alphas
        Shape (K,); alpha = 0 is the row's network.
    loss, error
        Shape (n, n, K), float64, ``loss[i, j, k] == loss[j, i, -1 - k]`` on a symmetric grid;
        ``error`` is None without class targets.
    names
        The n networks' names.
    settings
        What was evaluated and how.
    """

    kind = "matrix"

    alphas: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    names: tuple[str, ...]
    settings: Mapping[str, Any]

    def loss_barrier(self, kind: str = "chord") -> NDArray[np.float64]:
        """Return the loss barrier of every pair, shape (n, n), symmetric with zero diagonal."""
        return barrier_height(self.alphas, self.loss, kind)

    def error_barrier(self, kind: str = "chord") -> NDArray[np.float64]:
        """Return the error barrier of every pair, shape (n, n)."""
        if self.error is None:
            raise ValueError("this matrix has no error: the targets are no class labels")
        return barrier_height(self.alphas, self.error, kind)

    def linkage(self, kind: str = "chord", *, method: str = "single") -> NDArray[np.float64]:
        """Return SciPy's hierarchical clustering of the networks by loss barrier.

        Barriers below zero count as zero. ``method`` is that of `scipy.cluster.hierarchy.linkage`.
        """
        distances = np.maximum(self.loss_barrier(kind), 0.0)
        np.fill_diagonal(distances, 0.0)
        return np.asarray(linkage(squareform((distances + distances.T) / 2), method=method))


@dataclass(frozen=True, eq=False)
class CheckpointGrid(Stored):
    """Curves between every checkpoint of run A and every checkpoint of run B.

    Attributes
    ----------
    alphas
        Shape (K,).
    loss, error
        Shape (S, T, K), float64; ``error`` is None without class targets.
    settings
        What was evaluated and how.
    """

    kind = "checkpoint grid"

    alphas: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    settings: Mapping[str, Any]

    def loss_barrier(self, kind: str = "chord") -> NDArray[np.float64]:
        """Return the loss barrier of every pair of checkpoints, shape (S, T)."""
        return barrier_height(self.alphas, self.loss, kind)

    def error_barrier(self, kind: str = "chord") -> NDArray[np.float64]:
        """Return the error barrier of every pair of checkpoints, shape (S, T)."""
        if self.error is None:
            raise ValueError("this grid has no error: the targets are no class labels")
        return barrier_height(self.alphas, self.error, kind)


def barrier_matrix(
    models: Sequence[Network],
    data: Data,
    *,
    permutations: Sequence[Any] | Mapping[tuple[int, int], Any] | None = None,
    alphas: int | Sequence[float] = 11,
    names: Sequence[str] | None = None,
    **options: Unpack[Options],
) -> BarrierMatrix:
    """Evaluate the segments between all pairs of a population.

    Every network's own loss is evaluated once, and every pair once, so the matrix is symmetric.

    Parameters
    ----------
    models
        n networks, as in `barrier`.
    data
        As in `barrier`. It is read once, or once for every group of pairs whose permuted copies
        fit into half of ``max_memory``.
    permutations
        A sequence of n that move each network into a common basis, or a mapping from pairs
        ``(i, j)``, i < j, to what aligns network j to network i: `Matching`, mapping (with
        ``spec``) or None.
    alphas
        As in `barrier`, symmetric about 1/2 if given one by one.
    names
        What results call the networks; their indices by default.
    **options
        ``spec``, ``model``, ``loss``, ``norm``, ``calibration``, ``max_memory``, ``progress``:
        as in `barrier`.

    Raises
    ------
    ValueError
        If there are fewer than two networks, alphas are not symmetric, a pair is not of the
        population, or for what `barrier` raises.
    """
    n = len(models)
    if n < 2:
        raise ValueError(f"barrier_matrix needs at least 2 networks, got {n}")
    grid = alpha_grid(alphas)
    if not np.allclose(np.sort(grid), np.sort(1 - grid), atol=1e-12):
        raise ValueError("barrier_matrix needs alphas symmetric about 1/2")
    labels = tuple(str(i) for i in range(n)) if names is None else tuple(names)
    if len(labels) != n:
        raise ValueError(f"names must name {n} networks, got {len(labels)}")
    by_pair: Mapping[tuple[int, int], Any] = {}
    common: Sequence[Any] = [None] * n
    if isinstance(permutations, Mapping):
        by_pair = permutations
    elif permutations is not None:
        common = permutations
    pairs = list(combinations(range(n), 2))
    unknown = [pair for pair in by_pair if pair not in set(pairs)]
    if unknown:
        raise ValueError(f"permutations names the pair {unknown[0]}; pairs are (i, j), i < j < {n}")
    networks = Networks.gather(models, common, labels=labels, **gathering(options))
    max_memory = options.get("max_memory", MAX_MEMORY)
    if any(permutation is not None for permutation in by_pair.values()):
        # One half for the copies of a group, the other for its evaluation.
        max_memory //= 2
    groups = _groups(networks, pairs, by_pair, max_memory)
    batches(data, passes=len(groups))
    loss = np.empty((n, n, grid.size))
    error: NDArray[np.float64] | None = np.empty_like(loss)
    backwards = np.array([np.abs(grid - (1 - alpha)).argmin() for alpha in grid])
    for group in groups:
        # The copies of one group are gone before those of the next are made.
        found, (own, own_error), (curves, error_curves) = _evaluate_pairs(
            networks,
            [_moved(networks, j, by_pair.get((i, j)), options) for i, j in group],
            group,
            grid,
            data,
            {**options, "max_memory": max_memory},
        )
        for values, single, between in ((loss, own, curves), (error, own_error, error_curves)):
            if values is None or single is None or between is None:
                error = None
                continue
            values[np.arange(n), np.arange(n)] = single[:, None]
            for (i, j), curve in zip(group, between, strict=True):
                values[i, j] = curve
                values[j, i] = curve[backwards]
    return BarrierMatrix(grid, loss, error, labels, settings_of(networks, found, **options))


def checkpoint_grid(
    run_a: Sequence[Network],
    run_b: Sequence[Network],
    data: Data,
    *,
    permutation: Any = None,
    alphas: int | Sequence[float] = 11,
    **options: Unpack[Options],
) -> CheckpointGrid:
    """Evaluate the segments between every checkpoint of run A and every one of run B.

    Every checkpoint's own loss is evaluated once, all in one pass over the data.

    Parameters
    ----------
    run_a, run_b
        S and T networks of one architecture, as in `barrier`.
    data, alphas
        As in `barrier`.
    permutation
        What moves every checkpoint of run B: a `Matching`, a mapping (with ``spec``) or None; or
        a sequence of T of these, one for each checkpoint.
    **options
        As in `barrier_matrix`.

    Raises
    ------
    ValueError
        If a run is empty, or for what `barrier` raises.
    """
    if not run_a or not run_b:
        raise ValueError(
            f"checkpoint_grid needs a checkpoint of each run, got {len(run_a)} and {len(run_b)}"
        )
    grid = alpha_grid(alphas)
    each = (
        list(permutation) if isinstance(permutation, (list, tuple)) else [permutation] * len(run_b)
    )
    networks = Networks.gather(
        [*run_a, *run_b],
        [*[None] * len(run_a), *each],
        labels=[f"run_a[{s}]" for s in range(len(run_a))]
        + [f"run_b[{t}]" for t in range(len(run_b))],
        **gathering(options),
    )
    shape = (len(run_a), len(run_b), grid.size)
    pairs = [(s, len(run_a) + t) for s, t in np.ndindex(shape[:2])]
    found, _, (curves, error_curves) = _evaluate_pairs(
        networks, [networks.states[j] for _, j in pairs], pairs, grid, data, options
    )
    return CheckpointGrid(
        grid,
        np.asarray(curves).reshape(shape),
        None if error_curves is None else error_curves.reshape(shape),
        settings_of(networks, found, **options),
    )


_Split: TypeAlias = tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]


def _evaluate_pairs(
    networks: Networks,
    copies: Sequence[StateDict],
    pairs: Sequence[tuple[int, int]],
    alphas: NDArray[np.float64],
    data: Data,
    options: Options,
) -> tuple[Evaluation, _Split, _Split]:
    """Evaluate each network, and for every pair the segment from its first to its copy.

    A copy computes the same function as the pair's second network, so that network stands for it
    at alpha = 1. Returns loss and error of the networks (n,), and of the curves (pairs, K).
    """
    n, k = len(networks.states), alphas.size
    first = np.repeat(np.array([i for i, _ in pairs]), k)
    second = np.repeat(np.array([j for _, j in pairs]), k)
    copy = np.repeat(np.arange(n, n + len(pairs)), k)
    share = np.tile(alphas, len(pairs))
    own = np.arange(n)
    index = np.concatenate(
        [np.stack([own, own], 1), np.stack([first, np.where(share == 1, second, copy)], 1)]
    )
    weight = np.concatenate([np.tile([1.0, 0.0], (n, 1)), np.stack([1 - share, share], axis=1)])
    extended = replace(networks, states=(*networks.states, *copies))
    found = evaluate_at(extended, index, weight, data, **options)
    error = found.error
    return (
        found,
        (found.loss[:n], None if error is None else error[:n]),
        (found.loss[n:].reshape(-1, k), None if error is None else error[n:].reshape(-1, k)),
    )


def _moved(networks: Networks, j: int, permutation: Any, options: Options) -> StateDict:
    return moved(networks.states[j], permutation, options.get("spec"))


def _groups(
    networks: Networks,
    pairs: list[tuple[int, int]],
    by_pair: Mapping[tuple[int, int], Any],
    max_memory: int,
) -> list[list[tuple[int, int]]]:
    """Split the pairs so that the permuted copies of a group fit into ``max_memory`` bytes."""
    copies = sum(permutation is not None for permutation in by_pair.values())
    size = state_bytes(networks.states[0])
    if copies and size > max_memory:
        raise too_little_memory(2 * max_memory, 2 * size, "one permuted copy and its evaluation")
    step = len(pairs) if copies * size <= max_memory else max_memory // size
    return [pairs[start : start + step] for start in range(0, len(pairs), step)]
