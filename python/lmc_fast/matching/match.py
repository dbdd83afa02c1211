"""`match`: from two models to the permutation that aligns the second to the first."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmc_fast.checkpoints import Network, state_of
from lmc_fast.data import Batch, Data, batches
from lmc_fast.matching.activations import (
    activation_similarity,
    match_activations,
    match_families,
)
from lmc_fast.matching.bound import objective_bound
from lmc_fast.matching.inputs import SpecLike, check_alike, resolve_spec, tensors_in_objective
from lmc_fast.matching.objective import WeightProblem, arrange
from lmc_fast.matching.quality import (
    group_statistics,
    inner_statistics,
    inner_statistics_of_weights,
)
from lmc_fast.matching.result import Matching
from lmc_fast.matching.structured import value_of
from lmc_fast.matching.weights import WeightRun, descend
from lmc_fast.permutation import (
    Permutation,
    check_permutation,
    identity_permutation,
    random_permutation,
)
from lmc_fast.spec import PermutationSpec

METHODS = ("weights", "activations")


def match(
    a: Network,
    b: Network,
    *,
    data: Data | None = None,
    method: str | None = None,
    spec: SpecLike | None = None,
    example_inputs: Any = None,
    metric: str | None = None,
    restarts: int = 1,
    initial: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
    max_sweeps: int = 100,
    progress: bool = False,
    biases: bool = True,
    running_statistics: bool = False,
    regrets: bool = False,
) -> Matching:
    """Find the permutation of B's hidden units that aligns it to A.

    Parameters
    ----------
    a, b : Module, state dict, or path
        Two networks of one architecture. A stays, B is to be moved. A path names a safetensors or
        torch checkpoint. Neither is modified.
    data : DataLoader, iterable of batches, pair of tensors, or tensor, optional
        Inputs for activation matching; targets may be there and are not used.
    method : {"weights", "activations"}, optional
        By default "activations" where there is data, else "weights".
    spec : PermutationSpec, str or dict, optional
        The architecture's symmetry: a spec, its notation, or a git-re-basin style dict of axes.
        Without it the spec is derived from the model, once per architecture.
    example_inputs : Tensor, tuple or dict, optional
        What to call the model with when the spec is derived and proven. Taken from `data`, or
        guessed from the first layer, where it is not given.
    metric : str, optional
        "correlation" (default), "covariance", "gram" or "cosine" for activations; "inner" for
        weights.
    restarts : int
        Runs of weight matching: the first from `initial`, the others from random permutations. The
        best objective wins. Activation matching has one optimum and needs none.
    initial : Permutation, optional
        Where weight matching starts, and what activation matching prefers among equal optima. The
        identity by default.
    generator : torch.Generator, optional
        Random order of the groups, random restarts. A fresh one with seed 0 by default.
    max_sweeps : int
        Passes over the groups after which a run stops, converged or not.
    progress : bool
        Show progress bars on stderr.
    biases : bool
        Whether bias vectors count in the objective of weight matching.
    running_statistics : bool
        Whether the buffers of BatchNorm count in it. They are permuted either way.
    regrets : bool
        Whether to find how well every unit's partner is determined: `GroupStatistics.regret` and
        `undetermined`, which are None otherwise. Costs some seven assignments a group.

    Returns
    -------
    Matching
        With the permutation, the objective and its bound, and the quality per group.

    Raises
    ------
    SpecMismatchError
        If A, B and the spec disagree, or a spec fails its proof on the model.
    ValueError, TypeError
        If an argument is not of the kind above.

    Notes
    -----
    Weight matching is the coordinate descent of Ainsworth et al. 2022 (algorithm 1) on
    ``sum_t <A_t, P(B_t)>``; activation matching solves one linear assignment per group (Li et al.
    2015). A sweep costs O(sum over tensors of size x width) plus O(n^3) per group at worst; the
    same inputs give the same permutation for any number of threads.

    Examples
    --------
    >>> import torch, lmc_fast
    >>> net = lambda: torch.nn.Sequential(
    ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> result = lmc_fast.match(net(), net())
    >>> sorted(result.permutation["layer0"].tolist()) == list(range(8))
    True
    """
    method = method or ("weights" if data is None else "activations")
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    for name, value in (("restarts", restarts), ("max_sweeps", max_sweeps)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    state_a, state_b = state_of(a), state_of(b)
    check_alike(state_a, state_b)
    module = a if isinstance(a, nn.Module) else b if isinstance(b, nn.Module) else None
    stream: Iterator[Batch] | None = None
    if data is not None:
        stream = batches(data)
        first = next(stream)
        stream = itertools.chain([first], stream)
        example_inputs = first.inputs if example_inputs is None else example_inputs
    resolved, proof = resolve_spec(spec, module, state_a, example_inputs)
    device = next((t.device for t in state_a.values()), torch.device("cpu"))
    if initial is not None and not isinstance(initial, Mapping):
        raise TypeError(f"initial: expected a dict of indices, got {type(initial).__name__}")
    if initial is None:
        start = identity_permutation(resolved)
    else:
        check_permutation(resolved, initial)
        start = dict(initial)
    start = {name: index.to(device) for name, index in start.items()}
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    elif not isinstance(generator, torch.Generator):
        raise TypeError(f"generator: expected a torch.Generator, got {type(generator).__name__}")

    if method == "activations":
        if not isinstance(a, nn.Module) or not isinstance(b, nn.Module) or stream is None:
            raise ValueError(
                "activation matching: expected two modules and data=, got "
                f"{type(a).__name__}, {type(b).__name__} and data={type(data).__name__}; load the "
                "checkpoints into modules, or use method='weights'"
            )
        metric = metric or "correlation"
        return _by_activations(resolved, a, b, stream, metric, start, proof, progress, regrets)
    if metric not in (None, "inner"):
        raise ValueError(f"metric: expected 'inner' for weight matching, got {metric!r}")
    counted = tensors_in_objective(resolved, module, state_a, biases, running_statistics)
    options = _RunOptions(restarts, generator, max_sweeps, progress, regrets)
    return _by_weights(resolved, state_a, state_b, counted, start, proof, options)


@dataclass(frozen=True)
class _RunOptions:
    restarts: int
    generator: torch.Generator
    max_sweeps: int
    progress: bool
    regrets: bool


def _by_weights(
    spec: PermutationSpec,
    state_a: Mapping[str, Tensor],
    state_b: Mapping[str, Tensor],
    counted: Sequence[str],
    start: Permutation,
    proof: str,
    options: _RunOptions,
) -> Matching:
    problem = arrange(spec, state_a, state_b, counted)
    bound = objective_bound(problem)
    fixed = [n for n in counted if all(t.is_fixed for t in spec.tensors[n])]
    _check_finite(fixed if math.isfinite(bound) else counted, state_a, state_b)
    runs = _runs(problem, start, options)
    best = next(runs)
    objectives = [best.objective]
    for run in runs:
        objectives.append(run.objective)
        best = run if run.objective > best.objective else best
    return Matching(
        permutation=best.permutation,
        objective=best.objective,
        history=best.history,
        sweeps=len(best.history) - 1,
        converged=best.converged,
        bound=max(bound, best.objective),
        spec=spec,
        method="weights",
        metric="inner",
        statistics={
            name: group_statistics(
                spec,
                name,
                assignment,
                best.similarity[name],
                best.identity[name],
                best.matched[name],
                regrets=options.regrets,
            )
            for name, assignment in best.assignments.items()
        }
        | inner_statistics_of_weights(problem, best.permutation, regrets=options.regrets),
        restarts=tuple(objectives),
        proof=proof,
    )


def _runs(problem: WeightProblem, start: Permutation, options: _RunOptions) -> Iterator[WeightRun]:
    """Descend from `start`, then from random permutations; one run at a time is kept."""
    for restart in range(options.restarts):
        initial = start
        if restart:
            drawn = random_permutation(problem.spec, generator=options.generator)
            initial = {name: index.to(start[name].device) for name, index in drawn.items()}
        yield descend(
            problem,
            initial,
            generator=options.generator,
            max_sweeps=options.max_sweeps,
            progress=options.progress,
        )


def _check_finite(
    counted: Sequence[str], state_a: Mapping[str, Tensor], state_b: Mapping[str, Tensor]
) -> None:
    for name in counted:
        for which, state in (("A", state_a), ("B", state_b)):
            if not state[name].isfinite().all():
                raise ValueError(
                    f"weights of {which}: expected finite numbers, got some not in {name}"
                )


def _by_activations(
    spec: PermutationSpec,
    a: nn.Module,
    b: nn.Module,
    stream: Iterator[Batch],
    metric: str,
    start: Permutation,
    proof: str,
    progress: bool,
    regrets: bool,
) -> Matching:
    measured = activation_similarity(spec, a, b, stream, metric=metric, progress=progress)
    assignments = match_activations(spec, measured, start)
    statistics, before = {}, 0.0
    for name, assignment in assignments.items():
        matrix = measured.similarity[name]
        paired = matrix.gather(1, start[name][:, None].to(matrix.device)).double()
        before += paired.sum().item()
        statistics[name] = group_statistics(
            spec,
            name,
            assignment,
            matrix,
            matrix.diagonal().double().mean().item(),
            assignment.objective / len(matrix),
            measured.dead_a[name],
            measured.dead_b[name],
            regrets=regrets,
        )
    permutation = {name: assignment.cols for name, assignment in assignments.items()}
    objective = sum(assignment.objective for assignment in assignments.values())
    gap = sum(assignment.gap for assignment in assignments.values())
    for outer, found in match_families(spec, measured).items():
        permutation |= {outer: found.outer.cols, **found.inner}
        before += sum(value_of(piece, outer, start) for piece in measured.pieces[outer])
        objective += found.outer.objective
        gap += found.outer.gap
        statistics[outer] = group_statistics(
            spec,
            outer,
            found.outer,
            found.similarity,
            found.identity,
            found.matched,
            measured.dead_a[outer],
            measured.dead_b[outer],
            regrets=regrets,
        )
        statistics |= inner_statistics(
            spec, outer, measured.pieces[outer], permutation, regrets=regrets
        )
    return Matching(
        permutation=permutation,
        objective=objective,
        history=(before, objective),
        sweeps=1,
        converged=True,
        bound=objective + gap,
        spec=spec,
        method="activations",
        metric=metric,
        statistics=statistics,
        restarts=(objective,),
        proof=proof,
    )
