"""The barrier between two networks: the straight line in weight space, evaluated."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lmc_fast.barrier.curve import BarrierCurve
from lmc_fast.barrier.engine import MAX_MEMORY, evaluate
from lmc_fast.barrier.losses import LossFunction, make_loss
from lmc_fast.barrier.normalise import NORMS
from lmc_fast.barrier.points import Points, StateDict, complete_state
from lmc_fast.data import Data
from lmc_fast.errors import LmcWarning
from lmc_fast.permutation import apply_permutation

Norm = Literal["keep", "reset", "repair"]


def barrier(
    a: nn.Module | StateDict,
    b: nn.Module | StateDict,
    data: Data,
    *,
    permutation: Any = None,
    spec: Any = None,
    model: nn.Module | None = None,
    alphas: int | Sequence[float] = 25,
    loss: str | LossFunction = "cross_entropy",
    norm: Norm | None = None,
    calibration: Data | None = None,
    max_memory: int = MAX_MEMORY,
    progress: bool = False,
) -> BarrierCurve:
    """Evaluate loss and error along the segment from network A to network B.

    ``theta(alpha) = (1 - alpha) theta_A + alpha P(theta_B)``: A is fixed, B is moved by the
    permutation P first. All points are evaluated in one pass over the data.

    Parameters
    ----------
    a, b
        Modules, or state dicts of ``model``. Neither is modified, nor is its mode.
    data
        The data of the loss, train or test: see `lmc_fast.data`.
    permutation
        What moves B: a `Matching`, or a mapping from group to indices together with ``spec``.
        B is taken as it is by default.
    spec
        The `PermutationSpec` of a permutation given as a mapping.
    model
        The module that supplies the architecture; ``a`` or ``b`` by default.
    alphas
        That many evenly spaced points including both ends, or the points themselves.
    loss
        A name or a callable: see `lmc_fast.barrier.losses.make_loss`.
    norm
        ``keep`` (default), ``reset`` or ``repair``: see `lmc_fast.barrier.normalise`. Left out on
        a model with BatchNorm statistics it is ``keep``, with a warning.
    calibration
        The data that ``reset`` and ``repair`` take their statistics from; ``data`` by default.
    max_memory
        Bytes that weights and activations formed in advance may take. The result does not depend
        on it beyond rounding.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    BarrierCurve
        Its loss at alpha = 0 and 1 is that of A and of the permuted B themselves.

    Raises
    ------
    TypeError
        If neither ``a``, ``b`` nor ``model`` is a module.
    ValueError
        If the networks differ in architecture, the data is empty or lacks targets, or an
        argument is none of the accepted ones.

    Warns
    -----
    LmcWarning
        If a loss is not finite (it is kept), or BatchNorm statistics are interpolated unasked.
    """
    grid = alpha_grid(alphas)
    model = architecture(model, a, b)
    chosen_norm = checked_norm(norm, model)
    state_a = complete_state(model, _state(a), "a")
    state_b = complete_state(model, permuted(_state(b), permutation, spec), "b")
    points = Points(
        (state_a, state_b),
        np.tile(np.array([0, 1]), (grid.size, 1)),
        np.stack([1 - grid, grid], axis=1),
    )
    scorer = make_loss(loss)
    found = evaluate(
        model,
        points,
        data,
        scorer,
        norm=chosen_norm,
        calibration=calibration,
        max_memory=max_memory,
        progress=progress,
    )
    warn_if_not_finite(found.loss)
    return BarrierCurve(
        alphas=grid,
        loss=found.loss,
        error=found.error,
        settings={
            "loss": scorer.name,
            "norm": chosen_norm,
            "permuted": permutation is not None,
            "examples": found.examples,
            "max_memory": max_memory,
        },
    )


def alpha_grid(alphas: int | Sequence[float]) -> NDArray[np.float64]:
    """Return the alphas as an array: K evenly spaced ones of [0, 1], or those given."""
    if isinstance(alphas, (int, np.integer)):
        if alphas < 2:
            raise ValueError(f"alphas must be at least 2 points, got {alphas}")
        return np.linspace(0.0, 1.0, int(alphas))
    grid = np.asarray(alphas, dtype=np.float64)
    if grid.ndim != 1 or grid.size == 0 or not np.isfinite(grid).all():
        raise ValueError(f"alphas must be a count or a sequence of finite numbers, got {alphas!r}")
    return grid


def architecture(model: nn.Module | None, *networks: nn.Module | StateDict) -> nn.Module:
    """Return the first module among the arguments."""
    for candidate in (model, *networks):
        if isinstance(candidate, nn.Module):
            return candidate
    raise TypeError("no module supplies the architecture: give a module, or model= beside states")


def checked_norm(norm: str | None, model: nn.Module) -> str:
    """Return the norm to use, with a warning where BatchNorm statistics are kept unasked."""
    if norm is None:
        if any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules()):
            warnings.warn(
                "BatchNorm statistics are interpolated like weights, which overstates barriers; "
                'consider norm="reset", or silence this with norm="keep"',
                LmcWarning,
                stacklevel=3,
            )
        return "keep"
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return norm


def permuted(state: StateDict, permutation: Any, spec: Any) -> StateDict:
    """Return ``state`` moved by a `Matching`, or by a mapping and its spec."""
    if permutation is None:
        return state
    moves = getattr(permutation, "permutation", permutation)
    spec = getattr(permutation, "spec", None) if spec is None else spec
    if spec is None:
        raise ValueError("a permutation given as a mapping needs spec=, the spec it belongs to")
    moved: StateDict = apply_permutation(spec, moves, state)
    return moved


def warn_if_not_finite(values: NDArray[np.float64]) -> None:
    """Warn where some of the values are NaN or infinite."""
    bad = int((~np.isfinite(values)).sum())
    if bad:
        warnings.warn(
            f"the loss is not finite at {bad} of {values.size} points; those values are kept",
            LmcWarning,
            stacklevel=3,
        )


def _state(network: nn.Module | StateDict) -> dict[str, Tensor]:
    if isinstance(network, nn.Module):
        return {k: v.detach() for k, v in network.state_dict().items() if isinstance(v, Tensor)}
    if not hasattr(network, "items"):
        raise TypeError(f"a network must be a module or a state dict, got {type(network).__name__}")
    return {name: torch.as_tensor(tensor) for name, tensor in network.items()}
