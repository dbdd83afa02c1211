"""Where in a model the activations of every group can be read."""

from __future__ import annotations

import copy
import math
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lmc_fast.matching.places import Place
from lmc_fast.matching.structured import families_of
from lmc_fast.spec import PermutationSpec

_LINEAR = (nn.Linear,)
_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNEL_NORM = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.InstanceNorm2d)
_LAST_AXIS = (nn.LayerNorm, nn.RMSNorm)
_PROJECTED = ("query", "key", "value")


@dataclass(frozen=True)
class Reading:
    """An activation that carries the units of one axis of a module's weight.

    Attributes
    ----------
    source : str
        What is read of the module: "input", "output", or of `nn.MultiheadAttention` the projected
        "query", "key" or "value", or "context", which its output projection reads.
    weight : str
        Name of the weight within the module.
    axis : int
        Axis of the weight.
    channel : int
        Axis of the activation with the same units: 1 or -1.
    start, stop : int
        Which part of the axis of the weight the activation carries.
    """

    source: str
    weight: str
    axis: int
    channel: int
    start: int = 0
    stop: int = sys.maxsize

    @property
    def is_consumed(self) -> bool:
        """Whether the module takes the activation in, or gives it out."""
        return self.source in ("input", "context")


@dataclass(frozen=True)
class Tap:
    """A reading of a module that carries the units of one place of the spec.

    Attributes
    ----------
    module : str
        Path of the module.
    reading : Reading
        What is read of it.
    place : Place
        The factor of the axis that is the units, or the outermost of them.
    factors : tuple of int
        Factors of the axis that are the units: the place's own, or an outer and its inner groups.
    """

    module: str
    reading: Reading
    place: Place
    factors: tuple[int, ...]

    @property
    def key(self) -> tuple[str, str]:
        """Where `captured` puts the activation."""
        return self.module, self.reading.source

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
    for path, reading in _readings(model):
        name = f"{path}.{reading.weight}" if path else reading.weight
        if name not in spec.tensors:
            continue
        end = 0
        for s, segment in enumerate(spec.tensors[name][reading.axis].segments):
            start, end = end, end + math.prod(spec.factor_sizes(segment))
            if start < reading.start or end > reading.stop:
                continue
            for f, factor in enumerate(segment):
                if isinstance(factor, str):
                    tap = Tap(path, reading, Place(name, factor, reading.axis, s, f), (f,))
                    (consumers if reading.is_consumed else producers)[factor].append(tap)
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
    return Tap(tap.module, tap.reading, shared, (at, *nested))


def _readings(model: nn.Module) -> Iterator[tuple[str, Reading]]:
    """List what can be read of every module, by its path."""
    projected: set[nn.Module] = set()
    for path, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            # It multiplies by the weight of this layer without ever calling the layer.
            projected.add(module.out_proj)
            yield from ((path, reading) for reading in _readings_of_attention(module))
        elif module not in projected:
            yield from ((path, reading) for reading in _readings_of(module))


def _readings_of_attention(module: nn.MultiheadAttention) -> Iterator[Reading]:
    for i, source in enumerate(_PROJECTED):
        if module.in_proj_weight is not None:
            width = module.embed_dim
            yield Reading(source, "in_proj_weight", 0, -1, i * width, (i + 1) * width)
        else:
            yield Reading(source, f"{source[0]}_proj_weight", 0, -1)
    yield Reading("context", "out_proj.weight", 1, -1)


def _readings_of(module: nn.Module) -> list[Reading]:
    taken: tuple[int, int] | None = None
    given: tuple[int, int] | None = None
    if isinstance(module, _LINEAR):
        taken, given = (1, -1), (0, -1)
    elif isinstance(module, _CONV):
        taken, given = (1, 1) if module.groups == 1 else None, (0, 1)
    elif isinstance(module, _TRANSPOSED):
        taken, given = (0, 1), (1, 1) if module.groups == 1 else None
    elif isinstance(module, _CHANNEL_NORM):
        given = (0, 1)
    elif isinstance(module, _LAST_AXIS):
        given = (0, -1) if len(module.normalized_shape) == 1 else None
    elif isinstance(module, nn.Embedding):
        given = (1, -1)
    elif type(module).__name__ == "Conv1D":  # transformers' linear layer with a transposed weight
        taken, given = (0, -1), (1, -1)
    return [
        Reading(source, "weight", *axes)
        for source, axes in (("input", taken), ("output", given))
        if axes is not None
    ]


@contextmanager
def captured(
    model: nn.Module, taps: Mapping[str, tuple[Tap, ...]]
) -> Iterator[dict[tuple[str, str], Tensor]]:
    """Collect the tapped activations of every forward pass made inside the context.

    The keys of the yielded dict are those of the taps; a later call overwrites an earlier one.
    """
    seen: dict[tuple[str, str], Tensor] = {}
    sources: dict[str, set[str]] = {}
    for tap in (tap for entries in taps.values() for tap in entries):
        sources.setdefault(tap.module, set()).add(tap.reading.source)
    modules = dict(model.named_modules())
    handles = []
    for path, wanted in sources.items():
        module = modules[path]

        def read(
            module: nn.Module,
            args: tuple[Any, ...],
            kwargs: dict[str, Any],
            output: Any,
            path: str = path,
            wanted: set[str] = wanted,
        ) -> None:
            for source in wanted:
                seen[path, source] = _read(module, source, args, kwargs, output)

        handles.append(module.register_forward_hook(read, with_kwargs=True))
    uncalled = {
        id(modules[path].weight): (path, wanted)
        for path, wanted in sources.items()
        if isinstance(modules[path], _LINEAR)
    }
    try:
        with _LinearCalls(uncalled, seen):
            yield seen
    finally:
        for handle in handles:
            handle.remove()


class _LinearCalls(TorchFunctionMode):
    """Read linear layers whose weight a model uses without calling the layer."""

    def __init__(
        self,
        wanted: Mapping[int, tuple[str, set[str]]],
        seen: dict[tuple[str, str], Tensor],
    ) -> None:
        super().__init__()
        self.wanted = wanted
        self.seen = seen

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is nn.functional.linear and len(args) > 1 and id(args[1]) in self.wanted:
            path, sources = self.wanted[id(args[1])]
            for source in sources:
                self.seen[path, source] = output if source == "output" else args[0]
        return output


def _read(
    module: nn.Module, source: str, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Tensor:
    if isinstance(module, nn.MultiheadAttention):
        return _read_attention(module, source, args, kwargs)
    result: Tensor = output if source == "output" else (*args, *kwargs.values())[0]
    return result


def _read_attention(
    module: nn.MultiheadAttention, source: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Compute what the fused attention keeps to itself from what it was called with."""
    if source == "context":
        weight = module.out_proj.weight
        identity = {"out_proj.weight": torch.eye(len(weight)).to(weight)}
        if module.out_proj.bias is not None:
            identity["out_proj.bias"] = torch.zeros_like(module.out_proj.bias)
        tensors = {**dict(module.named_parameters()), **identity}
        bare = copy.copy(module)
        bare._forward_hooks = OrderedDict()
        context: Tensor = torch.func.functional_call(bare, tensors, args, kwargs, strict=True)[0]
        return context
    at = _PROJECTED.index(source)
    given: Tensor = kwargs[source] if source in kwargs else args[at]
    rows = slice(at * module.embed_dim, (at + 1) * module.embed_dim)
    bias = None if module.in_proj_bias is None else module.in_proj_bias[rows]
    if module.in_proj_weight is not None:
        return nn.functional.linear(given, module.in_proj_weight[rows], bias)
    return nn.functional.linear(given, getattr(module, f"{source[0]}_proj_weight"), bias)


def units_of(spec: PermutationSpec, tap: Tap, activation: Tensor) -> Tensor:
    """Bring the units of a tap to axis 1: shape (n, units, positions...)."""
    terms = spec.tensors[tap.place.tensor]
    axis = tap.reading.channel % activation.ndim
    segments = terms[tap.place.axis].segments
    sizes = [spec.factor_sizes(segment) for segment in segments]
    if len(segments) > 1:
        lengths = [math.prod(s) for s in sizes]
        start = sum(lengths[: tap.place.segment]) - tap.reading.start
        activation = activation.narrow(axis, start, lengths[tap.place.segment])
    factors = sizes[tap.place.segment]
    activation = torch.unflatten(activation, axis, factors) if len(factors) > 1 else activation
    if axis == 0:  # a single unbatched sample
        activation = activation.unsqueeze(0)
        axis = 1
    dims = [axis + f for f in tap.factors]
    return activation.movedim(dims, list(range(1, 1 + len(dims)))).flatten(1, len(dims))
