"""Multilayer perceptrons layer by layer: every layer of many points at once.

The first layer is linear in the weights, so its pre-activations are computed once for each
distinct unit of the networks mixed, and those of every point are weighted sums of them. Inner
layers run as batched matrix products. A ReLU network with one hidden layer forms its hidden
activations within one compiled kernel and never stores them. Activations are kept feature-major,
(points, features, examples).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lmc_fast.barrier.chain import Chain, LayerNormStep, LinearStep, UnitwiseStep, chain_of
from lmc_fast.barrier.first_layer import FirstLayer, affine_after, batch_norm_affine, linear_at
from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.losses import Loss, Scores, logits_of
from lmc_fast.barrier.mixing import Mixer
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.data import Batch

_CACHED_BYTES = 1 << 23
"""Activations of a slice beyond this size fall out of the processor's cache."""

_PROBED_EXAMPLES = 8


class LayeredEvaluator:
    """Evaluates points of a multilayer perceptron.

    Memory: the networks' weights once more, stacked, and then per slice of points and examples the
    first layer of all networks, two layers' activations, the points' weights and their outputs.
    Slices are made as small as ``max_memory`` asks, down to one point and one example.
    """

    def __init__(
        self,
        chain: Chain,
        points: Points,
        corrections: Sequence[Correction],
        loss: Loss,
        max_memory: int,
    ) -> None:
        self._chain = chain
        self._loss = loss
        self._count = len(points)
        self._mixer = Mixer(points, corrections)
        self._first = FirstLayer(self._mixer, chain)
        self._layers: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}
        shapes = [self._mixer.stack(f"{step.name}.weight").shape[1:] for step in chain.linears]
        size = self._first.rows.element_size()
        widths = [shape[0] for shape in shapes]
        # The kernel that feeds the head keeps hidden activations to itself.
        hidden = 0 if self._first.feeds_head else max(map(sum, pairwise(widths)))
        self._example_bytes = (hidden + widths[-1]) * size + widths[-1] * 3 * 8
        self._row_bytes = self._first.rows.shape[0] * size
        self._weight_bytes = sum(shape.numel() for shape in shapes[1:]) * size
        self._keep_weights = self._count * self._weight_bytes <= max_memory // 2
        self._room = max_memory // 2

    @property
    def chain(self) -> Chain:
        """What the model was recognised as."""
        return self._chain

    def scores(self, batch: Batch) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, block by block of the batch's examples."""
        inputs = self._chain.head(batch.inputs)
        examples, points = self._slices(inputs.shape[0])
        for start in range(0, inputs.shape[0], examples):
            block = slice(start, start + examples)
            rows = self._first.evaluated(inputs[block])
            for k in range(0, self._count, points):
                part = slice(k, min(k + points, self._count))
                outputs = self._outputs(rows, part)
                targets = None if batch.targets is None else batch.targets[block]
                yield (
                    part,
                    self._loss.score(
                        logits_of(outputs) if self._loss.stacked else list(outputs), targets
                    ),
                )

    def agrees_with(self, model: nn.Module, state: StateDict, inputs: Tensor) -> bool:
        """Return whether the first point's outputs are those of ``model`` with ``state``.

        The examples are taken in two parts, so that outputs that depend on other examples of
        their batch show.
        """
        probe = torch.cat([inputs, 1 - inputs])
        wanted = call_with(model, state, probe)
        found = torch.cat(
            [
                self._outputs(self._first.evaluated(self._chain.head(part)), slice(0, 1))[0]
                for part in (probe[:1], probe[1:])
            ]
        )
        if not isinstance(wanted, Tensor) or wanted.shape != found.shape:
            return False
        scale = float(wanted.abs().nan_to_num().max())
        return torch.allclose(found, wanted, rtol=1e-3, atol=1e-3 * scale, equal_nan=True)

    def _slices(self, batch: int) -> tuple[int, int]:
        """Return how many examples and points to treat at a time."""
        examples = self._room // (self._row_bytes + self._example_bytes)
        examples = max(1, min(batch, examples))
        point_bytes = examples * self._example_bytes
        room = min(self._room, max(_CACHED_BYTES, point_bytes))
        if not self._keep_weights:
            point_bytes += self._weight_bytes
        return examples, max(1, min(self._count, room // point_bytes))

    def _outputs(self, rows: Tensor, part: slice) -> Tensor:
        """Return the model's outputs at some points, (points, examples, ...)."""
        steps = self._chain.steps
        if self._first.feeds_head:
            value = self._first.through_head(rows, part, *self._linear(self._first.next_step, part))
            position = self._first.next_step + 1
        else:
            value = self._first.mixed(rows, part)
            position = self._first.next_step
        while position < len(steps):
            step = steps[position]
            if isinstance(step, LinearStep):
                weight, bias = self._linear(position, part)
                value = torch.baddbmm(bias[..., None], weight, value)
                position = self._chain.after_affine(position)
                continue
            if isinstance(step, UnitwiseStep):
                value = value.relu_() if step.is_relu else step.function(value)
            elif isinstance(step, LayerNormStep):
                value = self._layer_norm(step, value, part)
            else:
                scale, shift = batch_norm_affine(self._mixer, step, part)
                value = value * scale[..., None] + shift[..., None]
            position += 1
        outputs = value.transpose(1, 2)
        if self._chain.tail is None:
            return outputs
        flat: Tensor = self._chain.tail(outputs.reshape(-1, outputs.shape[2]))
        return flat.reshape(*outputs.shape[:2], *flat.shape[1:])

    def _linear(self, position: int, part: slice) -> tuple[Tensor, Tensor]:
        """Return weights and bias of a linear step, with what follows it folded in."""
        key = (position, part.start, part.stop)
        if key in self._layers:
            return self._layers[key]
        step = linear_at(self._chain, position)
        weight = self._mixer.mixed(f"{step.name}.weight", part)
        bias = (
            self._mixer.mixed(f"{step.name}.bias", part)
            if step.bias
            else weight.new_zeros(weight.shape[:2])
        )
        folded = affine_after(self._mixer, self._chain, position, part)
        if folded is not None:
            scale, shift = folded
            weight, bias = weight * scale[..., None], bias * scale + shift
        if self._keep_weights:
            self._layers[key] = weight, bias
        return weight, bias

    def _layer_norm(self, step: LayerNormStep, value: Tensor, part: slice) -> Tensor:
        variance, mean = torch.var_mean(value, dim=1, correction=0, keepdim=True)
        value = (value - mean) * torch.rsqrt(variance + step.eps)
        if step.affine:
            value = value * self._mixer.mixed(f"{step.name}.weight", part)[..., None]
        if step.bias:
            value = value + self._mixer.mixed(f"{step.name}.bias", part)[..., None]
        return value


def layered_evaluator(
    model: nn.Module,
    points: Points,
    corrections: Sequence[Correction],
    loss: Loss,
    max_memory: int,
    batch: Batch,
) -> LayeredEvaluator | None:
    """Return an evaluator for a model that is proven to be a chain on some examples, else None."""
    inputs = batch.inputs
    kinds = {t.dtype for t in points.anchors[0].values() if t.is_floating_point()}
    if (
        not isinstance(inputs, Tensor)
        or {inputs.dtype} != kinds
        or kinds not in ({torch.float32}, {torch.float64})
    ):
        return None
    chain = chain_of(model)
    if chain is None:
        return None
    evaluator = LayeredEvaluator(chain, points, corrections, loss, max_memory)
    state = points.state(0)
    if corrections:
        state = corrections[0].applied(state)
    return evaluator if evaluator.agrees_with(model, state, inputs[:_PROBED_EXAMPLES]) else None
