"""The result of evaluating a segment between two networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmc_fast.barrier.definitions import area_above_chord, barrier_height, excess

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, eq=False)
class BarrierCurve:
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
    """

    alphas: NDArray[np.float64]
    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

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
        return float(barrier_height(self.alphas, self._values("error"), kind))

    def argmax_alpha(self, kind: str = "chord", *, metric: str = "loss") -> float:
        """Return the alpha at which the barrier of ``metric`` ("loss" or "error") is attained."""
        if kind == "midpoint":
            return 0.5
        return float(self.alphas[excess(self.alphas, self._values(metric), kind).argmax()])

    def area(self, *, metric: str = "loss") -> float:
        """Return the area between the curve of ``metric`` and its chord (trapezoidal rule)."""
        return float(area_above_chord(self.alphas, self._values(metric)))

    def plot(self, ax: Axes | None = None, *, metric: str = "loss", **line: Any) -> Axes:
        """Draw the curve of ``metric`` into ``ax`` (a new figure's by default) and return it.

        Further keywords go to `matplotlib.axes.Axes.plot`.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(layout="constrained").add_subplot()
        ax.plot(self.alphas, self._values(metric), **line)
        ax.set_xlabel("alpha (0 is A, 1 is B)")
        ax.set_ylabel(metric)
        return ax

    def to_json(self) -> str:
        """Return the curve as JSON text; non-finite values are written as strings."""
        return json.dumps(
            {
                "alphas": _listed(self.alphas),
                "loss": _listed(self.loss),
                "error": None if self.error is None else _listed(self.error),
                "settings": dict(self.settings),
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> BarrierCurve:
        """Return the curve that `to_json` wrote; ValueError where ``text`` is no such thing."""
        try:
            stored = json.loads(text)
            error = stored["error"]
            return cls(
                alphas=_array(stored["alphas"]),
                loss=_array(stored["loss"]),
                error=None if error is None else _array(error),
                settings=stored["settings"],
            )
        except (KeyError, TypeError, ValueError) as fault:
            raise ValueError(f"expected the JSON text of a BarrierCurve: {fault}") from None

    def _values(self, metric: str) -> NDArray[np.float64]:
        if metric not in ("loss", "error"):
            raise ValueError(f'metric must be "loss" or "error", got {metric!r}')
        values = self.loss if metric == "loss" else self.error
        if values is None:
            raise ValueError("this curve has no error: the targets are no class labels")
        return values


def _listed(values: NDArray[np.float64]) -> list[float | str]:
    return [float(v) if np.isfinite(v) else str(float(v)) for v in values]


def _array(values: list[float | str]) -> NDArray[np.float64]:
    return np.array([float(v) for v in values], dtype=np.float64)
