"""Any module, point by point: no weights reloaded, every batch read once for all points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import nn

from lmc_fast.barrier.folded import folded_runner
from lmc_fast.barrier.forward import agree, call_with
from lmc_fast.barrier.losses import Loss, Scores, logits_of
from lmc_fast.barrier.memory import forward_bytes, state_bytes, too_little_memory
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import Batch, count_examples, take

_CACHED_BYTES = 24 << 20
"""Activations of a block of examples beyond this size fall out of the processor's cache."""

_PROBED_EXAMPLES = 4


class Runner(Protocol):
    """Runs the model with the weights of one point after the other."""

    def prepared(self, state: StateDict) -> StateDict:
        """Return the weights in the form that `run` wants."""
        ...

    def run(self, prepared: StateDict, inputs: Any) -> Any:
        """Return the model's output."""
        ...


class _ModuleRunner:
    """Calls the module itself with `torch.func.functional_call`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def prepared(self, state: StateDict) -> StateDict:
        return state

    def run(self, prepared: StateDict, inputs: Any) -> Any:
        return call_with(self._model, prepared, inputs)


class FunctionalEvaluator:
    """Evaluates points of any module.

    Convolutional networks on the processor run with their BatchNorms folded into the convolutions
    and channels last, where that is proven on some examples. Where outputs are proven not to
    depend on the other examples of the batch, a batch runs in blocks that stay in the cache.

    Memory: the weights of all points where they take half of ``max_memory`` at most, else those of
    one point at a time, formed anew for each batch; one block's activations; one point's outputs.
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
        batch: Batch,
    ) -> None:
        self._points = points
        self._corrections = corrections
        self._loss = loss
        state = self._state(0)
        probe = take(batch.inputs, slice(0, _PROBED_EXAMPLES))
        examples = count_examples(probe)
        self._runner: Runner = folded_runner(model, state, probe) or _ModuleRunner(model)
        self._splits = examples > 1 and loss.stacked and _splits(self._runner, state, probe)
        weights = state_bytes(state)
        # Weights are mixed in float32 at least, beside the difference of one tensor.
        one = weights * (3 if next(iter(state.values())).element_size() < 4 else 2)
        every = len(points) * weights
        self._keeps = one + every <= max_memory // 2
        # Operations hold scratch memory of the order of what they return.
        self._example_bytes = 2 * -(-forward_bytes(model, state, probe) // examples)
        fixed = one + every * self._keeps
        self._room = max_memory - fixed
        smallest = 1 if self._splits else count_examples(batch.inputs)
        if smallest * self._example_bytes > self._room:
            what = "one point and one example" if self._splits else "one point and one batch"
            raise too_little_memory(max_memory, fixed + smallest * self._example_bytes, what)
        self._kept: list[StateDict] = []
        if self._keeps:
            self._kept = [self._prepared(k) for k in range(len(points))]

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield each point and its scores on the only batch of the group."""
        (batch,) = group
        total = count_examples(batch.inputs)
        step = total
        if self._splits:
            on_host = batch.targets is None or batch.targets.device.type == "cpu"
            room = min(self._room, _CACHED_BYTES) if on_host else self._room
            step = max(1, room // self._example_bytes)
        for k in range(len(self._points)):
            prepared = self._kept[k] if self._keeps else self._prepared(k)
            parts = [
                self._runner.run(prepared, take(batch.inputs, slice(start, start + step)))
                for start in range(0, total, step)
            ]
            if not self._loss.stacked:
                (output,) = parts
                yield slice(k, k + 1), self._loss.score([output], batch.targets)
                continue
            logits = [logits_of(part) for part in parts]
            whole = logits[0] if len(logits) == 1 else torch.cat(logits)
            yield slice(k, k + 1), self._loss.score(whole[None], batch.targets)

    def _prepared(self, k: int) -> StateDict:
        return self._runner.prepared(self._state(k))

    def _state(self, k: int) -> StateDict:
        state = self._points.state(k)
        return self._corrections[k].applied(state) if self._corrections else state


def _splits(runner: Runner, state: StateDict, probe: Any) -> bool:
    """Return whether the outputs for some examples are what they are in a larger batch."""
    prepared = runner.prepared(state)
    whole = logits_of(runner.run(prepared, probe))
    if whole.dim() == 0 or len(whole) != count_examples(probe):
        return False
    try:
        parts = [
            logits_of(runner.run(prepared, take(probe, part)))
            for part in (slice(1), slice(1, None))
        ]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    if any(part.dim() != whole.dim() or part.shape[1:] != whole.shape[1:] for part in parts):
        return False
    return agree(torch.cat(parts), whole)
