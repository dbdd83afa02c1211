"""Trace a model with torch.export into a graph of operations on named tensors."""

from __future__ import annotations

import copy
import itertools
import threading
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from lmc_fast.errors import SpecMismatchError

_TRACING = threading.Lock()


@dataclass(frozen=True)
class Trace:
    """A traced model.

    Attributes
    ----------
    graph : torch.fx.GraphModule
        Calls ATen operations that are not decomposed.
    state : Mapping[str, str]
        Placeholder to the name of the state-dict tensor it stands for.
    constants : Mapping[str, Tensor]
        Placeholder to the value of a tensor that is not in the state dict.
    """

    graph: torch.fx.GraphModule
    state: Mapping[str, str]
    constants: Mapping[str, Tensor]


def call_arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn example inputs (a tensor, a tuple or a dict by keyword) into args and kwargs."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def structural_copy(model: nn.Module) -> nn.Module:
    """Copy the modules of a model; the copy shares every tensor with the original."""
    shared = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and back into its own mode at the end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def trace(model: nn.Module, example_inputs: Any) -> Trace:
    """Trace a model in eval mode; neither its state nor its mode is touched.

    Raises
    ------
    SpecMismatchError
        If torch.export refuses the model; the message gives its reason and the way out.
    """
    args, kwargs = call_arguments(example_inputs)
    # torch.export patches global state and Python's warning filters while it runs.
    with _TRACING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(structural_copy(model).eval(), args, kwargs, strict=False)
        except Exception as error:
            raise SpecMismatchError(
                f"expected a model that torch.export can trace, {type(model).__name__} is none: "
                f"{_refusal(error)}; check example_inputs, write the spec by hand with "
                "PermutationSpec.parse, or pass strict=False to keep everything fixed"
            ) from error
    state: dict[str, str] = {}
    constants: dict[str, Tensor] = {}
    for spec in program.graph_signature.input_specs:
        if spec.kind is InputKind.PARAMETER or (spec.kind is InputKind.BUFFER and spec.persistent):
            state[spec.arg.name] = str(spec.target)
        elif spec.kind in (InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            value = program.constants.get(str(spec.target))
            if isinstance(value, Tensor):
                constants[spec.arg.name] = value
    return Trace(program.graph_module, state, constants)


def _refusal(error: Exception) -> str:
    """Say in one line why and where the model could not be traced."""
    if isinstance(error, GuardOnDataDependentSymNode):
        what = "its control flow or a number in it depends on the values of tensors"
    else:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        what = f"{type(error).__name__}: {first.strip()}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_users(f.filename)]
    return what + (f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else "")


def _is_users(path: str) -> bool:
    return not any(part in path for part in ("/torch/", "/lmc_fast/symmetry/", "<"))


def source_line(node: torch.fx.Node) -> str:
    """Return ``file:line`` of the innermost frame outside torch that called an operation."""
    frames = [
        line.strip() for line in (node.meta.get("stack_trace") or "").splitlines() if "File" in line
    ]
    outside = [f for f in frames if "/torch/nn/" not in f and "/torch/_" not in f]
    for frame in reversed(outside or frames):
        fields = frame.split('"')
        if len(fields) == 3:
            return f"{fields[1]}:{fields[2].split(',')[1].replace('line', '').strip()}"
    return ""
