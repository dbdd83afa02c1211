"""Statistics of a network's units over a whole data set, and which layers have them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.points import StateDict


@dataclass(frozen=True)
class Layer:
    """A layer to normalise: BatchNorm by its input, a rescaled layer by its output.

    Attributes
    ----------
    source
        The linear or convolutional module whose output that tensor is, if it is one's.
    """

    name: str
    module: nn.Module
    rescaled: bool
    source: nn.Module | None = None

    @property
    def axis(self) -> int:
        """The axis of the units in the tensor whose moments matter."""
        return -1 if isinstance(self.module, nn.Linear) else 1


@dataclass(frozen=True)
class Moments:
    """Count, mean and population variance of each unit, in float64."""

    count: int
    mean: Tensor
    variance: Tensor

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both samples together."""
        count = self.count + other.count
        share = other.count / count
        delta = other.mean - self.mean
        spread = share * (1 - share) * delta.square()
        return Moments(
            count,
            self.mean + share * delta,
            (1 - share) * self.variance + share * other.variance + spread,
        )


def unit_moments(value: Tensor, axis: int) -> Moments:
    """Return the moments of each unit along ``axis``, over all other axes."""
    value = value.detach()
    if axis == 1 and value.dim() > 2 and value.is_contiguous():
        # Several times faster than a reduction over two separate groups of axes.
        mean, variance = torch.batch_norm_update_stats(value, None, None, 0.0)
        return Moments(value.numel() // value.shape[1], mean.double(), variance.double())
    rows = value.movedim(axis, 0).flatten(1)
    variance, mean = torch.var_mean(rows, dim=1, correction=0)
    return Moments(rows.shape[1], mean.double(), variance.double())


def layers_to_normalise(
    model: nn.Module, state: StateDict, inputs: Any, *, rescale: bool
) -> list[Layer]:
    """Return the layers to normalise in the order they run.

    BatchNorm layers with running statistics; with ``rescale`` also the linear and convolutional
    layers that no BatchNorm follows, save the last one, which is the network's output.
    """
    ran: list[tuple[str, nn.Module, Tensor]] = []
    normalised: set[int] = set()

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(module, _BatchNorm):
                normalised.add(id(args[0]))
                if module.track_running_stats:
                    ran.append((name, module, args[0]))
            elif isinstance(module, (nn.Linear, _ConvNd)):
                ran.append((name, module, output))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    with removing(handles):
        call_with(model, state, inputs)
    mapping = [name for name, module, _ in ran if not isinstance(module, _BatchNorm)]
    # Held in `ran`, the tensors keep their identities.
    makers = {id(t): module for _, module, t in ran if not isinstance(module, _BatchNorm)}
    layers: list[Layer] = []
    for name, module, tensor in ran:
        rescaled = not isinstance(module, _BatchNorm)
        if rescaled and (not rescale or id(tensor) in normalised or name == mapping[-1]):
            continue
        if any(layer.name == name for layer in layers):
            raise ValueError(f"normalisation cannot treat {name}: it runs more than once")
        if rescaled and module.bias is None:
            raise ValueError(
                f'norm="repair" cannot fold its shift into {name}: give that layer a bias'
            )
        layers.append(Layer(name, module, rescaled, makers.get(id(tensor))))
    return layers


def output_moments(
    model: nn.Module, state: StateDict, inputs: Sequence[Any], layers: Sequence[Layer]
) -> dict[str, Moments]:
    """Return the moments of the layers' outputs in one network, in one pass over ``inputs``."""
    found: dict[str, Moments] = {}

    def record(layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            _merge(found, layer, output)

        return hook

    if layers:
        with removing([x.module.register_forward_hook(record(x)) for x in layers]):
            for part in inputs:
                call_with(model, state, part)
    return found


def moments_up_to(
    model: nn.Module, state: StateDict, inputs: Sequence[Any], layer: Layer
) -> Moments:
    """Return one layer's moments, running each part of ``inputs`` no further than that layer."""
    found: dict[str, Moments] = {}

    def before(module: nn.Module, args: Any) -> None:
        _merge(found, layer, args[0])
        raise ReachedError

    def after(module: nn.Module, args: Any, output: Any) -> None:
        _merge(found, layer, output)
        raise ReachedError

    module = layer.module
    handle = (
        module.register_forward_hook(after)
        if layer.rescaled
        else module.register_forward_pre_hook(before)
    )
    with removing([handle]):
        for part in inputs:
            with suppress(ReachedError):
                call_with(model, state, part)
    return found[layer.name]


@contextmanager
def removing(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class ReachedError(Exception):
    """Ends a forward pass at the layer that was to be recorded."""


def _merge(found: dict[str, Moments], layer: Layer, value: Tensor) -> None:
    new = unit_moments(value, layer.axis)
    found[layer.name] = found[layer.name].merged(new) if layer.name in found else new
