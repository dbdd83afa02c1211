"""Convolutional networks on the processor: BatchNorms folded into convolutions, channels last."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from lmc_fast.barrier.forward import agree, call_with
from lmc_fast.barrier.points import StateDict

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class _Fold:
    """A BatchNorm in evaluation mode right behind a convolution: an affine map of its units."""

    convolution: str
    norm: str
    eps: float
    affine: bool
    bias: bool


class FoldedRunner:
    """Runs a traced copy of a network without its BatchNorms; the copy shares every tensor."""

    def __init__(
        self, module: fx.GraphModule, folds: list[_Fold], memory_format: torch.memory_format
    ) -> None:
        self._module = module
        self._folds = folds
        self._format = memory_format
        gone = {fold.norm for fold in folds}
        self._owners: dict[str, tuple[dict[str, Tensor | None], str]] = {}
        for path, owner in module.named_modules(remove_duplicate=False):
            if path in gone:
                continue
            prefix = f"{path}." if path else ""
            for holder in (owner._parameters, owner._buffers):
                self._owners.update({f"{prefix}{key}": (holder, key) for key in holder})

    def prepared(self, state: StateDict) -> StateDict:
        """Return the weights with every BatchNorm folded in, in the memory format."""
        changed: dict[str, Tensor] = {}
        for fold in self._folds:
            name, norm = fold.convolution, fold.norm
            weight = state[f"{name}.weight"].double()
            mean = state[f"{norm}.running_mean"].double()
            scale = (state[f"{norm}.running_var"].double() + fold.eps).rsqrt()
            shift = -mean if not fold.bias else state[f"{name}.bias"].double() - mean
            if fold.affine:
                scale = scale * state[f"{norm}.weight"].double()
                shift = shift * scale + state[f"{norm}.bias"].double()
            else:
                shift = shift * scale
            dtype = state[f"{name}.weight"].dtype
            unit_scale = scale.reshape(-1, *[1] * (weight.dim() - 1))
            changed[f"{name}.weight"] = (weight * unit_scale).to(dtype)
            changed[f"{name}.bias"] = shift.to(dtype)
        values = {**state, **changed}
        return {name: self._laid_out(values[name]) for name in self._owners if name in values}

    def run(self, prepared: StateDict, inputs: Any) -> Any:
        """Return the network's output."""
        for name, tensor in prepared.items():
            holder, key = self._owners[name]
            holder[key] = tensor
        return self._module(self._laid_out(inputs))

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._format) if tensor.dim() == 4 else tensor


def folded_runner(model: nn.Module, state: StateDict, inputs: Any) -> FoldedRunner | None:
    """Return the runner of a model on the processor, proven on ``inputs``, or None.

    The model must be in evaluation mode. Networks without a two-dimensional convolution in
    float32, with hooks, or that cannot be traced, are left alone.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if (
        not isinstance(inputs, Tensor)
        or inputs.dim() != 4
        or any(t.device.type != "cpu" or t.dtype == torch.float64 for t in state.values())
        or not any(type(m) is nn.Conv2d for m in modules.values())
        or any(m._forward_hooks or m._forward_pre_hooks for m in modules.values())
    ):
        return None
    wanted = call_with(model, state, inputs)
    if not isinstance(wanted, Tensor):
        return None
    for memory_format in (torch.channels_last, torch.contiguous_format):
        try:
            runner = FoldedRunner(*_traced(model), memory_format)
            found = runner.run(runner.prepared(state), inputs)
        except Exception:  # whatever tracing or another memory layout makes a model do
            continue
        if isinstance(found, Tensor) and agree(found, wanted):
            return runner
    return None


def _traced(model: nn.Module) -> tuple[fx.GraphModule, list[_Fold]]:
    tensors = (*model.parameters(), *model.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    own = copy.deepcopy(model, shared)
    graph = fx.Tracer().trace(own)
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    named = dict(own.named_modules(remove_duplicate=False))
    folds = []
    for node in list(graph.nodes):
        fold = _fold_at(node, named, calls)
        if fold is not None:
            folds.append(fold)
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    return fx.GraphModule(own, graph), folds


def _fold_at(
    node: fx.Node, modules: Mapping[str, nn.Module], calls: Mapping[str, int]
) -> _Fold | None:
    """Return the fold of a BatchNorm that alone uses the output of a convolution, else None."""
    if node.op != "call_module" or type(modules[str(node.target)]) not in _NORMS:
        return None
    norm: Any = modules[str(node.target)]
    source = node.args[0] if node.args else None
    if (
        not norm.track_running_stats
        or not isinstance(source, fx.Node)
        or source.op != "call_module"
        or type(modules[str(source.target)]) not in _CONVOLUTIONS
        or len(source.users) != 1
        or calls[str(source.target)] != 1
        or calls[str(node.target)] != 1
    ):
        return None
    convolution: Any = modules[str(source.target)]
    return _Fold(
        str(source.target),
        str(node.target),
        norm.eps,
        norm.affine,
        convolution.bias is not None,
    )
