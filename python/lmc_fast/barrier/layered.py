"""Multilayer perceptrons layer by layer: every layer of many points at once.

The first layer is linear in the weights, so its pre-activations are computed once for each
distinct unit of the networks mixed, and those of every point are weighted sums of them. A ReLU
network runs from there to its outputs in one compiled kernel, which stores neither the weights of
a point nor its hidden activations. Inner layers of other networks run as batched matrix products,
on activations kept feature-major, (points, features, examples).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lmc_fast.barrier.chain import (
    BatchNormStep,
    Chain,
    LayerNormStep,
    LinearStep,
    Step,
    UnitwiseStep,
    chain_of,
    is_relu,
)
from lmc_fast.barrier.first_layer import FirstLayer, affine_after, batch_norm_affine, linear_at
from lmc_fast.barrier.forward import agree, call_with
from lmc_fast.barrier.losses import Loss, Scores, logits_of
from lmc_fast.barrier.memory import too_little_memory
from lmc_fast.barrier.mixing import Mixer
from lmc_fast.barrier.normalise import Correction
from lmc_fast.barrier.points import Points, StateDict
from lmc_fast.barrier.relu_network import relu_network
from lmc_fast.data import Batch

_CACHED_BYTES = 10 << 20
"""Activations of a slice beyond this size fall out of the processor's cache."""

_DEVICE_BYTES = 1 << 30
"""Of a slice on any other device: launches are to be few and large."""

_GROUP_EXAMPLES = 4096
"""Fewer leave matrix products, and threads that start and stop, below their best."""

_PROBED_EXAMPLES = 8


class LayeredEvaluator:
    """Evaluates points of a multilayer perceptron.

    Memory: the networks' layers behind the first stacked where that takes a quarter of
    ``max_memory`` at most, the points' weights kept likewise, and then per slice of points and
    examples the first layer of all networks, two layers' activations, the points' weights where
    they are not kept, and their outputs and losses. The kernel of ReLU networks takes one point's
    weights for each thread instead, on as many threads as half of ``max_memory`` allows. Slices
    are made as small as ``max_memory`` asks, down to one point and one example.
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
        first = chain.linears[0].name
        names = [n for n in points.anchors[0] if n not in (f"{first}.weight", f"{first}.bias")]
        self._mixer = Mixer(points, corrections, names, max_stack=max_memory // 4)
        self._first = FirstLayer(self._mixer, chain)
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        self._buffers: dict[str, Tensor] = {}
        self._zeroed = torch.Size()
        self._like = points.anchors[0][f"{first}.weight"]
        self._slice_bytes = _CACHED_BYTES if self._like.device.type == "cpu" else _DEVICE_BYTES
        size = self._like.element_size()
        shapes = [points.anchors[0][f"{step.name}.weight"].shape for step in chain.linears]
        widths = [shape[0] for shape in shapes]
        self._outputs_shape = (widths[-1] + chain.prepends_zero, chain.prepends_zero)
        # A step that is no ReLU takes room beside the two layers' activations.
        extra = any(not isinstance(s, LinearStep) and not _in_place(s) for s in chain.steps)
        self._network = relu_network(self._first, self._mixer, chain, max_memory // 2)
        fused = self._first.feeds_head or self._network is not None
        self._hidden = 0 if fused else max(widths[:-1]) * (2 + 2 * extra)
        self._example_bytes = self._hidden * size + self._outputs_shape[0] * (
            size * (1 if chain.tail is None else 3) + loss.bytes_per_output(self._like)
        )
        # A layer's weights are mixed beside temporaries of the same size.
        sizes = [shape.numel() * size for shape in shapes[1:]]
        self._weight_bytes = 0 if self._network else max(sizes) * 3
        kept = 0 if self._network else self._count * sum(sizes)
        self._keep_weights = kept <= max_memory // 4
        self.group_bytes = max_memory // 16
        used = self._mixer.stack_bytes + 2 * self.group_bytes + kept * self._keep_weights
        used += self._network.bytes if self._network else 0
        # What Python and libraries hold besides counts too.
        self._room = max_memory * 15 // 16 - used
        self.group_examples = _GROUP_EXAMPLES if loss.stacked else 1
        smallest = self._first.bytes_per_example + self._example_bytes + self._weight_bytes
        if smallest > self._room:
            raise too_little_memory(
                max_memory, max_memory - self._room + smallest, "one point and one example"
            )

    @property
    def chain(self) -> Chain:
        """What the model was recognised as."""
        return self._chain

    def scores(self, group: Sequence[Batch]) -> Iterator[tuple[slice, Scores]]:
        """Yield slices of points and their scores, block by block of the examples."""
        for rows, part, targets in self.blocks(group):
            outputs = self._outputs(rows, part)
            wanted = logits_of(outputs) if self._loss.stacked else list(outputs)
            yield part, self._loss.score(wanted, targets)

    def blocks(self, group: Sequence[Batch]) -> Iterator[tuple[Tensor, slice, Tensor]]:
        """Yield the first layer's rows of some examples, some points, and the examples' targets."""
        targets = torch.cat([batch.targets for batch in group if batch.targets is not None])
        inputs = [batch.inputs for batch in group]
        examples, points = self._slices(len(targets))
        for start in range(0, len(targets), examples):
            block = slice(start, min(start + examples, len(targets)))
            rows = self._first_rows(inputs, block)
            for k in range(0, self._count, points):
                yield rows, slice(k, min(k + points, self._count)), targets[block]

    def agrees_with(self, model: nn.Module, state: StateDict, inputs: Tensor) -> bool:
        """Return whether the first point's outputs are those of ``model`` with ``state``.

        The examples are taken in two parts, so that outputs that depend on other examples of
        their batch show.
        """
        probe = torch.cat([inputs, 1 - inputs])
        wanted = call_with(model, state, probe)
        found = torch.cat(
            [
                self._outputs(self._first_rows([part], slice(0, len(part))), slice(0, 1))[0].clone()
                for part in (probe[:1], probe[1:])
            ]
        )
        return isinstance(wanted, Tensor) and agree(found, wanted)

    def _slices(self, batch: int) -> tuple[int, int]:
        """Return how many examples and points to treat at a time."""
        rows, each = self._first.bytes_per_example, self._example_bytes
        room = self._room - self._weight_bytes
        # The first layer's rows take half at most: the rest serves many points at a time.
        examples = max(1, min(batch, room // (2 * rows + each)))
        if self._hidden:
            examples = min(examples, max(1, self._slice_bytes // (2 * each)))
        # Equal blocks: a short one at the end would run below its best.
        examples = -(-batch // -(-batch // examples))
        room = min(room - rows * examples, max(self._slice_bytes, each * examples))
        point_bytes = examples * each + (0 if self._keep_weights else self._weight_bytes)
        return examples, max(1, min(self._count, room // point_bytes))

    def _first_rows(self, inputs: Sequence[Tensor], block: slice) -> Tensor:
        """Return the first layer's rows for a block of the examples of successive batches."""
        rows = self._buffer("rows", self._first.rows, block.stop - block.start)
        first = -block.start
        for batch in inputs:
            low, high = max(first, 0), min(first + len(batch), rows.shape[1])
            if low < high:
                flat = self._chain.head(batch[low - first : high - first])
                self._first.evaluate(flat, rows[:, low:high])
            first += len(batch)
        return rows

    def _buffer(self, name: str, *shape: int) -> Tensor:
        """Return uninitialised memory that the next call with this name reuses."""
        size = math.prod(shape)
        held = self._buffers.get(name)
        if held is None or held.numel() < size:
            held = self._buffers[name] = self._like.new_empty(size)
        return held[:size].view(shape)

    def _outputs(self, rows: Tensor, part: slice) -> Tensor:
        """Return the model's outputs at some points, (points, examples, ...)."""
        count, examples = part.stop - part.start, rows.shape[1]
        outputs = self._buffer("outputs", count, self._outputs_shape[0], examples)
        if outputs.shape != self._zeroed:
            outputs[:, : self._outputs_shape[1]] = 0
            self._zeroed = outputs.shape
        if self._network is not None:
            self._network.evaluate(rows, part, outputs)
        else:
            weight, bias = self._linear(len(self._chain.steps) - 1, part)
            if self._first.feeds_head:
                self._first.through_head(rows, part, weight, bias, outputs)
            else:
                value = self.activations(rows, part)
                out = outputs[:, self._outputs_shape[1] :]
                torch.baddbmm(bias[..., None], weight, value, out=out)
        by_example = outputs.transpose(1, 2)
        if self._chain.tail is None:
            return by_example
        flat: Tensor = self._chain.tail(by_example.reshape(-1, by_example.shape[2]))
        return flat.reshape(*by_example.shape[:2], *flat.shape[1:])

    def activations(self, rows: Tensor, part: slice, *, rectified: bool = True) -> Tensor:
        """Return what the last linear layer takes, (points, units, examples), until the next call.

        Where not ``rectified``, a ReLU right before that layer may be left out.
        """
        steps = self._chain.steps[: -1 if rectified else -2]
        count, examples = part.stop - part.start, rows.shape[1]
        units = self._like.shape[0]
        value = self._first.mixed(rows, part, self._buffer("even", count, units, examples))
        position, free = self._first.next_step, "odd"
        while position < len(steps):
            step = steps[position]
            if isinstance(step, LinearStep):
                weight, bias = self._linear(position, part)
                out = self._buffer(free, count, weight.shape[1], examples)
                free = "odd" if free == "even" else "even"
                value = torch.baddbmm(bias[..., None], weight, value, out=out)
                position = self._chain.after_affine(position)
                continue
            if isinstance(step, UnitwiseStep):
                value = value.relu_() if step.is_relu else step.function(value)
            elif isinstance(step, LayerNormStep):
                value = self._layer_norm(step, value, part)
            else:
                scale, shift = batch_norm_affine(self._mixer, step, part)
                value.mul_(scale[..., None]).add_(shift[..., None])
            position += 1
        return value

    def head(self, part: slice) -> tuple[Tensor, Tensor]:
        """Return the output layer at some points, (points, classes, units) and (points, classes).

        The zero that the model prepends to its outputs counts as a class.
        """
        weight, bias = self._linear(len(self._chain.steps) - 1, part)
        zeros = int(self._outputs_shape[1])
        return (
            (F.pad(weight, (0, 0, zeros, 0)), F.pad(bias, (zeros, 0))) if zeros else (weight, bias)
        )

    def _linear(self, position: int, part: slice) -> tuple[Tensor, Tensor]:
        """Return weights and bias of a linear step, with what follows it folded in."""
        if not self._keep_weights:
            return self._mixed_linear(position, part)
        if position not in self._kept:
            step = max(1, self._slice_bytes // self._weight_bytes)
            for start in range(0, self._count, step):
                piece = slice(start, min(start + step, self._count))
                mixed = self._mixed_linear(position, piece)
                if start == 0:
                    kept = tuple(t.new_empty(self._count, *t.shape[1:]) for t in mixed)
                for whole, values in zip(kept, mixed, strict=True):
                    whole[piece] = values
            self._kept[position] = kept
        weight, bias = self._kept[position]
        return weight[part], bias[part]

    def _mixed_linear(self, position: int, part: slice) -> tuple[Tensor, Tensor]:
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
            weight, bias = weight.mul_(scale[..., None]), bias * scale + shift
        return weight, bias

    def _layer_norm(self, step: LayerNormStep, value: Tensor, part: slice) -> Tensor:
        variance, mean = torch.var_mean(value, dim=1, correction=0, keepdim=True)
        value = (value - mean) * torch.rsqrt(variance + step.eps)
        if step.affine:
            value = value * self._mixer.mixed(f"{step.name}.weight", part)[..., None]
        if step.bias:
            value = value + self._mixer.mixed(f"{step.name}.bias", part)[..., None]
        return value


def _in_place(step: Step) -> bool:
    return isinstance(step, BatchNormStep) or is_relu(step)


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
