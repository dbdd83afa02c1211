"""Weight matching: coordinate descent, one assignment a group (Ainsworth 2022, algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmc_fast.assignment import Assignment, solve_assignment
from lmc_fast.matching.families import weight_pieces
from lmc_fast.matching.places import Unfolded, places_of, row_index, unfold
from lmc_fast.matching.structured import families_of, moved_by, solve_structured
from lmc_fast.permutation import Permutation, gather
from lmc_fast.progress import progress_bar
from lmc_fast.spec import PermutationSpec

MAX_CYCLES = 64
"""Cycles of a refused step that are tried one by one, longest gain first."""


@dataclass(frozen=True)
class WeightProblem:
    """The weights of A and B arranged for coordinate descent.

    Attributes
    ----------
    spec : PermutationSpec
        The groups.
    a, b : dict[str, Tensor]
        The tensors in the objective, in one float dtype.
    unfolded : dict[str, tuple of Unfolded]
        For every group, every place where it moves a tensor.
    quadratic : frozenset of str
        Groups that move one tensor in several places: their assignment is a linearisation.
    """

    spec: PermutationSpec
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    unfolded: dict[str, tuple[Unfolded, ...]]
    quadratic: frozenset[str]


@dataclass(frozen=True)
class WeightRun:
    """Where one run of coordinate descent came to rest.

    Attributes
    ----------
    permutation : Permutation
        The best permutation found: the objective never falls along a run.
    objective : float
        ``sum_t <A_t, P(B_t)>`` over the tensors of the problem, in float64.
    history : tuple of float
        Objective before the first sweep and after each.
    converged : bool
        Whether the last sweep changed nothing.
    assignments : dict[str, Assignment]
        The last assignment of every group.
    identity, matched : dict[str, float]
        Mean similarity of units paired by position, and as matched, at the last assignment.
    """

    permutation: Permutation
    objective: float
    history: tuple[float, ...]
    converged: bool
    assignments: dict[str, Assignment]
    identity: dict[str, float]
    matched: dict[str, float]


def arrange(
    spec: PermutationSpec, a: Mapping[str, Tensor], b: Mapping[str, Tensor], tensors: Sequence[str]
) -> WeightProblem:
    """Unfold the tensors of the objective once for any number of runs."""
    moved = [name for name in tensors if not all(t.is_fixed for t in spec.tensors[name])]
    dtype = torch.float32
    for name in moved:
        dtype = torch.promote_types(dtype, torch.promote_types(a[name].dtype, b[name].dtype))
    weights_a = {name: a[name].detach().to(dtype) for name in moved}
    weights_b = {name: b[name].detach().to(dtype) for name in moved}
    unfolded: dict[str, list[Unfolded]] = {name: [] for name in spec.groups}
    for place in places_of(spec, moved):
        name = place.tensor
        unfolded[place.group].append(unfold(spec, place, weights_a[name], weights_b[name]))
    quadratic = frozenset(
        group
        for group, entries in unfolded.items()
        if len({u.place.tensor for u in entries}) < len(entries)
    )
    return WeightProblem(
        spec, weights_a, weights_b, {g: tuple(e) for g, e in unfolded.items() if e}, quadratic
    )


def weight_objective(
    problem: WeightProblem, permutation: Permutation, tensors: Sequence[str] | None = None
) -> float:
    """Return ``sum_t <A_t, P(B_t)>``: row by row in the dtype of the weights, then in float64."""
    total = torch.zeros((), dtype=torch.float64)
    moving = {g for g, p in permutation.items() if not torch.equal(p, p.sort(dim=-1).values)}
    for name in problem.a if tensors is None else tensors:
        a, moved = problem.a[name], problem.b[name]
        terms = problem.spec.tensors[name]
        if any(not moving.isdisjoint(term.groups) for term in terms):
            moved = gather(problem.spec, terms, permutation, moved)
        rows = torch.linalg.vecdot(a.reshape(len(a), -1), moved.reshape(len(a), -1))
        total += rows.sum(dtype=torch.float64).cpu()
    return total.item()


def descend(
    problem: WeightProblem,
    initial: Permutation,
    *,
    generator: torch.Generator,
    max_sweeps: int,
    progress: bool = False,
) -> WeightRun:
    """Run coordinate descent from one starting permutation until a sweep changes nothing.

    Groups are visited in a random order drawn from `generator`. A group is solved again only when
    a neighbour moved since, and only the rows that moved are multiplied again.
    """
    families = families_of(problem.spec)
    groups = [name for name in problem.unfolded if name not in problem.spec.parents]
    permutation = dict(initial)
    states: dict[str, _GroupState | _FamilyState] = {
        name: _FamilyState(problem, name, families[name])
        if name in families
        else _GroupState(problem, name)
        for name in groups
    }
    moves = dict.fromkeys(problem.spec.groups, 0)
    solved_at: dict[str, tuple[int, ...]] = {}
    history = [weight_objective(problem, permutation)]
    converged = False
    for _ in progress_bar(range(max_sweeps), desc="sweeps", show=progress, leave=False):
        changed = False
        for g in torch.randperm(len(groups), generator=generator).tolist():
            name = groups[g]
            seen = tuple(moves[m] for m in states[name].movers)
            if solved_at.get(name) == seen:
                continue
            if states[name].step(permutation):
                for member in (name, *families.get(name, ())):
                    moves[member] += 1
                changed = True
            solved_at[name] = seen
        history.append(history[-1] + sum(state.take_gain() for state in states.values()))
        if not changed:
            converged = True
            break
    return WeightRun(
        permutation,
        weight_objective(problem, permutation),
        tuple(history),
        converged,
        {name: state.assignment for name, state in states.items() if state.assignment},
        {name: state.identity for name, state in states.items()},
        {name: state.matched for name, state in states.items()},
    )


class _GroupState:
    """The similarity matrix of one group, kept up to date along a run."""

    def __init__(self, problem: WeightProblem, group: str) -> None:
        self.problem = problem
        self.group = group
        self.entries = problem.unfolded[group]
        self.movers = tuple(dict.fromkeys(m for u in self.entries for m in u.movers))
        self.tensors = tuple(dict.fromkeys(u.place.tensor for u in self.entries))
        self.rows: dict[int, Tensor] = {}
        self.similarity: Tensor | None = None
        self.assignment: Assignment | None = None
        self.identity = 0.0
        self.matched = 0.0
        self.gain = 0.0

    def take_gain(self) -> float:
        gain, self.gain = self.gain, 0.0
        return gain

    def step(self, permutation: Permutation) -> bool:
        """Solve the group given the others; move it if the objective rises, and say so."""
        similarity = self._refresh(permutation)
        current = permutation[self.group]
        assignment = solve_assignment(
            similarity,
            maximize=True,
            initial_duals=None
            if self.assignment is None
            else (self.assignment.u, self.assignment.v),
            ties="keep",
            prefer=current,
        )
        self.assignment = assignment
        before = similarity.gather(1, current[:, None]).squeeze(1).double()
        after = similarity.gather(1, assignment.cols[:, None]).squeeze(1).double()
        self.identity = similarity.diagonal().double().mean().item()
        self.matched = before.mean().item()
        linear_gain = (after.sum() - before.sum()).item()
        if linear_gain <= torch.finfo(similarity.dtype).eps * after.abs().sum().item():
            return False
        if self.group not in self.problem.quadratic:
            permutation[self.group] = assignment.cols
            self.gain += linear_gain
            self.matched = after.mean().item()
            return True
        return self._step_quadratic(permutation, assignment.cols, (after - before).cpu())

    def _refresh(self, permutation: Permutation) -> Tensor:
        """Multiply the rows that moved since the last call into the similarity matrix."""
        for i, entry in enumerate(self.entries):
            rows = row_index(self.problem.spec, entry.place, permutation)
            last = self.rows.get(i)
            if self.similarity is None:
                self.similarity = entry.a.new_zeros(entry.units, entry.units)
            if last is None:
                a, b = entry.a, entry.b if rows is None else entry.select(entry.b, rows)
            elif rows is None or not len(moved := (rows != last).nonzero().squeeze(1)):
                continue
            else:
                a = entry.a if len(moved) == len(rows) else entry.select(entry.a, moved)
                b = entry.select(entry.b, rows[moved]) - entry.select(entry.b, last[moved])
            self.similarity.addmm_(*entry.products(a, b))
            self.rows[i] = torch.empty(0) if rows is None else rows
        if self.similarity is None:
            raise ValueError(f"group {self.group!r}: expected at least one tensor, got none")
        return self.similarity

    def _step_quadratic(self, permutation: Permutation, target: Tensor, gains: Tensor) -> bool:
        """Take the whole step if the true objective rises, else those of its cycles that raise it.

        The assignment maximises a linearisation here, and the objective can fall along it.
        """
        start = permutation[self.group]
        value = weight_objective(self.problem, permutation, self.tensors)
        tolerance = torch.finfo(gains.dtype).eps * abs(value)
        cycles = [torch.arange(len(start)), *_cycles(start, target, gains)]
        moved = False
        for cycle in cycles:
            candidate = permutation[self.group].clone()
            candidate[cycle.to(candidate.device)] = target[cycle.to(candidate.device)]
            trial = weight_objective(
                self.problem, {**permutation, self.group: candidate}, self.tensors
            )
            if trial > value + tolerance:
                permutation[self.group] = candidate
                self.gain += trial - value
                value, moved = trial, True
                if len(cycle) == len(start):
                    break
        return moved


class _FamilyState:
    """An outer group and the groups nested in it, solved together."""

    def __init__(self, problem: WeightProblem, outer: str, inner: tuple[str, ...]) -> None:
        self.problem = problem
        self.outer = outer
        entries = problem.unfolded[outer]
        self.places = [entry.place for entry in entries]
        self.tensors = tuple(dict.fromkeys(place.tensor for place in self.places))
        movers = dict.fromkeys(m for entry in entries for m in entry.movers)
        self.movers = tuple(m for m in movers if m not in inner)
        self.assignment: Assignment | None = None
        self.identity = 0.0
        self.matched = 0.0
        self.gain = 0.0

    def take_gain(self) -> float:
        gain, self.gain = self.gain, 0.0
        return gain

    def step(self, permutation: Permutation) -> bool:
        """Solve the family given the others; move it if the true objective rises."""
        problem = self.problem
        pieces = weight_pieces(problem.spec, problem.a, problem.b, self.places, permutation)
        found = solve_structured(problem.spec.groups, self.outer, pieces)
        self.assignment, self.matched = found.outer, found.identity
        self.identity = self.identity or found.identity
        candidate = {
            **permutation,
            **moved_by(problem.spec, self.outer, found, permutation),
        }
        value = weight_objective(problem, permutation, self.tensors)
        trial = weight_objective(problem, candidate, self.tensors)
        if trial <= value + torch.finfo(pieces[0].similarity.dtype).eps * abs(trial):
            return False
        permutation.update(candidate)
        self.gain += trial - value
        self.matched = found.matched
        return True


def _cycles(start: Tensor, target: Tensor, gains: Tensor) -> list[Tensor]:
    """Split the step from `start` to `target` into disjoint cycles, largest linear gain first."""
    successor = start.argsort()[target].tolist()
    seen: set[int] = set()
    cycles = []
    for first in range(len(successor)):
        cycle, unit = [], first
        while unit not in seen:
            seen.add(unit)
            cycle.append(unit)
            unit = successor[unit]
        if len(cycle) > 1:
            cycles.append(torch.tensor(cycle))
    return sorted(cycles, key=lambda c: -gains[c].sum().item())[:MAX_CYCLES]
