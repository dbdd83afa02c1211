"""Any module on CUDA: weights in flat buffers, the forward pass captured once and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.functional import FunctionalEvaluator
from lmc_fast.barrier.losses import Loss, Scores, logits_of
from lmc_fast.barrier.memory import forward_bytes, state_bytes
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points
from lmc_fast.data import Batch
from lmc_fast.errors import LmcWarning

Forward: TypeAlias = Callable[[], Any]
Captured: TypeAlias = tuple[Callable[[], None], Any]
Capture: TypeAlias = Callable[[Forward], Captured]

_MAX_SHAPES = 4
_PROBED_EXAMPLES = 4


class FlatState:
    """A state dict whose floating-point tensors are views of one buffer per dtype.

    Moving it to another point of weight space takes two operations for each network mixed,
    whatever the number of tensors.
    """

    def __init__(self, points: Points) -> None:
        self._points = points
        first = points.anchors[0]
        self.state = {name: t.clone() for name, t in first.items() if not t.is_floating_point()}
        self._flat: dict[torch.dtype, tuple[list[Tensor], Tensor]] = {}
        for dtype in {t.dtype for t in first.values() if t.is_floating_point()}:
            names = [name for name, t in first.items() if t.dtype == dtype]
            anchors = [
                torch.cat([anchor[name].reshape(-1) for name in names]) for anchor in points.anchors
            ]
            buffer = anchors[0].clone()
            offset = 0
            for name in names:
                size = first[name].numel()
                self.state[name] = buffer[offset : offset + size].view(first[name].shape)
                offset += size
            self._flat[dtype] = (anchors, buffer)

    def move(self, k: int, correction: Correction | None) -> None:
        """Make this the state of point `k`: the first network plus weighted differences."""
        row = zip(self._points.index[k], self._points.weight[k], strict=True)
        (first, _), *others = [(int(i), float(w)) for i, w in row if w]
        for anchors, buffer in self._flat.values():
            wide = torch.promote_types(buffer.dtype, torch.float32)
            base = anchors[first].to(wide)
            mixed = base.clone()
            for other, weight in others:
                mixed.add_(anchors[other].to(wide) - base, alpha=weight)
            buffer.copy_(mixed)
        for name, tensor in self.state.items():
            if not tensor.is_floating_point():
                tensor.copy_(self._points.anchors[first][name])
        if correction is not None:
            for name, tensor in correction.applied(self.state).items():
                if tensor is not self.state[name]:
                    self.state[name].copy_(tensor)


class ReplayEvaluator:
    """Evaluates points of any module by replaying its captured forward pass.

    One capture for each shape of input, up to four; further shapes, and models that cannot be
    captured, run point by point. Nothing is read back before a batch's scores. Memory: every
    network's weights once more and the captured passes, which hold ``example_bytes`` for each
    example, in half of ``max_memory``; the outputs of as many points as the other half allows.
    """

    group_examples = 1
    group_bytes = 0

    def __init__(
        self,
        model: nn.Module,
        points: Points,
        corrections: Sequence[Correction],
        loss: Loss,
        max_memory: int,
        example_bytes: int,
        capture: Capture,
    ) -> None:
        self._model = model
        self._points = points
        self._corrections = corrections
        self._loss = loss
        self._max_memory = max_memory
        self._capture = capture
        self._example_bytes = example_bytes
        self._room = max_memory // 2 - _flat_bytes(points)
        self._flat = FlatState(points)
        self._captured: dict[tuple[torch.Size, torch.dtype], tuple[Tensor, Captured]] = {}
        self._capturable = True
        self._functional: FunctionalEvaluator | None = None

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores on the only batch of the group."""
        (batch,) = group
        captured = self._captured_for(batch.inputs)
        if captured is None:
            if self._functional is None:
                self._functional = FunctionalEvaluator(
                    self._model,
                    self._points,
                    self._corrections,
                    self._loss,
                    self._max_memory,
                    batch,
                )
            yield from self._functional.scores(group)
            return
        inputs, (replay, output) = captured
        inputs.copy_(batch.inputs)
        kept = logits_of(output)
        size = max(1, kept.numel() * (kept.element_size() + 24))
        step = max(1, self._max_memory // 2 // size)
        for start in range(0, len(self._points), step):
            part = range(start, min(start + step, len(self._points)))
            outputs = kept.new_empty(len(part), *kept.shape)
            for row, k in enumerate(part):
                self._flat.move(k, self._corrections[k] if self._corrections else None)
                replay()
                outputs[row].copy_(kept)
            yield slice(part.start, part.stop), self._loss.score(outputs, batch.targets)

    def _captured_for(self, inputs: Tensor) -> tuple[Tensor, Captured] | None:
        key = (inputs.shape, inputs.dtype)
        if key not in self._captured:
            needed = self._example_bytes * len(inputs)
            full = len(self._captured) == _MAX_SHAPES or needed > self._room
            if full or not self._capturable:
                return None
            static = inputs.clone()
            self._flat.move(0, self._corrections[0] if self._corrections else None)
            try:
                self._captured[key] = (
                    static,
                    self._capture(lambda: call_with(self._model, self._flat.state, static)),
                )
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                warnings.warn(
                    f"the model's forward pass cannot be captured ({reason}): points are evaluated "
                    "one by one, which is slower",
                    LmcWarning,
                    stacklevel=2,
                )
                self._capturable = False
                return None
            self._room -= needed
        return self._captured[key]


def replay_evaluator(
    model: nn.Module,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
    batch: Batch,
) -> ReplayEvaluator | None:
    """Return the evaluator for a model on CUDA whose batches are tensors, outside a capture.

    None, too, where the pass over one batch takes more than its part of ``max_memory``.
    """
    first = next(iter(points.anchors[0].values()), None)
    if (
        first is None
        or not first.is_cuda
        or not loss.stacked
        or not isinstance(batch.inputs, Tensor)
        or torch.cuda.is_current_stream_capturing()
    ):
        return None
    example_bytes = bytes_per_example(model, points, batch)
    if _flat_bytes(points) + example_bytes * len(batch.inputs) > max_memory // 2:
        return None
    capture = partial(capture_graph, device=first.device)
    return ReplayEvaluator(model, points, corrections, loss, max_memory, example_bytes, capture)


def bytes_per_example(model: nn.Module, points: Points, batch: Batch) -> int:
    """Return what a pass over one example takes; operations hold scratch memory of that order."""
    probe = batch.inputs[:_PROBED_EXAMPLES]
    return 2 * -(-forward_bytes(model, points.state(0), probe) // len(probe))


def _flat_bytes(points: Points) -> int:
    """Return what a `FlatState` takes: every network, the point, and two of its size to mix in."""
    return (len(points.anchors) + 3) * state_bytes(points.anchors[0])


def capture_graph(forward: Forward, *, device: torch.device) -> Captured:
    """Record a forward pass as a CUDA graph, after two runs that let libraries set up."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads, a loader that pins memory say, may go on calling CUDA.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = forward()

    def replay() -> None:
        with torch.cuda.device(device):
            graph.replay()

    return replay, output
