"""Any module, point by point: one functional call per point and batch, no weights reloaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.losses import Loss, Scores, logits_of
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points
from lmc_fast.data import Batch


class FunctionalEvaluator:
    """Evaluates points of any module with `torch.func.functional_call`.

    The weights of all points are formed once where they fit into ``max_memory`` bytes, else those
    of one point at a time, anew for each batch.
    """

    def __init__(
        self,
        model: nn.Module,
        points: Points,
        corrections: Sequence[Correction],
        loss: Loss,
        max_memory: int,
    ) -> None:
        self._model = model
        self._points = points
        self._corrections = corrections
        self._loss = loss
        needed = len(points) * sum(t.numel() * t.element_size() for t in points.anchors[0].values())
        self._states = [self._form(k) for k in range(len(points))] if needed <= max_memory else None

    def scores(self, batch: Batch) -> Iterator[tuple[slice, Scores]]:
        """Yield each point and its scores on the batch."""
        for k in range(len(self._points)):
            state = self._form(k) if self._states is None else self._states[k]
            output = call_with(self._model, state, batch.inputs)
            stacked = logits_of(output)[None] if self._loss.stacked else [output]
            yield slice(k, k + 1), self._loss.score(stacked, batch.targets)

    def _form(self, k: int) -> dict[str, Tensor]:
        state = self._points.state(k)
        return self._corrections[k].applied(state) if self._corrections else state
