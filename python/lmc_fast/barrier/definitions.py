"""The four definitions of a barrier, on curves of loss or error along a path.

With ``L`` the curve over ``alpha`` in [0, 1]:

- ``chord``: max over alpha of ``L(alpha) - ((1 - alpha) L(0) + alpha L(1))``;
- ``mean``: ``max L - (L(0) + L(1)) / 2``;
- ``max``: ``max L - max(L(0), L(1))``, called epsilon in some papers;
- ``midpoint``: ``L(1/2) - (L(0) + L(1)) / 2``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = ("chord", "mean", "max", "midpoint")

SENTENCES = {
    "chord": "max over alpha of L(alpha) - ((1 - alpha) L(0) + alpha L(1))",
    "mean": "max over alpha of L(alpha) - (L(0) + L(1)) / 2",
    "max": "max over alpha of L(alpha) - max(L(0), L(1))",
    "midpoint": "L(1/2) - (L(0) + L(1)) / 2",
}


def excess(
    alphas: NDArray[np.float64], values: NDArray[np.float64], kind: str = "chord"
) -> NDArray[np.float64]:
    """Return, for each alpha, how far the curve lies above the reference of definition ``kind``.

    Parameters
    ----------
    alphas
        Shape (K,), holding 0 and 1 (and 1/2 for ``midpoint``).
    values
        Shape (..., K): one curve or many.
    kind
        One of ``chord``, ``mean``, ``max``, ``midpoint``. For ``midpoint`` the last axis has
        length one: the middle alone.

    Raises
    ------
    ValueError
        If ``kind`` is unknown or ``alphas`` lacks a point that the definition needs.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    first = values[..., index_of(alphas, 0.0), None]
    last = values[..., index_of(alphas, 1.0), None]
    if kind == "chord":
        # First plus a multiple of the difference: exact where the two ends agree.
        return np.asarray(values - (first + alphas * (last - first)))
    if kind == "max":
        return np.asarray(values - np.maximum(first, last))
    middle = values if kind == "mean" else values[..., index_of(alphas, 0.5), None]
    return np.asarray(middle - (first + (last - first) / 2))


def barrier_height(
    alphas: NDArray[np.float64], values: NDArray[np.float64], kind: str = "chord"
) -> NDArray[np.float64]:
    """Return the barrier of each curve, shape (...); NaN where a curve holds one.

    Takes the parameters of `excess`, and raises what it raises.
    """
    return np.asarray(excess(alphas, values, kind).max(axis=-1))


def area_above_chord(
    alphas: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the trapezoidal area between each curve and its chord, shape (...)."""
    order = np.argsort(alphas)
    above = excess(alphas, values)[..., order]
    return np.asarray(((above[..., 1:] + above[..., :-1]) / 2) @ np.diff(alphas[order]))


def index_of(alphas: NDArray[np.float64], alpha: float) -> int:
    """Return where ``alphas`` holds ``alpha``; ValueError where it does not."""
    found = np.flatnonzero(alphas == alpha)
    if found.size == 0:
        raise ValueError(
            f"this barrier needs the value at alpha={alpha:g}, which is not among the "
            f"{alphas.size} alphas evaluated; add it to alphas"
        )
    return int(found[0])
