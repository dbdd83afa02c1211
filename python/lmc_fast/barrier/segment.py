"""Segments between networks: the barrier of one pair, and of many pairs in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Unpack

from lmc_fast.barrier.curve import BarrierCurve
from lmc_fast.barrier.engine import Evaluation, evaluate
from lmc_fast.barrier.losses import LossFunction, make_loss
from lmc_fast.barrier.networks import MAX_MEMORY, Networks, Norm, Options
from lmc_fast.barrier.points import Points
from lmc_fast.checkpoints import Network
from lmc_fast.data import Data
from lmc_fast.errors import LmcWarning


def barrier(
    a: Network,
    b: Network,
    data: Data,
    *,
    permutation: Any = None,
    spec: Any = None,
    model: Any = None,
    alphas: int | Sequence[float] = 25,
    loss: str | LossFunction = "cross_entropy",
    norm: Norm | None = None,
    calibration: Data | None = None,
    calibrate_temperature: bool = False,
    per_example: bool = False,
    max_memory: int = MAX_MEMORY,
    progress: bool = False,
) -> BarrierCurve:
    """Evaluate loss and error along the segment from network A to network B.

    ``theta(alpha) = (1 - alpha) theta_A + alpha P(theta_B)``: A is fixed, B is moved by the
    permutation P first. All points are evaluated in one pass over the data.

    Parameters
    ----------
    a, b
        Modules, or state dicts or checkpoint files for ``model``. Neither is modified, nor is
        its mode.
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
        The data that ``reset`` and ``repair`` take their statistics from, and that the softmax
        temperatures are fitted on; ``data`` by default. One pass over it for each alpha settles
        all layers where the activations of the whole set fit into ``max_memory``. Beyond that it
        takes a truncated pass for each of the L normalised layers, about L / 2 whole passes: give
        more memory, or fewer examples, where that is too slow.
    calibrate_temperature
        Also find the softmax temperature with the lowest loss at each point, on ``calibration``,
        and the loss that ``data`` has with it. On one set for both the calibrated loss is the
        lowest that any temperature reaches there, so a curve of training data flatters itself;
        the result's settings say which set it was.
    per_example
        Keep the loss of every example, which confidence intervals need: 8 bytes per example and
        alpha, twice.
    max_memory
        Bytes that the evaluation may take at once, besides the networks (their permuted copies
        included), the batches of the data, and the result: stacked and interpolated weights,
        activations, losses. 2 GiB by default. The result does not depend on it beyond rounding.
        A loss given as a callable takes what it takes.
    progress
        Show a progress bar on stderr.

    Returns
    -------
    BarrierCurve
        With ``norm="keep"`` its ends are the losses of A and of the permuted B themselves.

    Raises
    ------
    TypeError
        If none of ``a``, ``b`` and ``model`` is a module.
    ValueError
        If the networks differ in architecture, the data is empty or lacks targets, an argument is
        none of the accepted ones, or one point and one example (one batch, of a model whose
        outputs depend on the whole batch) take more than ``max_memory``.

    Warns
    -----
    LmcWarning
        If a loss is not finite (it is kept), or BatchNorm statistics are interpolated unasked.
    """
    networks = Networks.gather(
        (a, b), (None, permutation), labels="ab", model=model, spec=spec, norm=norm
    )
    (curve,) = curves_between(
        networks,
        [(0, 1)],
        alpha_grid(alphas),
        data,
        loss=loss,
        calibration=calibration,
        calibrate_temperature=calibrate_temperature,
        per_example=per_example,
        max_memory=max_memory,
        progress=progress,
    )
    return curve


def curves_between(
    networks: Networks,
    pairs: Sequence[tuple[int, int]],
    alphas: NDArray[np.float64],
    data: Data,
    **options: Unpack[Options],
) -> list[BarrierCurve]:
    """Return the curve of every pair of network indices, all evaluated in one pass."""
    ends = np.repeat(np.array(pairs, dtype=np.int64).reshape(-1, 2), alphas.size, axis=0)
    shares = np.tile(np.stack([1 - alphas, alphas], axis=1), (len(pairs), 1))
    found = evaluate_at(networks, ends, shares, data, **options)
    settings = settings_of(networks, found, **options)
    curves = []
    for k in range(len(pairs)):
        part = slice(k * alphas.size, (k + 1) * alphas.size)
        curves.append(
            BarrierCurve(
                alphas=alphas,
                loss=found.loss[part],
                error=None if found.error is None else found.error[part],
                settings=settings,
                temperature=None if found.temperature is None else found.temperature[part],
                calibrated_loss=(
                    None if found.calibrated_loss is None else found.calibrated_loss[part]
                ),
                example_losses=(
                    None if found.example_losses is None else found.example_losses.at(part)
                ),
            )
        )
    return curves


def evaluate_at(
    networks: Networks,
    index: NDArray[np.int64],
    weight: NDArray[np.float64],
    data: Data,
    **options: Unpack[Options],
) -> Evaluation:
    """Evaluate the points ``sum_j weight[k, j] networks[index[k, j]]``; warn where not finite."""
    found = evaluate(
        networks.model,
        Points(networks.states, index, weight),
        data,
        make_loss(
            options.get("loss", "cross_entropy"),
            calibrate_temperature=options.get("calibrate_temperature", False),
        ),
        norm=networks.norm,
        calibration=options.get("calibration"),
        per_example=options.get("per_example", False),
        max_memory=options.get("max_memory", MAX_MEMORY),
        progress=options.get("progress", False),
    )
    bad = int((~np.isfinite(found.loss)).sum())
    if bad:
        warnings.warn(
            f"the loss is not finite at {bad} of {found.loss.size} points; those values are kept",
            LmcWarning,
            stacklevel=4,
        )
    return found


def settings_of(
    networks: Networks, found: Evaluation, **options: Unpack[Options]
) -> dict[str, Any]:
    """Return what a result says about how it was evaluated."""
    calibrated = {}
    if options.get("calibrate_temperature", False):
        given = options.get("calibration") is not None
        calibrated = {"temperature_fitted_on": "calibration" if given else "data"}
    return {
        "loss": make_loss(options.get("loss", "cross_entropy")).name,
        "norm": networks.norm,
        "examples": found.examples,
        "parameters": sum(p.numel() for p in networks.model.parameters()),
        "max_memory": options.get("max_memory", MAX_MEMORY),
        **calibrated,
    }


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
