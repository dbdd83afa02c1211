"""A key that models of the same architecture share."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

_SIMPLE = (int, float, str, type(None))


def architecture_key(model: nn.Module, example_inputs: Any) -> tuple[Any, ...]:
    """Return a hashable key: what the derived spec of a model depends on.

    Parameters
    ----------
    model : torch.nn.Module
        Types and simple attributes of its modules, names, shapes and ties of its tensors count;
        values, mode and device do not.
    example_inputs : Tensor, tuple or dict
        Shapes and dtypes count.
    """
    seen: dict[int, int] = {}
    parts: list[Any] = []
    for name, module in model.named_modules(remove_duplicate=False):
        attributes = [
            (k, _plain(v, seen))
            for k, v in module.__dict__.items()
            if k[0] != "_" and k != "training" and not isinstance(v, Tensor)
        ]
        tensors = [
            (k, seen.setdefault(id(t), len(seen)), t.shape, t.is_floating_point())
            for k, t in (*module._parameters.items(), *module._buffers.items())
            if t is not None
        ]
        parts.append((name, type(module), tuple(attributes), tuple(tensors)))
    return (tuple(parts), _signature(example_inputs))


def _plain(value: Any, seen: dict[int, int]) -> Any:
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v, seen) for v in value)
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
        return value
    if isinstance(value, nn.Module) or id(value) in seen:
        return type(value)
    seen[id(value)] = len(seen)
    inside = getattr(value, "__dict__", {})
    return (
        type(value),
        tuple((k, v) for k, v in inside.items() if isinstance(v, _SIMPLE)),
    )


def _signature(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return (tuple(inputs.shape), inputs.dtype)
    if isinstance(inputs, Mapping):
        return tuple((k, _signature(v)) for k, v in inputs.items())
    if isinstance(inputs, (tuple, list)):
        return tuple(_signature(v) for v in inputs)
    return inputs if isinstance(inputs, _SIMPLE) else type(inputs)
