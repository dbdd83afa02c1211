"""One permutation for a whole sequence of networks: a trajectory, or the levels of pruning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from lmc_fast.matching.match import match
from lmc_fast.matching.result import Matching
from lmc_fast.permutation import apply_permutation
from lmc_fast.spec import PermutationSpec

Network = nn.Module | Mapping[str, Tensor]


def match_sequence(
    as_: Sequence[Network],
    bs: Sequence[Network],
    *,
    spec: PermutationSpec | None = None,
    step: int | None = None,
    **options: Any,
) -> Matching:
    """Find one permutation that aligns every network of a sequence B to its partner in A.

    Parameters
    ----------
    as_, bs
        Checkpoints of two runs, or the levels of iterative magnitude pruning of two networks, in
        the same order: modules or state dicts of one architecture.
    spec
        The architecture's symmetry; derived from the first module by default.
    step
        Match at this step alone, -1 being the last. By default all steps count together: the
        objective is the sum of theirs, sum_t <A_t, P(B_t)>, which weight matching maximises as one
        problem whose similarity matrices are the sums over the steps.
    options
        Passed to `match`; the joint problem takes those of weight matching only.

    Returns
    -------
    Matching
        Its objective and bound are those of what was matched.

    Raises
    ------
    ValueError
        The sequences differ in length or are empty, `step` is outside of them, or the joint
        problem is given data.
    """
    if len(as_) != len(bs) or not as_:
        raise ValueError(
            f"match_sequence: expected two sequences of one length >= 1, got {len(as_)} and "
            f"{len(bs)} networks"
        )
    if step is not None:
        if not -len(as_) <= step < len(as_):
            raise ValueError(f"step: expected one of {len(as_)} steps, got {step}")
        return match(as_[step], bs[step], spec=spec, **options)
    if options.get("data") is not None or options.get("method", "weights") != "weights":
        raise ValueError(
            "match_sequence: the joint problem is one of weights, got data or another method; "
            "choose a step to match by activations"
        )
    if spec is None:
        module = next((net for net in as_ if isinstance(net, nn.Module)), None)
        if module is None:
            raise ValueError("match_sequence: expected spec= or modules, got state dicts only")
        # One pair is matched as modules, which derives the spec and proves it.
        spec = match(module, module, **options).spec
    joint = PermutationSpec(
        spec.groups,
        {f"step{t}.{name}": terms for t in range(len(as_)) for name, terms in spec.tensors.items()},
        spec.parents,
    )
    options.pop("example_inputs", None)
    found = match(_joined(as_), _joined(bs), spec=joint, **options)
    return replace(found, spec=spec)


def _joined(networks: Sequence[Network]) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for t, network in enumerate(networks):
        state = network.state_dict() if isinstance(network, nn.Module) else network
        joined |= {f"step{t}.{name}": tensor.detach() for name, tensor in state.items()}
    return joined


def transport_masks(matching: Matching, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move pruning masks of network B along with its weights.

    Parameters
    ----------
    matching
        What moves B's weights.
    masks
        For some tensors of B a mask of the same shape, float or bool.

    Returns
    -------
    dict of Tensor
        Masks for ``matching.apply(b)``, of the given dtypes.

    Raises
    ------
    SpecMismatchError
        A mask is for a tensor that the spec does not know, or of another shape.
    """
    spec = matching.spec
    masked = PermutationSpec(
        spec.groups,
        {name: terms for name, terms in spec.tensors.items() if name in masks},
        spec.parents,
    )
    return apply_permutation(masked, matching.permutation, masks)
