"""The first layer of many points, which is linear in the weights."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import lmc_fast._core as _core
from lmc_fast.barrier.chain import BatchNormStep, Chain, LinearStep, UnitwiseStep
from lmc_fast.barrier.mixing import Mixer

_Floats: TypeAlias = NDArray[np.float32]
_Indices: TypeAlias = NDArray[np.int64]
_Terms: TypeAlias = tuple[_Floats, _Indices, _Indices, _Floats, _Floats | None, _Floats | None]


class FirstLayer:
    """Pre-activations of the first linear layer, computed once per distinct unit.

    Networks that share units, as the permuted copies of one network do, share their rows.

    Attributes
    ----------
    rows
        Shape (units, features): the weights of every distinct unit.
    next_step
        The position of the first step of the chain that `mixed` leaves undone.
    feeds_head
        Whether `through_head` serves: the next step is the chain's last linear layer.
    """

    def __init__(self, mixer: Mixer, chain: Chain) -> None:
        self._mixer = mixer
        self._chain = chain
        first = chain.linears[0]
        weight = mixer.stack(f"{first.name}.weight")
        bias = (
            mixer.stack(f"{first.name}.bias") if first.bias else weight.new_zeros(weight.shape[:2])
        )
        kept, self._unit_rows = _distinct_rows(weight, bias)
        self.rows = weight.flatten(0, 1)[kept]
        self._bias = bias.flatten()[kept]
        self._compiled = self.rows.dtype == torch.float32 and self.rows.device.type == "cpu"
        self.next_step = chain.after_affine(0)
        following = chain.steps[self.next_step]
        self._relu = isinstance(following, UnitwiseStep) and following.is_relu
        self.next_step += self._relu
        self.feeds_head = (
            self._compiled
            and self._relu
            and isinstance(chain.steps[self.next_step], LinearStep)
            and len(chain.linears) == 2
        )

    def evaluated(self, inputs: Tensor) -> Tensor:
        """Return every distinct unit's pre-activations (units, examples)."""
        return torch.addmm(self._bias[:, None], self.rows, inputs.T)

    def mixed(self, rows: Tensor, part: slice) -> Tensor:
        """Return the layer's activations at some points, (points, units, examples)."""
        if self._compiled:
            out = rows.new_empty(part.stop - part.start, self._unit_rows.shape[1], rows.shape[1])
            _core.mixed_units(
                *self._terms(rows, part), self._relu, out.numpy(), torch.get_num_threads()
            )
            return out
        by_network = rows[self._unit_rows.to(rows.device)]
        value = self._mixer.weighted(by_network, part)
        affine = affine_after(self._mixer, self._chain, 0, part)
        if affine is not None:
            value = value * affine[0][..., None] + affine[1][..., None]
        return value.relu_() if self._relu else value

    def through_head(self, rows: Tensor, part: slice, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the outputs (points, outputs, examples) of the linear layer that comes next."""
        out = rows.new_empty(*bias.shape, rows.shape[1])
        _core.mixed_relu_linear(
            *self._terms(rows, part),
            weight.contiguous().numpy(),
            bias.contiguous().numpy(),
            out.numpy(),
            torch.get_num_threads(),
        )
        return out

    def _terms(self, rows: Tensor, part: slice) -> _Terms:
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


def _distinct_rows(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return one position of every distinct unit among (networks, units), and each one's row."""
    table = torch.cat([weight, bias[..., None]], dim=2).flatten(0, 1).cpu().contiguous().numpy()
    _, kept, inverse = np.unique(
        table.view(np.dtype((np.void, table.itemsize * table.shape[1]))),
        return_index=True,
        return_inverse=True,
    )
    # In the order of first appearance, so that one network's units stay together.
    order = np.argsort(kept)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    rows = torch.from_numpy(place[inverse.reshape(-1)]).reshape(weight.shape[:2])
    return torch.from_numpy(kept[order]).to(weight.device), rows.contiguous()
