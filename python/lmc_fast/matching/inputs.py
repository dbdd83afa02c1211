"""What `match` is given: networks of one architecture, and a spec for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from lmc_fast.data import device_of, move
from lmc_fast.errors import SpecMismatchError
from lmc_fast.shapes import MAX_OFFENDERS
from lmc_fast.spec import PermutationSpec
from lmc_fast.symmetry import example_inputs_for, prove_once

SpecLike: TypeAlias = PermutationSpec | str | Mapping[str, str | Sequence[str | None]]


def check_alike(state_a: Mapping[str, Tensor], state_b: Mapping[str, Tensor]) -> None:
    """Raise unless both have the same names, shapes, dtypes and devices."""
    differences = [f"{n} (only in A)" for n in state_a if n not in state_b]
    differences += [f"{n} (only in B)" for n in state_b if n not in state_a]
    for name, x in state_a.items():
        y = state_b.get(name)
        if y is None:
            continue
        if x.is_complex():
            differences.append(f"{name} ({x.dtype}; expected real weights)")
        if x.shape != y.shape:
            differences.append(f"{name} (shape {tuple(x.shape)} in A, {tuple(y.shape)} in B)")
        if x.dtype != y.dtype:
            differences.append(f"{name} (dtype {x.dtype} in A, {y.dtype} in B)")
        if x.device != y.device:
            differences.append(f"{name} (device {x.device} in A, {y.device} in B)")
    if differences:
        more = len(differences) - MAX_OFFENDERS
        raise SpecMismatchError(
            "expected two networks of one architecture, dtype and device, got different "
            + ", ".join(differences[:MAX_OFFENDERS])
            + (f" and {more} more" if more > 0 else "")
        )


def resolve_spec(
    spec: SpecLike | None,
    module: nn.Module | None,
    state: Mapping[str, Tensor],
    example_inputs: Any,
) -> tuple[PermutationSpec, str]:
    """Return the spec to use and, in words, what was proven of it."""
    if module is not None:
        if example_inputs is None:
            example_inputs = example_inputs_for(module)
        example_inputs = move(example_inputs, device_of(module))
    if spec is None:
        if module is None:
            raise ValueError(
                "expected spec= where neither A nor B is a module: the symmetry of an architecture "
                "cannot be read from a state dict alone"
            )
        return (
            PermutationSpec.from_model(module, example_inputs),
            "derived from the model and proven on it by random permutations",
        )
    if isinstance(spec, str):
        spec = PermutationSpec.parse(spec, like=state)
    elif isinstance(spec, Mapping):
        spec = PermutationSpec.from_axes(spec, like=state)
    elif not isinstance(spec, PermutationSpec):
        raise TypeError(
            f"spec: expected a PermutationSpec, its notation or a dict of axes, got "
            f"{type(spec).__name__}"
        )
    spec.check(state)
    if module is None:
        return spec, "given; not proven, for no module was given"
    proof = prove_once(spec, module, example_inputs)
    if not proof.passed:
        raise SpecMismatchError(
            f"the spec fails its proof on {type(module).__name__}: {proof}; mend it or derive one "
            "with PermutationSpec.from_model"
        )
    return spec, f"given, and proven on the model by random permutations ({proof})"


def tensors_in_objective(
    spec: PermutationSpec,
    module: nn.Module | None,
    state: Mapping[str, Tensor],
    biases: bool,
    running_statistics: bool,
) -> list[str]:
    """Names of the float tensors that count: parameters, and by option biases and statistics.

    A tensor under two names counts once.
    """
    statistics = {"running_mean", "running_var"}
    buffers = set() if module is None else {name for name, _ in module.named_buffers()}
    duplicates: set[str] = set()
    if module is not None:
        seen: set[Tensor] = set()
        for name, tensor in module.named_parameters(remove_duplicate=False):
            if tensor in seen:
                duplicates.add(name)
            seen.add(tensor)
    result = []
    for name in spec.tensors:
        last = name.rpartition(".")[2]
        is_statistic = last in statistics or name in buffers
        if not state[name].is_floating_point() or name in duplicates:
            continue
        if (is_statistic and not running_statistics) or ("bias" in last and not biases):
            continue
        result.append(name)
    return result
