"""The first layer of many points, which is linear in the weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import lmc_fast._core as _core
from lmc_fast.barrier.chain import BatchNormStep, Chain, LinearStep, is_relu
from lmc_fast.barrier.mixing import Mixer
from lmc_fast.barrier.points import StateDict

_PARALLEL_SIZE = 1 << 15
"""Elements from which torch's own operations run in parallel."""

Floats: TypeAlias = NDArray[np.float32]
Indices: TypeAlias = NDArray[np.int64]
Terms: TypeAlias = tuple[Floats, Indices, Indices, Floats, Floats | None, Floats | None]


class FirstLayer:
    """Pre-activations of the first linear layer, computed once per distinct unit.

    Networks that share units, as the permuted copies of one network do, share their rows.

    Attributes
    ----------
    rows
        How many distinct units there are.
    bytes_per_example
        What the rows of one example take, and what `mixed` takes besides its result.
    next_step
        The position of the first step of the chain that `mixed` leaves undone.
    compiled
        Whether compiled kernels serve the layer: float32 on the processor.
    feeds_head
        Whether `through_head` serves: the next step is the chain's last linear layer.
    """

    def __init__(self, mixer: Mixer, chain: Chain) -> None:
        self._mixer = mixer
        self._chain = chain
        first = chain.linears[0]
        layers = [_layer(network, first) for network in mixer.networks]
        self._layers, self._unit_rows = _distinct_units(layers)
        self.rows = sum(len(bias) for _, bias in self._layers)
        like = layers[0][0]
        self.compiled = like.dtype == torch.float32 and like.device.type == "cpu"
        self._apart = self.rows == self._unit_rows.numel() and mixer.index.shape[1] <= 2
        on_host = like.device.type == "cpu"
        # One operation, without reading indices back, for any number of points of one segment.
        self._blend = None if on_host or len(layers) > 2 else mixer.share_of_last()[:, None, None]
        by_network = 0 if self.compiled or self._blend is not None else self._unit_rows.numel()
        self.bytes_per_example = (self.rows + by_network) * like.element_size()
        self.next_step = chain.after_affine(0)
        self._relu = is_relu(chain.steps[self.next_step])
        self.next_step += self._relu
        self.feeds_head = (
            self.compiled
            and self._relu
            and isinstance(chain.steps[self.next_step], LinearStep)
            and len(chain.linears) == 2
        )

    def evaluate(self, inputs: Tensor, out: Tensor) -> None:
        """Write every distinct unit's pre-activations into ``out`` (rows, examples)."""
        start = 0
        for weight, bias in self._layers:
            part = out[start : start + len(bias)]
            torch.addmm(bias[:, None], weight, inputs.T, out=part)
            start += len(bias)

    def mixed(self, rows: Tensor, part: slice, out: Tensor) -> Tensor:
        """Return the layer's activations at some points, (points, units, examples), in ``out``."""
        if self._blend is not None:
            networks = rows.view(*self._unit_rows.shape, rows.shape[1])
            ends = networks[0].expand_as(out), networks[-1].expand_as(out)
            return self._activated(torch.lerp(*ends, self._blend[part], out=out), part)
        if self._apart and out[0].numel() > _PARALLEL_SIZE:
            # Threads of our own would wait for those of the matrix products, which spin on.
            networks = rows.view(*self._unit_rows.shape, rows.shape[1])
            shares = self._mixer.share[part, -1].tolist()
            for point, ends, share in zip(
                out, self._mixer.index[part].tolist(), shares, strict=True
            ):
                torch.lerp(networks[ends[0]], networks[ends[-1]], share, out=point)
            return self._activated(out, part)
        if self.compiled:
            _core.mixed_units(
                *self.terms(rows, part), self._relu, out.numpy(), torch.get_num_threads()
            )
            return out
        by_network = rows[self._unit_rows.to(rows.device)]
        return self._activated(out.copy_(self._mixer.weighted(by_network, part)), part)

    def _activated(self, out: Tensor, part: slice) -> Tensor:
        affine = affine_after(self._mixer, self._chain, 0, part)
        if affine is not None:
            out.mul_(affine[0][..., None]).add_(affine[1][..., None])
        return out.relu_() if self._relu else out

    def through_head(
        self, rows: Tensor, part: slice, weight: Tensor, bias: Tensor, out: Tensor
    ) -> Tensor:
        """Write the next linear layer's outputs into the last rows of ``out`` (points, rows, N)."""
        _core.mixed_relu_linear(
            *self.terms(rows, part),
            weight.contiguous().numpy(),
            bias.contiguous().numpy(),
            out.numpy(),
            torch.get_num_threads(),
        )
        return out

    def terms(self, rows: Tensor, part: slice) -> Terms:
        """Return what tells a compiled kernel the layer's activations at some points."""
        affine = affine_after(self._mixer, self._chain, 0, part)
        scale, shift = (None, None) if affine is None else affine
        return (
            rows.numpy(),
            self._unit_rows.numpy(),
            self._mixer.index[part].contiguous().numpy(),
            self._mixer.share[part].float().contiguous().numpy(),
            None if scale is None else scale.contiguous().numpy(),
            None if shift is None else shift.contiguous().numpy(),
        )


def linear_at(chain: Chain, position: int) -> LinearStep:
    """Return the linear step at a position; TypeError where another step stands."""
    step = chain.steps[position]
    if not isinstance(step, LinearStep):
        raise TypeError(f"expected a linear step at position {position}, got {step}")
    return step


def affine_after(
    mixer: Mixer, chain: Chain, position: int, part: slice
) -> tuple[Tensor, Tensor] | None:
    """Return the scale and shift (points, units) that follow a linear step: REPAIR, BatchNorm."""
    total = mixer.affine(linear_at(chain, position).name, part)
    for following in chain.steps[position + 1 : chain.after_affine(position)]:
        if not isinstance(following, BatchNormStep):
            raise TypeError(f"expected a BatchNorm behind step {position}, got {following}")
        scale, shift = batch_norm_affine(mixer, following, part)
        total = (scale, shift) if total is None else (total[0] * scale, total[1] * scale + shift)
    return total


def batch_norm_affine(mixer: Mixer, step: BatchNormStep, part: slice) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (points, units) that a BatchNorm in evaluation mode applies."""
    variance = mixer.mixed(f"{step.name}.running_var", part)
    mean = mixer.mixed(f"{step.name}.running_mean", part)
    scale = torch.rsqrt(variance + step.eps)
    if not step.affine:
        return scale, -mean * scale
    scale = scale * mixer.mixed(f"{step.name}.weight", part)
    return scale, mixer.mixed(f"{step.name}.bias", part) - mean * scale


def _layer(network: StateDict, step: LinearStep) -> tuple[Tensor, Tensor]:
    weight = network[f"{step.name}.weight"]
    bias = network[f"{step.name}.bias"] if step.bias else weight.new_zeros(len(weight))
    return weight.contiguous(), bias


def _distinct_units(
    layers: Sequence[tuple[Tensor, Tensor]],
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Return the layers without repeated units, and each network's units as rows of them.

    Two units are one where weights and bias agree bit by bit. Of two networks nothing is dropped,
    nor of three on another device, whose weights would have to be read back: the search would cost
    more than it saves. O(weights).
    """
    units = len(layers[0][1])
    rows = torch.arange(len(layers) * units).reshape(len(layers), units)
    if len(layers) < (3 if layers[0][0].device.type == "cpu" else 4):
        return list(layers), rows
    digests = np.stack([_digests(weight, bias) for weight, bias in layers])
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    # By position among all units: the first one of the same digest.
    original = torch.from_numpy(first[inverse.reshape(-1)]).reshape(rows.shape)
    for n, layer in enumerate(layers):
        for m in torch.unique(original[n] // units).tolist():
            same = original[n] // units == m
            if m != n and not _agree(layer, layers[m], same, original[n][same] % units):
                original[n][same] = rows[n][same]
    kept = original == rows
    place = (kept.flatten().cumsum(0) - 1).reshape(rows.shape)
    distinct = [
        (weight, bias) if bool(keep.all()) else (weight[keep], bias[keep])
        for (weight, bias), keep in zip(layers, kept.to(layers[0][0].device), strict=True)
        if bool(keep.any())
    ]
    return distinct, place.flatten()[original].contiguous()


def _agree(
    layer: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], units: Tensor, others: Tensor
) -> bool:
    return all(
        torch.equal(mine[units.to(mine.device)], its[others.to(its.device)])
        for mine, its in zip(layer, other, strict=True)
    )


def _digests(weight: Tensor, bias: Tensor) -> NDArray[np.uint64]:
    """Return one number per unit that equal units share."""
    table = torch.cat([weight, bias[:, None]], dim=1).cpu().numpy()
    bits = table.view(np.uint32 if table.itemsize == 4 else np.uint64).astype(np.uint64)
    odd = np.random.default_rng(0).integers(1 << 63, size=bits.shape[1], dtype=np.uint64) * 2 + 1
    return np.asarray(bits @ odd.astype(np.uint64))
