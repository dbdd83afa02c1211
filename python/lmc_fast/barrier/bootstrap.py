"""Bootstrap confidence intervals of a barrier: how far it depends on the examples drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lmc_fast.barrier.definitions import barrier_height

_BLOCK = 1 << 22


def resampled_curves(
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the mean curve of ``resamples`` draws with replacement from the examples.

    Parameters
    ----------
    values
        Shape (K, N): summed loss or error of each example at each alpha.
    weight
        Shape (N,): terms per example.

    Returns
    -------
    numpy.ndarray
        Shape (resamples, K). All alphas of a resample share its examples. O(resamples N K).
    """
    examples = weight.size
    step = max(1, _BLOCK // examples)
    rows = []
    for start in range(0, resamples, step):
        drawn = generator.multinomial(
            examples, np.full(examples, 1 / examples), size=min(step, resamples - start)
        ).astype(np.float64)
        rows.append((drawn @ values.T) / (drawn @ weight)[:, None])
    return np.concatenate(rows)


def barrier_interval(
    alphas: NDArray[np.float64],
    values: NDArray[np.float64],
    weight: NDArray[np.float64],
    *,
    kind: str,
    level: float,
    resamples: int,
    generator: np.random.Generator | None,
) -> tuple[float, float]:
    """Return the percentile interval of the barrier of definition ``kind``.

    Takes the parameters of `resampled_curves`; ``level`` is the share of resamples inside. A
    maximum over noisy points is biased upwards, in the sample as in its resamples, so the interval
    of a barrier that is truly zero lies above zero.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    curves = resampled_curves(
        values,
        weight,
        resamples=resamples,
        generator=np.random.default_rng(0) if generator is None else generator,
    )
    heights = barrier_height(alphas, curves, kind)
    low, high = np.quantile(heights, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
