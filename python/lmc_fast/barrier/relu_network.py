"""ReLU networks on the processor: every layer behind the first in one compiled kernel.

Each thread takes some examples at one point through all layers: weights are mixed while they are
packed, activations stay in the cache, and units that are zero for an example are skipped.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

import lmc_fast._core as _core
from lmc_fast.barrier.chain import Chain, LinearStep, is_relu
from lmc_fast.barrier.first_layer import FirstLayer, Floats, affine_after
from lmc_fast.barrier.mixing import Mixer


class ReluNetwork:
    """The layers behind the first of a network whose hidden layers all end in a ReLU.

    Attributes
    ----------
    bytes
        What the threads take besides what they are given.
    """

    def __init__(self, first: FirstLayer, mixer: Mixer, chain: Chain, max_bytes: int) -> None:
        self._first = first
        self._mixer = mixer
        self._chain = chain
        each = _core.relu_network_bytes(
            [len(mixer.networks[0][f"{step.name}.weight"]) for step in chain.linears]
        )
        self._threads = min(torch.get_num_threads(), max_bytes // each)
        self.bytes = self._threads * each
        self._positions = _linear_positions(chain)[1:]
        self._weights = [self._tensors(f"{s.name}.weight") for s in chain.linears[1:]]
        self._biases = [
            self._tensors(f"{s.name}.bias") if s.bias else [] for s in chain.linears[1:]
        ]

    def evaluate(self, rows: Tensor, part: slice, out: Tensor) -> Tensor:
        """Write the last layer's outputs into the last rows of ``out`` (points, rows, examples)."""
        layers = []
        for position, weights, biases in zip(
            self._positions, self._weights, self._biases, strict=True
        ):
            affine = affine_after(self._mixer, self._chain, position, part)
            scale, shift = (None, None) if affine is None else affine
            layers.append((weights, biases, _array(scale), _array(shift)))
        _core.mixed_relu_network(
            *self._first.terms(rows, part),
            layers,
            out.numpy(),
            _core.best_instruction_set,
            self._threads,
        )
        return out

    def _tensors(self, name: str) -> list[Floats]:
        return [network[name].contiguous().numpy() for network in self._mixer.networks]


def relu_network(
    first: FirstLayer, mixer: Mixer, chain: Chain, max_bytes: int
) -> ReluNetwork | None:
    """Return the layers behind the first, or None where the kernel does not serve them.

    That is also where it takes more than ``max_bytes`` on one thread.
    """
    if not first.compiled or len(chain.linears) < 3 or not _alternates(chain):
        return None
    network = ReluNetwork(first, mixer, chain, max_bytes)
    return network if network.bytes else None


def _alternates(chain: Chain) -> bool:
    """Return whether a ReLU, and nothing else, stands between every two linear layers."""
    positions = _linear_positions(chain)
    return all(
        chain.after_affine(position) == following - 1 and is_relu(chain.steps[following - 1])
        for position, following in pairwise(positions)
    )


def _linear_positions(chain: Chain) -> list[int]:
    return [k for k, step in enumerate(chain.steps) if isinstance(step, LinearStep)]


def _array(values: Tensor | None) -> Floats | None:
    return None if values is None else values.contiguous().numpy()
