"""Many networks in one common basis: a reference, MergeMany, or a synchronised universe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lmc_fast.assignment import linear_sum_assignment
from lmc_fast.errors import SpecMismatchError
from lmc_fast.matching.match import match
from lmc_fast.permutation import (
    Permutation,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
)
from lmc_fast.progress import progress_bar
from lmc_fast.spec import PermutationSpec

Network = nn.Module | Mapping[str, Tensor]
METHODS = ("reference", "merge_many", "universe")


@dataclass(frozen=True)
class ManyMatching:
    """Permutations of many networks into one common basis.

    Attributes
    ----------
    permutations
        One for each network: gathering it by its permutation puts it into the common basis.
    objective
        Sum over all pairs of <P_i theta_i, P_j theta_j>, over the float parameters that a
        group moves.
    history
        The objective before the first sweep over the networks and after each.
    converged
        Whether the last sweep changed no permutation.
    spec
        The groups.
    method
        "reference", "merge_many" or "universe".
    """

    permutations: tuple[Permutation, ...]
    objective: float
    history: tuple[float, ...]
    converged: bool
    spec: PermutationSpec
    method: str

    def apply(self, networks: Sequence[Network]) -> list[dict[str, Tensor]]:
        """Return the state dict of every network in the common basis."""
        if len(networks) != len(self.permutations):
            raise ValueError(
                f"apply: expected {len(self.permutations)} networks, got {len(networks)}"
            )
        return [
            apply_permutation(self.spec, permutation, _state(network))
            for permutation, network in zip(self.permutations, networks, strict=True)
        ]

    def merge(self, networks: Sequence[Network]) -> dict[str, Tensor]:
        """Return the mean of the networks in the common basis; integer buffers are the first's."""
        return mean_state(self.apply(networks))

    def between(self, a: int, b: int) -> Permutation:
        """Return the permutation that aligns network `b` to network `a`, through the basis.

        These are consistent: composing a with b and b with c gives a with c.
        """
        return compose(invert(self.permutations[a], self.spec), self.permutations[b], self.spec)


def match_many(
    networks: Sequence[Network],
    *,
    method: str = "merge_many",
    spec: PermutationSpec | None = None,
    example_inputs: Any = None,
    reference: int = 0,
    generator: torch.Generator | None = None,
    max_sweeps: int = 100,
    biases: bool = True,
    progress: bool = False,
) -> ManyMatching:
    """Align many networks by weights, so that any two of them are aligned to each other.

    Parameters
    ----------
    networks
        At least two modules or state dicts of one architecture.
    method
        "reference": each network is matched to network `reference` alone, in n - 1 matchings.
        "merge_many": from there each network in turn is matched to the mean of the others until
        none moves (Ainsworth et al. 2022, algorithm 3), which is coordinate ascent on the sum over
        all pairs of <P_i theta_i, P_j theta_j>.
        "universe": starts instead from all n (n - 1) / 2 pairwise matchings, made cycle-consistent
        by spectral synchronisation (Pachauri et al. 2013) into a universe that no network is
        singled out for, and ascends on the same sum, the objective of C2M3 (Crisostomi et al.
        2024).
    spec
        The architecture's symmetry; derived from the first module by default.
    example_inputs
        For that derivation, see `match`.
    reference
        The network that the "reference" basis is taken from, and "merge_many" starts from.
    generator
        Decides the order of groups and networks; a fresh one with seed 0 by default.
    max_sweeps
        Of each matching, and over the networks.
    biases
        Whether biases count in the objective.
    progress
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        Fewer than two networks, an unknown method or reference, or state dicts without a spec.
    """
    if len(networks) < 2:
        raise ValueError(f"match_many: expected at least two networks, got {len(networks)}")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if not 0 <= reference < len(networks):
        raise ValueError(f"reference: expected 0 to {len(networks) - 1}, got {reference}")
    generator = generator or torch.Generator().manual_seed(0)
    first, second = networks[:2]
    if spec is None:
        # Matching one pair as it came derives the spec and proves it where there is a module.
        spec = match(first, second, example_inputs=example_inputs, max_sweeps=1).spec
    states = [_state(network) for network in networks]
    counted = [
        name
        for name, terms in spec.tensors.items()
        if any(term.groups for term in terms) and _counts(name, states[0][name], biases)
    ]

    def align(a: Mapping[str, Tensor], i: int, initial: Permutation | None) -> Permutation:
        return match(
            a,
            states[i],
            spec=spec,
            initial=initial,
            generator=generator,
            max_sweeps=max_sweeps,
            biases=biases,
        ).permutation

    with progress_bar(desc="match_many", unit="matching", show=progress) as bar:
        if method == "universe":
            permutations = _synchronised(states, spec, align, bar)
        else:
            permutations = []
            for i in range(len(states)):
                same = i == reference
                permutations.append(
                    identity_permutation(spec) if same else align(states[reference], i, None)
                )
                bar.update()
        aligned = [apply_permutation(spec, p, s) for p, s in zip(permutations, states, strict=True)]
        history = [_pair_sum(aligned, counted)]
        converged = method == "reference"
        for _ in range(0 if converged else max_sweeps):
            moved = False
            for i in torch.randperm(len(states), generator=generator).tolist():
                others = mean_state([s for j, s in enumerate(aligned) if j != i])
                found = align(others, i, permutations[i])
                if any(not torch.equal(found[name], permutations[i][name]) for name in found):
                    moved = True
                    permutations[i] = found
                    aligned[i] = apply_permutation(spec, found, states[i])
                bar.update()
            history.append(_pair_sum(aligned, counted))
            if not moved:
                converged = True
                break
    return ManyMatching(tuple(permutations), history[-1], tuple(history), converged, spec, method)


def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts; tensors that are not floating point are the first's."""
    if not states:
        raise ValueError("mean_state: expected at least one state dict, got none")
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in states[0].items()
    }


def disagreement(p: Mapping[str, Tensor], q: Mapping[str, Tensor]) -> dict[str, float]:
    """Return, for every group, the share of units that two permutations match differently.

    With q a composition through a third network this is the error of that composition.

    Raises
    ------
    SpecMismatchError
        The groups or their sizes differ.
    """
    if p.keys() != q.keys() or any(p[name].shape != q[name].shape for name in p):
        raise SpecMismatchError(
            f"disagreement: expected permutations of the same groups, got "
            f"{ {n: tuple(v.shape) for n, v in p.items()} } and "
            f"{ {n: tuple(v.shape) for n, v in q.items()} }"
        )
    return {name: float((p[name] != q[name]).double().mean()) for name in p}


def _synchronised(
    states: Sequence[Mapping[str, Tensor]],
    spec: PermutationSpec,
    align: Callable[[Mapping[str, Tensor], int, Permutation | None], Permutation],
    bar: tqdm[Any],
) -> list[Permutation]:
    """Round the pairwise permutations to cycle-consistent ones, group by group.

    The block matrix of all pairwise permutations of a group has rank n where they are consistent;
    its n leading eigenvectors give every network's units coordinates in the universe, and one
    assignment between those of each network and of the first rounds them to a permutation.
    """
    if spec.parents:
        raise SpecMismatchError(
            f"universe: expected a spec without nested groups, got {dict(spec.parents)}; use "
            "method='merge_many'"
        )
    count = len(states)
    pairs = {}
    for a in range(count):
        for b in range(a + 1, count):
            pairs[a, b] = align(states[a], b, None)
            bar.update()
    found: list[Permutation] = [{} for _ in states]
    for name, size in spec.groups.items():
        blocks = torch.eye(count * size, dtype=torch.float64)
        rows = torch.arange(size)
        for (a, b), permutation in pairs.items():
            columns = permutation[name].cpu()
            blocks[a * size + rows, b * size + columns] = 1
            blocks[b * size + columns, a * size + rows] = 1
        vectors = torch.linalg.eigh(blocks).eigenvectors[:, -size:].view(count, size, size)
        for i in range(count):
            similarity = vectors[0] @ vectors[i].T
            _, columns = linear_sum_assignment(similarity, maximize=True)
            found[i][name] = columns
    return found


def _pair_sum(aligned: Sequence[Mapping[str, Tensor]], names: Sequence[str]) -> float:
    """Sum over pairs of inner products: (|sum of all|^2 - sum of |each|^2) / 2."""
    total = 0.0
    for name in names:
        stacked = torch.stack([state[name] for state in aligned]).double()
        total += float(stacked.sum(0).square().sum() - stacked.square().sum()) / 2
    return total


def _counts(name: str, tensor: Tensor, biases: bool) -> bool:
    last = name.rpartition(".")[2]
    return (
        tensor.is_floating_point()
        and last not in ("running_mean", "running_var")
        and (biases or "bias" not in last)
    )


def _state(network: Network) -> Mapping[str, Tensor]:
    state = network.state_dict() if isinstance(network, nn.Module) else network
    return {name: tensor.detach() for name, tensor in state.items()}
