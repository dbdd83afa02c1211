"""The engine: mean loss and error of many points in weight space, in one pass over the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lmc_fast.barrier.forward import evaluation_mode
from lmc_fast.barrier.functional import FunctionalEvaluator
from lmc_fast.barrier.fused_head import fused_evaluator
from lmc_fast.barrier.layered import layered_evaluator
from lmc_fast.barrier.losses import Loss, Scores
from lmc_fast.barrier.normalise import Correction, calibrate
from lmc_fast.barrier.points import Points, distinct
from lmc_fast.barrier.replay import replay_evaluator
from lmc_fast.barrier.temperature import best_temperatures
from lmc_fast.data import Batch, Data, batches, count_batches, count_examples, device_of, grouped
from lmc_fast.progress import progress_bar


class Evaluator(Protocol):
    """Scores batches at all points.

    Attributes
    ----------
    group_examples, group_bytes
        Successive batches come together until they hold so many examples, or bytes.
    """

    group_examples: int
    group_bytes: int

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, for each point its examples in order."""
        ...


@dataclass(frozen=True)
class ExampleLosses:
    """Losses and errors of N single examples at K points.

    Attributes
    ----------
    loss, error
        Shape (K, N), float64: sums over the terms of an example; ``error`` may be None.
    weight
        Shape (N,), float64: how many terms an example has, 1 for plain classification.
    """

    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    weight: NDArray[np.float64]

    def at(self, points: slice | NDArray[np.int64]) -> ExampleLosses:
        """Return the part that belongs to some of the points."""
        error = None if self.error is None else self.error[points]
        return ExampleLosses(self.loss[points], error, self.weight)


@dataclass(frozen=True)
class Evaluation:
    """What the engine measured at K points.

    Attributes
    ----------
    loss, error
        Shape (K,), float64 means; ``error`` is None without class targets.
    examples
        How many examples the data held.
    temperature, calibrated_loss
        Shape (K,): the best softmax temperature and the loss there, where asked for.
    example_losses
        Where asked for.
    """

    loss: NDArray[np.float64]
    error: NDArray[np.float64] | None
    examples: int
    temperature: NDArray[np.float64] | None = None
    calibrated_loss: NDArray[np.float64] | None = None
    example_losses: ExampleLosses | None = None


def evaluate(
    model: nn.Module,
    points: Points,
    data: Data,
    loss: Loss,
    *,
    norm: str,
    calibration: Data | None,
    per_example: bool,
    max_memory: int,
    progress: bool,
) -> Evaluation:
    """Evaluate ``loss`` at every point in one pass over ``data``.

    Equal points are evaluated once. The model's own weights, buffers and mode are untouched, also
    after an interruption; no gradient is recorded.

    Parameters
    ----------
    model
        Supplies the architecture; it runs in evaluation mode.
    norm, calibration
        See `lmc_fast.barrier.normalise`; ``calibration`` is ``data`` where it is None. A loss with
        temperature is fitted on it, too.
    per_example
        Keep the loss of every example at every point.
    max_memory
        Bytes that the evaluation may take at once besides the networks, the data and the result.

    Raises
    ------
    ValueError
        If one point and one example take more, or for what the parts raise.
    """
    if max_memory < 1:
        raise ValueError(f"max_memory must be a positive number of bytes, got {max_memory}")
    unique, inverse = distinct(points)
    with evaluation_mode(model), torch.no_grad():
        corrections: Sequence[Correction] = ()
        if norm != "keep":
            if calibration is None:
                batches(data, passes=2)
            corrections = calibrate(
                model,
                unique,
                data if calibration is None else calibration,
                norm=norm,
                max_memory=max_memory,
                progress=progress,
            )

        def measured(source: Data, per_example: bool) -> _Total:
            total = _Total(len(unique), per_example)
            bar = progress_bar(
                batches(source, device=device_of(model)),
                total=count_batches(source),
                show=progress,
                unit="batch",
                desc=f"{len(unique)} points",
            )
            stream = _with_targets(bar)
            first = next(stream)
            evaluator = make_evaluator(model, unique, corrections, loss, max_memory, first)
            for group in grouped(
                chain([first], stream),
                examples=evaluator.group_examples,
                max_bytes=evaluator.group_bytes,
            ):
                total.examples += sum(count_examples(batch.inputs) for batch in group)
                for part, scores in evaluator.scores(group):
                    total.add(part, scores)
            return total

        fitted = None
        if loss.tempered and calibration is not None:
            fitted = measured(calibration, False).mean_tempered()
        return measured(data, per_example).result(inverse, fitted)


def _with_targets(stream: Iterable[Batch]) -> Iterator[Batch]:
    for batch in stream:
        if batch.targets is None:
            raise ValueError("data must be batches of (input, target), got inputs alone")
        yield batch


def make_evaluator(
    model: nn.Module,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
    batch: Batch,
) -> Evaluator:
    """Choose how the points are evaluated, given the first batch: the one place that decides."""
    layered = layered_evaluator(model, points, corrections, loss, max_memory, batch)
    if layered is not None:
        return fused_evaluator(layered, points, corrections, loss, max_memory) or layered
    return replay_evaluator(
        model, points, corrections, loss, max_memory, batch
    ) or FunctionalEvaluator(model, points, corrections, loss, max_memory, batch)


class _Total:
    """Running sums over batches, losses in float64 and errors in int64.

    They stay on the device of the scores: nothing is read back, and nothing waits, until the end.
    """

    def __init__(self, points: int, per_example: bool) -> None:
        self.examples = 0
        self._points = points
        self._loss: Tensor | None = None
        self._error: Tensor | None = None
        self._weight: Tensor | None = None
        self._tempered: Tensor | None = None
        self._flags: dict[str, Tensor] = {}
        self._has_error = True
        self._parts: list[list[Scores]] | None = (
            [[] for _ in range(points)] if per_example else None
        )

    def add(self, part: slice, scores: Scores) -> None:
        loss, error = scores.totals()
        self._loss = self._added(self._loss, part, loss)
        weight = scores.weight.to(loss.device, torch.float64).sum()
        self._weight = self._added(self._weight, part, weight.expand(part.stop - part.start))
        self._has_error = self._has_error and error is not None
        if error is not None:
            self._error = self._added(self._error, part, error)
        if scores.tempered is not None:
            self._tempered = self._added(self._tempered, part, scores.tempered)
        for name, flag in (("invalid", scores.invalid), ("graded", scores.graded)):
            if flag is not None:
                self._flags[name] = self._flags[name] | flag if name in self._flags else flag
        if self._parts is not None:
            for k in range(part.start, part.stop):
                self._parts[k].append(_row(scores, k - part.start))

    def _added(self, total: Tensor | None, part: slice, sums: Tensor) -> Tensor:
        if total is None:
            total = sums.new_zeros(self._points, *sums.shape[1:])
        total[part] += sums
        return total

    def mean_tempered(self) -> NDArray[np.float64] | None:
        """Return mean loss, slope and curvature over the grid of temperatures, (K, grid, 3)."""
        tempered, weight = _array(self._tempered), _array(self._weight)
        return None if tempered is None or weight is None else tempered / weight[:, None, None]

    def result(
        self, inverse: NDArray[np.int64], fitted: NDArray[np.float64] | None = None
    ) -> Evaluation:
        """Return the means; temperatures suit the curves ``fitted``, or this data."""
        flags = {name: bool(flag) for name, flag in self._flags.items()}
        if flags.get("invalid"):
            raise ValueError("a class target is neither a class of the model's output nor -100")
        loss, weight = _array(self._loss), _array(self._weight)
        if loss is None or weight is None or not weight.all():
            raise ValueError("data holds no term to average over: every target is ignored")
        temperature = calibrated = None
        tempered = self.mean_tempered()
        if tempered is not None:
            temperature, calibrated = best_temperatures(tempered, fitted)
        has_error = self._has_error and not flags.get("graded")
        error = _array(self._error) if has_error else None
        examples = None if self._parts is None else _joined(self._parts, has_error).at(inverse)
        return Evaluation(
            loss=(loss / weight)[inverse],
            error=None if error is None else (error / weight)[inverse],
            examples=self.examples,
            temperature=None if temperature is None else temperature[inverse],
            calibrated_loss=None if calibrated is None else calibrated[inverse],
            example_losses=examples,
        )


def _array(total: Tensor | None) -> NDArray[np.float64] | None:
    return None if total is None else total.cpu().double().numpy()


def _row(scores: Scores, k: int) -> Scores:
    error = None if scores.error is None else scores.error[k].double().cpu()
    return Scores(scores.loss[k].double().cpu(), error, scores.weight.cpu())


def _joined(parts: Sequence[Sequence[Scores]], has_error: bool) -> ExampleLosses:
    loss = np.stack([torch.cat([s.loss for s in row]).numpy() for row in parts])
    error = None
    if has_error:
        error = np.stack(
            [torch.cat([s.error for s in row if s.error is not None]).numpy() for row in parts]
        )
    return ExampleLosses(loss, error, torch.cat([s.weight for s in parts[0]]).numpy())
