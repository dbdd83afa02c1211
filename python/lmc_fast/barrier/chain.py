"""Recognising multilayer perceptrons: a chain of linear layers with unit-wise steps between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from lmc_fast.symmetry.architecture import architecture_key
from lmc_fast.symmetry.remember import remember


@dataclass(frozen=True)
class LinearStep:
    """A linear layer: the name of its module, and whether it has a bias."""

    name: str
    bias: bool


@dataclass(frozen=True)
class UnitwiseStep:
    """A function applied to every unit's activation by itself."""

    function: Callable[[Tensor], Tensor]
    is_relu: bool


@dataclass(frozen=True)
class BatchNormStep:
    """A BatchNorm1d in evaluation mode."""

    name: str
    eps: float
    affine: bool


@dataclass(frozen=True)
class LayerNormStep:
    """A LayerNorm over all units of a layer."""

    name: str
    eps: float
    affine: bool
    bias: bool


Step: TypeAlias = LinearStep | UnitwiseStep | BatchNormStep | LayerNormStep


@dataclass(frozen=True)
class Chain:
    """A multilayer perceptron.

    Attributes
    ----------
    head
        From the model's input to the first linear layer's (N, features); no parameters.
    steps
        From the first linear layer to the last, both included.
    tail
        From the last linear layer's output (N, features) to the model's; no parameters. None
        where that is the output.
    prepends_zero
        Whether the output is that of the last linear layer behind a zero (one logit as two); then
        there is no tail.
    """

    head: Callable[[Any], Tensor]
    steps: tuple[Step, ...]
    tail: Callable[[Tensor], Any] | None
    prepends_zero: bool = False

    @property
    def linears(self) -> tuple[LinearStep, ...]:
        """The linear steps, in order."""
        return tuple(step for step in self.steps if isinstance(step, LinearStep))

    def after_affine(self, position: int) -> int:
        """Return the first position after a linear step and the BatchNorms right behind it."""
        position += 1
        while position < len(self.steps) and isinstance(self.steps[position], BatchNormStep):
            position += 1
        return position


def is_relu(step: Step) -> bool:
    """Return whether a step is the ReLU of every unit."""
    return isinstance(step, UnitwiseStep) and step.is_relu


def chain_of(model: nn.Module) -> Chain | None:
    """Return the model as a chain, or None where it is none that can be recognised.

    The model must be in evaluation mode. Hooks, subclasses and parametrisations of layers have
    behaviour that a chain would miss, so a model that holds any is none. An architecture is traced
    once; whoever uses the chain proves it on the model at hand.
    """
    leaves = [module for module in model.modules() if not list(module.children())]
    if any(type(module) not in _LEAVES and _has_tensors(module) for module in leaves):
        return None
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return None
    return remember((chain_of, architecture_key(model, None)), lambda: _traced_chain(model))


def _traced_chain(model: nn.Module) -> Chain | None:
    try:
        graph = fx.Tracer().trace(model)
    except Exception:  # whatever a model does while it is traced, it is no plain chain
        return None
    nodes = list(graph.nodes)
    linears = [n for n in nodes if _module(model, n, nn.Linear) is not None]
    inputs = [n for n in nodes if n.op == "placeholder"]
    if len(linears) < 2 or len(inputs) != 1:
        return None
    found: list[Step] = []
    node = linears[-1]
    while True:
        step = _step(model, node)
        if step is None or (node is not linears[-1] and len(node.users) != 1):
            return None
        if not isinstance(step, UnitwiseStep) or step.function is not _identity:
            found.append(step)
        if node is linears[0]:
            break
        node = node.args[0]
        if not isinstance(node, fx.Node):
            return None
    if sum(isinstance(step, LinearStep) for step in found) != len(linears):
        return None
    (output,) = (n for n in nodes if n.op == "output")
    head = _function(model, graph, inputs[0], linears[0].args[0])
    last, result = linears[-1], output.args[0]
    prepends_zero = _prepends_zero(result, last)
    plain = prepends_zero or result is last
    tail = None if plain else _function(model, graph, last, result)
    if head is None or (tail is None and not plain):
        return None
    return Chain(head, tuple(reversed(found)), tail, prepends_zero)


def _prepends_zero(node: Any, last: fx.Node) -> bool:
    """Return whether a node is ``torch.cat([torch.zeros_like(last), last], dim=1)``."""
    if not isinstance(node, fx.Node) or node.target is not torch.cat:
        return False
    given = dict(zip(("tensors", "dim"), node.args, strict=False)) | node.kwargs
    parts = given.get("tensors")
    if given.get("dim") not in (1, -1) or not isinstance(parts, (list, tuple)) or len(parts) != 2:
        return False
    zeros, value = parts
    return (
        value is last
        and isinstance(zeros, fx.Node)
        and zeros.target is torch.zeros_like
        and zeros.args == (last,)
        and not zeros.kwargs
    )


def _identity(value: Tensor) -> Tensor:
    return value


_UNITWISE_MODULES = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Tanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Hardtanh,
)
_UNITWISE_FUNCTIONS = {
    torch.relu,
    torch.relu_,
    torch.tanh,
    torch.sigmoid,
    F.relu,
    F.relu6,
    F.leaky_relu,
    F.elu,
    F.selu,
    F.gelu,
    F.silu,
    F.mish,
    F.softplus,
    F.hardtanh,
}
_UNITWISE_METHODS = {"relu": torch.relu, "relu_": torch.relu, "tanh": torch.tanh}
_LEAVES = {nn.Linear, nn.BatchNorm1d, nn.LayerNorm}


def _has_tensors(module: nn.Module) -> bool:
    return any(True for _ in (*module.parameters(False), *module.buffers(False)))


def _module(model: nn.Module, node: fx.Node, kind: type[nn.Module]) -> nn.Module | None:
    if node.op != "call_module":
        return None
    module = model.get_submodule(str(node.target))
    return module if type(module) is kind else None


def _step(model: nn.Module, node: fx.Node) -> Step | None:
    """Return the step of a node whose first argument is the running activation."""
    if node.op == "call_module":
        name, module = str(node.target), model.get_submodule(str(node.target))
        if len(node.args) != 1 or node.kwargs:
            return None
        if type(module) is nn.Linear:
            return LinearStep(name, module.bias is not None)
        if type(module) is nn.BatchNorm1d and module.track_running_stats:
            return BatchNormStep(name, module.eps, module.affine)
        if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1:
            bias = module.bias is not None
            return LayerNormStep(name, module.eps, module.elementwise_affine, bias)
        if type(module) in (nn.Identity, nn.Dropout):
            return UnitwiseStep(_identity, False)
        if type(module) in _UNITWISE_MODULES:
            return UnitwiseStep(module, type(module) is nn.ReLU)
        return None
    function: Any = node.target
    if node.op == "call_method":
        function = _UNITWISE_METHODS.get(str(node.target))
    elif node.op != "call_function" or function not in _UNITWISE_FUNCTIONS:
        return None
    if function is None or any(isinstance(arg, fx.Node) for arg in node.args[1:]):
        return None
    arguments, keywords = node.args[1:], {k: v for k, v in node.kwargs.items() if k != "inplace"}
    return UnitwiseStep(
        lambda value: function(value, *arguments, **keywords),
        function in (torch.relu, torch.relu_, F.relu),
    )


def _function(
    model: nn.Module, graph: fx.Graph, source: fx.Node, target: Any
) -> Callable[[Any], Any] | None:
    """Return the part of the graph from ``source`` to ``target``; None if it holds parameters."""
    if not isinstance(target, fx.Node):
        return None
    needed: set[fx.Node] = set()
    stack = [target]
    while stack:
        node = stack.pop()
        if node in needed or node is source:
            continue
        holds = node.op == "call_module" and any(
            True for _ in model.get_submodule(str(node.target)).state_dict()
        )
        if node.op in ("placeholder", "get_attr") or holds:
            return None
        needed.add(node)
        stack.extend(node.all_input_nodes)
    part = fx.Graph()
    copies = {source: part.placeholder("value")}
    for node in graph.nodes:
        if node in needed:
            copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[target])
    return fx.GraphModule(model, part)
