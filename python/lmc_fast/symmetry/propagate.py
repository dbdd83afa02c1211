"""Run the rules over a traced model: the factors of every tensor in it."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.node import map_arg

from lmc_fast.symmetry.factors import Cause, Factor, atoms, pin
from lmc_fast.symmetry.operation import Operation, Value, free_value
from lmc_fast.symmetry.rules import find_rule
from lmc_fast.symmetry.rules.elementwise import elementwise
from lmc_fast.symmetry.trace import Trace, source_line

INPUT = Cause("input", "the inputs of the model are fixed")
OUTPUT = Cause("output", "the outputs of the model are fixed")
CONSTANT = Cause("constant", "it meets values that the model fixes for every position")
INTEGERS = Cause("position", "its integers are indices or counts")
ROTARY = Cause(
    "constant",
    "it meets cosines and sines of positions (rotary or sinusoidal embedding), with a frequency of "
    "its own for every channel",
)

EXPANDING = ("aten.expand", "aten.expand_as", "aten.broadcast_to")
"""Operations that give even a fixed tensor an axis that may move: its copies are alike."""


@dataclass
class Propagation:
    """The factors of every tensor of a traced model.

    Attributes
    ----------
    state : dict[str, Value]
        Tensors of the state dict that the model uses; tied names share one value.
    values : list of Value
        Intermediate results.
    used : list of str
        Names of state tensors in the order of their first use.
    integers : set of str
        Names of state tensors that hold indices or counts.
    """

    state: dict[str, Value] = field(default_factory=dict)
    values: list[Value] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    integers: set[str] = field(default_factory=set)


def propagate(trace: Trace, model: nn.Module) -> Propagation:
    """Give every tensor of a traced model its factors; inputs and outputs are fixed."""
    found = Propagation()
    tensors = model.state_dict(keep_vars=True)
    first: dict[int, Value] = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            value = free_value(tensor.shape)
        else:
            # The values of indices and counts matter, not only where they stand.
            value = _held(tensor, INTEGERS)
            found.integers.add(name)
        found.state[name] = first.setdefault(id(tensor), value)
    inputs: list[Any] = []
    for node in trace.graph.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in trace.state:
            inputs.append(found.state[trace.state[node.name]])
        elif node.name in trace.constants:
            inputs.append(_constant(trace.constants[node.name]))
        else:
            inputs.append(_fixed_results(node.meta.get("val"), INPUT))
    for value in _tensors(_run(trace.graph, inputs, found)):
        for axis in value.axes:
            pin(axis, OUTPUT)
    unused = {id(value) for value in found.state.values()} - {
        id(found.state[name]) for name in found.used
    }
    found.state = {name: v for name, v in found.state.items() if id(v) not in unused}
    return found


def _constant(tensor: Tensor) -> Value:
    """Fix the axes along which the values of a constant differ."""
    axes = []
    for d, n in enumerate(tensor.shape):
        varies = n > 1 and bool((tensor != tensor.narrow(d, 0, 1)).any())
        axes.append((Factor(n, pinned=CONSTANT if varies else None),) if n != 1 else ())
    return Value(tuple(axes))


def _held(tensor: Tensor, cause: Cause) -> Value:
    return Value(tuple((Factor(n, pinned=cause),) if n != 1 else () for n in tensor.shape))


def _fixed_results(result: Any, cause: Cause) -> Any:
    """Replace the tensors of a traced result by values that nothing moves; keep the rest."""
    if isinstance(result, Tensor):
        return _held(result, cause)
    if isinstance(result, (list, tuple)):
        return [_fixed_results(item, cause) for item in result]
    return result


def _tensors(result: Any) -> list[Value]:
    if isinstance(result, Value):
        return [result]
    if isinstance(result, (list, tuple)):
        return [value for item in result for value in _tensors(item)]
    return []


def _run(graph: torch.fx.GraphModule, inputs: Sequence[Any], found: Propagation) -> Any:
    """Interpret a graph on factors; its results are returned."""
    environment: dict[torch.fx.Node, Any] = {}
    names = {id(value): name for name, value in reversed(found.state.items())}
    waiting = iter(inputs)
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            environment[node] = next(waiting)
        elif node.op == "get_attr":
            attribute = operator.attrgetter(str(node.target))(graph)
            environment[node] = _constant(attribute) if isinstance(attribute, Tensor) else attribute
        elif node.op == "output":
            return map_arg(node.args[0], environment.__getitem__)
        else:
            for value in _tensors([environment[n] for n in node.all_input_nodes]):
                name = names.get(id(value))
                if name is not None and name not in found.used:
                    found.used.append(name)
            environment[node] = _call(node, environment, found)
    return None


def _call(node: torch.fx.Node, environment: Mapping[torch.fx.Node, Any], found: Propagation) -> Any:
    args: Any = map_arg(node.args, environment.__getitem__)
    kwargs: Any = map_arg(node.kwargs, environment.__getitem__)
    if node.target is operator.getitem:
        return args[0][args[1]]
    at = [i for i, a in enumerate(args) if isinstance(a, torch.fx.GraphModule)]
    if isinstance(node.target, torch._ops.HigherOrderOperator) and len(at) == 1:
        return _run(args[at[0]], args[at[0] + 1 :], found)
    traced = node.meta.get("val")
    if not isinstance(traced, (Tensor, list, tuple)):
        return traced
    operation = _operation(node, args, kwargs, traced)
    tensors = operation.tensors
    held = bool(tensors) and all(value.is_fixed for value in tensors)
    if held and operation.name not in EXPANDING:
        causes = {f.pinned for v in tensors for axis in v.axes for f in atoms(axis)}
        if ROTARY in causes or operation.name in ("aten.cos", "aten.sin"):
            cause = ROTARY
        else:
            cause = CONSTANT if causes <= {CONSTANT} else INPUT
        result = _fixed_results(traced, cause)
    else:
        result = _apply_rule(node, operation, traced)
    found.values.extend(_tensors(result))
    return result


def _operation(
    node: torch.fx.Node, args: Sequence[Any], kwargs: Mapping[str, Any], traced: Any
) -> Operation:
    results = traced if isinstance(traced, (list, tuple)) else [traced]
    shapes = tuple(tuple(r.shape) for r in results if isinstance(r, Tensor))
    if not isinstance(node.target, torch._ops.OpOverload):
        arguments = {str(i): a for i, a in enumerate(args)} | dict(kwargs)
        return Operation(str(node.target), arguments, shapes, source_line(node))
    schema = node.target._schema
    bound = {
        a.name: args[i] if i < len(args) else kwargs.get(a.name, a.default_value)
        for i, a in enumerate(schema.arguments)
    }
    return Operation(schema.name.replace("::", "."), bound, shapes, source_line(node))


def _apply_rule(node: torch.fx.Node, operation: Operation, traced: Any) -> Any:
    rule = find_rule(operation.name) or (elementwise if _is_pointwise(node.target) else None)
    if rule is None:
        if not operation.tensors:
            return _fixed_results(traced, CONSTANT)
        reason = "no rule is registered for this operation"
    else:
        try:
            result = rule(operation)
            shapes = tuple(value.shape for value in _tensors(result))
            if shapes == operation.shapes:
                return result
            reason = f"its rule gave the shapes {shapes}, the operation {operation.shapes}"
        except NotImplementedError as error:
            reason = f"no rule for this use: {error}"
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"its rule failed with {type(error).__name__}: {error}"
    for value in operation.tensors:
        operation.pin(value.axes, reason)
    return _fixed_results(traced, operation.cause(reason))


def _is_pointwise(target: Any) -> bool:
    """Tell whether torch tags an operation, or its variant that is not in place, as pointwise."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    if torch.Tag.pointwise in target.tags:
        return True
    namespace, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    return packet is not None and any(
        torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads()
    )
