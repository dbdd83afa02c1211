"""The softmax temperature that suits each point best, found in the same pass over the data.

Dividing the logits by a temperature T leaves every prediction as it is and changes the loss
``L(x) = mean(logsumexp(z / T) - z_y / T)``, ``x = -ln T``. The loss and its first two derivatives
are summed at a grid of x; between grid points L is the quintic that agrees with all three.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import BPoly
from scipy.optimize import minimize_scalar
from torch import Tensor

SHARPNESS = tuple(x * math.log(2) / 2 for x in range(-10, 11))
"""Grid of -ln T: temperatures from 32 to 1/32, a factor of sqrt(2) apart."""


def tempered_sums(logits: Tensor, picked: Tensor, kept: Tensor) -> Tensor:
    """Return summed loss, slope and curvature in x at every grid point, shape (K, grid, 3).

    Parameters
    ----------
    logits
        Shape (K, N, C), float64.
    picked
        Shape (K, N): the logit of each term's target.
    kept
        Shape (N,), bool: which terms count.
    """
    rows = []
    for x in SHARPNESS:
        scaled = logits * math.exp(x)
        total = torch.logsumexp(scaled, dim=2)
        probability = torch.exp(scaled - total[..., None])
        mean = (probability * scaled).sum(2)
        variance = (probability * (scaled - mean[..., None]).square()).sum(2)
        target = picked * math.exp(x)
        slope = mean - target
        terms = torch.stack([total - target, slope, variance + slope], dim=2)
        rows.append(terms.where(kept[:, None], 0.0).sum(1))
    return torch.stack(rows, dim=1)


def best_temperatures(
    curves: NDArray[np.float64], fitted: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the best temperature of each point within the grid, and the loss there.

    Parameters
    ----------
    curves
        Shape (K, grid, 3): mean loss, slope and curvature at the grid points.
    fitted
        The same on the data that the temperature is to suit; ``curves`` by default.
    """
    fitted = curves if fitted is None else fitted
    temperature = np.full(len(curves), np.nan)
    loss = np.full(len(curves), np.nan)
    for k, (curve, target) in enumerate(zip(curves, fitted, strict=True)):
        if not (np.isfinite(curve).all() and np.isfinite(target).all()):
            continue
        low = int(target[:, 0].argmin())
        bounds = SHARPNESS[max(low - 1, 0)], SHARPNESS[min(low + 1, len(SHARPNESS) - 1)]
        found = minimize_scalar(
            BPoly.from_derivatives(SHARPNESS, target),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-9},
        )
        temperature[k] = math.exp(-found.x)
        loss[k] = float(BPoly.from_derivatives(SHARPNESS, curve)(found.x))
    return temperature, loss
