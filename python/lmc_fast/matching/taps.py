"""Where in a model the activations of every group can be read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmc_fast.matching.places import Place
from lmc_fast.matching.structured import families_of
from lmc_fast.spec import PermutationSpec

_LINEAR = (nn.Linear,)
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNEL_NORM = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.InstanceNorm2d)
_LAST_AXIS = (nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Tap:
    """A module's input or output that carries the units of one place of the spec.

    Attributes
    ----------
    module : str
        Path of the module.
    is_input : bool
        Whether the module's input is read, or its output.
    channel : int
        Axis of the activation with the units: 1 or -1.
    place : Place
        The factor of that axis, by the axis of the module's weight that equals it.
    """

    module: str
    is_input: bool
    channel: int
    place: Place
    factors: tuple[int, ...]
    """Factors of the axis that are the units: the place's own, or an outer and its inner groups."""

    def groups(self, spec: PermutationSpec) -> tuple[str, ...]:
        """Names of the groups of the units."""
        segment = spec.tensors[self.place.tensor][self.place.axis].segments[self.place.segment]
        return tuple(str(segment[f]) for f in self.factors)


def find_taps(spec: PermutationSpec, model: nn.Module) -> dict[str, tuple[Tap, ...]]:
    """List the taps of every group: inputs of the modules that consume it, else outputs.

    What a consumer reads is the activation after the nonlinearity, which is what the field
    matches on (REPAIR, Jordan 2022). A group that no module consumes is read where it is produced.
    Groups nested in another are listed under it, with the units of all of them at once.
    """
    consumers: dict[str, list[Tap]] = {name: [] for name in spec.groups}
    producers: dict[str, list[Tap]] = {name: [] for name in spec.groups}
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if name not in spec.tensors:
            continue
        for axis, is_input, channel in _axes_of(module):
            for s, segment in enumerate(spec.tensors[name][axis].segments):
                for f, factor in enumerate(segment):
                    if isinstance(factor, str):
                        place = Place(name, factor, axis, s, f)
                        tap = Tap(path, is_input, channel, place, (f,))
                        (consumers if is_input else producers)[factor].append(tap)
    families = families_of(spec)
    found = {
        name: tuple(consumers[name] or producers[name])
        for name in spec.groups
        if name not in spec.parents and name not in families
    }
    for outer, inner in families.items():
        joint = (
            _with_outer(spec, tap, outer)
            for name in inner
            for tap in consumers[name] or producers[name]
        )
        found[outer] = tuple(dict.fromkeys(tap for tap in joint if tap is not None))
    return found


def _with_outer(spec: PermutationSpec, tap: Tap, outer: str) -> Tap | None:
    """Extend a tap of an inner group to its outer group and up to one more inner group."""
    place = tap.place
    segment = spec.tensors[place.tensor][place.axis].segments[place.segment]
    if outer not in segment:
        return None
    nested = [f for f, g in enumerate(segment) if spec.parents.get(str(g)) == outer][:2]
    at = segment.index(outer)
    shared = Place(place.tensor, outer, place.axis, place.segment, at)
    return Tap(tap.module, tap.is_input, tap.channel, shared, (at, *nested))


def _axes_of(module: nn.Module) -> list[tuple[int, bool, int]]:
    """(axis of the weight, whether it is the module's input, axis of the activation)."""
    if isinstance(module, _LINEAR):
        return [(1, True, -1), (0, False, -1)]
    if isinstance(module, _CONV):
        return [(1, True, 1), (0, False, 1)] if module.groups == 1 else [(0, False, 1)]
    if isinstance(module, _TRANSPOSED):
        return [(0, True, 1), (1, False, 1)] if module.groups == 1 else [(0, True, 1)]
    if isinstance(module, _CHANNEL_NORM):
        return [(0, False, 1)]
    if isinstance(module, _LAST_AXIS):
        return [(0, False, -1)] if len(module.normalized_shape) == 1 else []
    if isinstance(module, nn.Embedding):
        return [(1, False, -1)]
    if type(module).__name__ == "Conv1D":  # transformers' linear layer with a transposed weight
        return [(0, True, -1), (1, False, -1)]
    return []


@contextmanager
def captured(model: nn.Module, taps: Mapping[str, tuple[Tap, ...]]) -> Iterator[dict[Any, Tensor]]:
    """Collect the tapped activations of every forward pass made inside the context.

    The keys of the yielded dict are ``(module, is_input)``; a later call overwrites an earlier one.
    """
    seen: dict[Any, Tensor] = {}
    modules = dict(model.named_modules())
    handles = []
    for path, is_input in {(t.module, t.is_input) for entries in taps.values() for t in entries}:
        key = (path, is_input)
        if is_input:

            def read_input(_: nn.Module, args: tuple[Any, ...], key: Any = key) -> None:
                seen[key] = args[0]

            handles.append(modules[path].register_forward_pre_hook(read_input))
        else:

            def read_output(_: nn.Module, __: Any, output: Any, key: Any = key) -> None:
                seen[key] = output

            handles.append(modules[path].register_forward_hook(read_output))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def units_of(spec: PermutationSpec, tap: Tap, activation: Tensor) -> Tensor:
    """Bring the units of a tap to axis 1: shape (n, units, positions...)."""
    terms = spec.tensors[tap.place.tensor]
    axis = tap.channel % activation.ndim
    segments = terms[tap.place.axis].segments
    sizes = [spec.factor_sizes(segment) for segment in segments]
    if len(segments) > 1:
        lengths = [math.prod(s) for s in sizes]
        start = sum(lengths[: tap.place.segment])
        activation = activation.narrow(axis, start, lengths[tap.place.segment])
    factors = sizes[tap.place.segment]
    activation = torch.unflatten(activation, axis, factors) if len(factors) > 1 else activation
    if axis == 0:  # a single unbatched sample
        activation = activation.unsqueeze(0)
        axis = 1
    dims = [axis + f for f in tap.factors]
    return activation.movedim(dims, list(range(1, 1 + len(dims)))).flatten(1, len(dims))
