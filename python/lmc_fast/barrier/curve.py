"""The result of evaluating a segment between two networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmc_fast.barrier.bootstrap import barrier_interval
from lmc_fast.barrier.definitions import area_above_chord, barrier_height, excess
from lmc_fast.barrier.engine import ExampleLosses
from lmc_fast.barrier.stored import Stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class BarrierCurve(Stored):
    """Loss and error along ``theta(alpha) = (1 - alpha) theta_A + alpha P(theta_B)``.

    Attributes
    ----------
    alphas
        Shape (K,), float64. alpha = 0 is network A.
    loss
        Shape (K,), float64: mean loss over the terms of the data.
    error
        Shape (K,), float64: 1 - accuracy; None without class targets.
    settings
        What was evaluated and how: loss, norm, number of examples, and so on.
    temperature, calibrated_loss
        Shape (K,): the softmax temperature that suits each point best and the loss there; None
        unless ``calibrate_temperature`` was chosen.
    example_losses
        Loss and error of every example; None unless ``per_example`` was chosen. Not in the JSON.
    """

    kind = "curve"
    left_out = ("example_losses",)

    alphas: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    temperature: NDArray[np.float64] | None = None
    calibrated_loss: NDArray[np.float64] | None = None
    example_losses: ExampleLosses | None = None

    def loss_barrier(self, kind: str = "chord") -> float:
        """Return the loss barrier under one of the definitions of `lmc_fast.barrier`.

        Raises
        ------
        ValueError
            If ``kind`` is unknown, or the alphas lack a point that the definition needs.
        """
        return float(barrier_height(self.alphas, self.loss, kind))

    def error_barrier(self, kind: str = "chord") -> float:
        """Return the error barrier, a fraction in [0, 1]; raises like `loss_barrier`."""
        return float(barrier_height(self.alphas, self.values("error"), kind))

    def calibrated_barrier(self, kind: str = "chord") -> float:
        """Return the barrier of the temperature-calibrated loss; raises like `loss_barrier`."""
        return float(barrier_height(self.alphas, self.values("calibrated_loss"), kind))

    def interval(
        self,
        kind: str = "chord",
        *,
        metric: str = "loss",
        level: float = 0.95,
        resamples: int = 1000,
        generator: np.random.Generator | None = None,
    ) -> tuple[float, float]:
        """Return a bootstrap confidence interval of the barrier over the examples.

        Parameters
        ----------
        kind, metric
            The definition, and "loss" or "error".
        level
            The interval's coverage.
        resamples
            Draws with replacement; memory is bounded, the time is O(resamples x examples x K).
        generator
            Source of randomness; a fixed one by default, so that the interval repeats.

        Raises
        ------
        ValueError
            If the curve was evaluated without ``per_example=True``.
        """
        self.values(metric)
        if self.example_losses is None:
            raise ValueError("an interval needs the curve to be evaluated with per_example=True")
        values = self.example_losses.loss if metric == "loss" else self.example_losses.error
        if metric == "calibrated_loss" or values is None:
            raise ValueError(f"there is no interval of {metric}")
        return barrier_interval(
            self.alphas,
            values,
            self.example_losses.weight,
            kind=kind,
            level=level,
            resamples=resamples,
            generator=generator,
        )

    def argmax_alpha(self, kind: str = "chord", *, metric: str = "loss") -> float:
        """Return the alpha at which the barrier of ``metric`` ("loss" or "error") is attained."""
        if kind == "midpoint":
            return 0.5
        return float(self.alphas[excess(self.alphas, self.values(metric), kind).argmax()])

    def area(self, *, metric: str = "loss") -> float:
        """Return the area between the curve of ``metric`` and its chord (trapezoidal rule)."""
        return float(area_above_chord(self.alphas, self.values(metric)))

    def plot(self, ax: Axes | None = None, *, metric: str = "loss", **line: Any) -> Axes:
        """Draw the curve of ``metric`` into ``ax`` (a new figure's by default) and return it.

        Further keywords go to `matplotlib.axes.Axes.plot`.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        ax.plot(self.alphas, self.values(metric), **line)
        ax.set_xlabel("alpha (0 is A, 1 is B)")
        ax.set_ylabel(metric)
        return ax

    def values(self, metric: str) -> NDArray[np.float64]:
        """Return the curve of a metric: "loss", "error" or "calibrated_loss"; shape (K,).

        Raises
        ------
        ValueError
            If there is no such metric, or the curve lacks it.
        """
        if metric not in ("loss", "error", "calibrated_loss"):
            raise ValueError(f'metric must be "loss", "error" or "calibrated_loss", got {metric!r}')
        values: NDArray[np.float64] | None = getattr(self, metric)
        if values is None:
            reason = {
                "error": "the targets are no class labels",
                "calibrated_loss": "evaluate it with calibrate_temperature=True",
            }[metric]
            raise ValueError(f"this curve has no {metric}: {reason}")
        return values
