"""Weight matching: coordinate descent, one assignment a group (Ainsworth 2022, algorithm 1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from operator import is_

import torch
from torch import Tensor

from lmc_fast.assignment import Assignment, solve_together
from lmc_fast.matching.families import weight_pieces
from lmc_fast.matching.objective import WeightProblem, weight_objective
from lmc_fast.matching.places import row_index
from lmc_fast.matching.structured import families_of, moved_by, solve_structured
from lmc_fast.matching.sums import (
    Products,
    Update,
    add_products,
    changed_rows,
    matched_sums,
    new_similarity,
)
from lmc_fast.permutation import Permutation
from lmc_fast.progress import progress_bar

MAX_CYCLES = 64
"""Cycles of a refused step that are tried one by one, longest gain first."""

WARM = 0.2
"""The next assignment of a group starts from the duals of one that moved no larger share of units.

While most units move the old duals cost more than they save.
"""

START_OVER = 0.1
"""A similarity matrix of which no larger share of the products is unchanged is summed afresh.

Taking the old products off packs one operand twice, and leaves their rounding behind.
"""


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
        Objective before the first sweep and after each: the last exact, the others less the gains
        of the sweeps in between.
    converged : bool
        Whether the last sweep changed nothing.
    assignments : dict[str, Assignment]
        The last assignment of every group.
    similarity : dict[str, Tensor]
        What each of them maximised.
    identity, matched : dict[str, float]
        Mean similarity of units paired by position, and as matched, at the last assignment.
    """

    permutation: Permutation
    objective: float
    history: tuple[float, ...]
    converged: bool
    assignments: dict[str, Assignment]
    similarity: dict[str, Tensor]
    identity: dict[str, float]
    matched: dict[str, float]


def descend(
    problem: WeightProblem,
    initial: Permutation,
    *,
    generator: torch.Generator,
    max_sweeps: int,
    progress: bool = False,
) -> WeightRun:
    """Run coordinate descent from one starting permutation until a sweep changes nothing.

    Groups are visited in a random order drawn from `generator`, those together that no tensor
    joins: what one does is nothing to the others. A group is solved again only when a neighbour
    moved since, and only the rows that moved are multiplied again.
    """
    families = families_of(problem.spec)
    groups = [name for name in problem.unfolded if name not in problem.spec.parents]
    permutation = dict(initial)
    states: dict[str, _State] = {
        name: _FamilyState(problem, name, families[name])
        if name in families
        else _GroupState(problem, name)
        for name in groups
    }
    moves = dict.fromkeys(problem.spec.groups, 0)
    solved_at: dict[str, tuple[int, ...]] = {}
    gains: list[float] = []
    converged = False
    for _ in progress_bar(range(max_sweeps), desc="sweeps", show=progress, leave=False):
        changed = False
        order = torch.randperm(len(groups), generator=generator).tolist()
        for together in _rounds([states[groups[g]] for g in order]):
            due = []
            for state in together:
                seen = tuple(moves[m] for m in state.movers)
                if solved_at.get(state.group) != seen:
                    due.append(state)
                    solved_at[state.group] = seen
            add_products([update for state in due for update in state.updates(permutation)])
            _assign([state for state in due if isinstance(state, _GroupState)], permutation)
            for state in due:
                if state.step(permutation):
                    for member in state.members:
                        moves[member] += 1
                    changed = True
        gains.append(sum(state.take_gain() for state in states.values()))
        if not changed:
            converged = True
            break
    objective = weight_objective(problem, permutation)
    return WeightRun(
        permutation,
        objective,
        tuple(objective - sum(gains[sweep:]) for sweep in range(len(gains) + 1)),
        converged,
        {name: state.assignment for name, state in states.items() if state.assignment},
        {name: state.similarity for name, state in states.items() if state.assignment},
        {name: state.identity for name, state in states.items()},
        {name: state.matched for name, state in states.items()},
    )


class _State(ABC):
    """What a run keeps of one group, or of an outer group and those nested in it."""

    def __init__(self, problem: WeightProblem, group: str, inner: tuple[str, ...] = ()) -> None:
        self.problem = problem
        self.group = group
        self.members = (group, *inner)
        self.entries = problem.unfolded[group]
        movers = dict.fromkeys(m for u in self.entries for m in u.movers)
        self.movers = tuple(m for m in movers if m not in inner)
        self.tensors = tuple(dict.fromkeys(u.place.tensor for u in self.entries))
        self.assignment: Assignment | None = None
        self.similarity = new_similarity(self.entries[0])
        self.identity = 0.0
        self.matched = 0.0
        self.gain = 0.0

    def updates(self, permutation: Permutation) -> list[Update]:
        """Return what becomes of the similarity matrix before the next step."""
        return []

    @abstractmethod
    def step(self, permutation: Permutation) -> bool:
        """Move if the objective rises given the other groups, and say so."""

    def take_gain(self) -> float:
        """Return what the objective rose by since the last call."""
        gain, self.gain = self.gain, 0.0
        return gain


class _GroupState(_State):
    """The similarity matrix of one group, kept up to date along a run."""

    def __init__(self, problem: WeightProblem, group: str) -> None:
        super().__init__(problem, group)
        self.sources: dict[int, tuple[Tensor, ...]] = {}
        self.rows: dict[int, Tensor | None] = {}
        self.duals: tuple[Tensor, Tensor] | None = None
        self.most_changed = (1 - START_OVER) * sum(entry.size for entry in self.entries)

    def updates(self, permutation: Permutation) -> list[Update]:
        products = self._changes(permutation)
        afresh = self.assignment is None or sum(p.size for p in products) > self.most_changed
        if afresh:
            products = [Products(e, b_rows=self.rows[i]) for i, e in enumerate(self.entries)]
        return [Update(self.similarity, products, afresh)]

    def step(self, permutation: Permutation) -> bool:
        if self.assignment is None:
            raise RuntimeError(f"group {self.group!r}: expected its assignment first, got a step")
        similarity, current = self.similarity, permutation[self.group]
        target, units = self.assignment.cols, similarity.shape[0]
        sums = matched_sums(similarity, current, target)
        self.identity = sums.identity / units
        self.matched = sums.before / units
        few = sums.moved <= WARM * units
        self.duals = (self.assignment.u, self.assignment.v) if few else None
        if sums.after - sums.before <= torch.finfo(similarity.dtype).eps * sums.magnitude:
            return False
        if self.group in self.problem.quadratic:
            return self._step_quadratic(permutation, target)
        permutation[self.group] = target
        self.gain += sums.after - sums.before
        self.matched = sums.after / units
        return True

    def _changes(self, permutation: Permutation) -> list[Products]:
        """Note where the rows of every entry come from now, and list what that changes."""
        products = []
        latest: dict[int, Tensor | None] = {}
        # Few groups move most tensors along their other axis.
        changed: dict[tuple[int, int], tuple[Tensor | None, Tensor, Tensor]] = {}
        for i, entry in enumerate(self.entries):
            sources = tuple([permutation[m] for m in entry.movers])
            if i in self.sources and all(map(is_, sources, self.sources[i])):
                continue
            rows = None
            if sources:
                rows = row_index(self.problem.spec, entry.place, permutation)
            last = self.rows.get(i)
            if rows is not None and last is not None:
                pair = (id(rows), id(last))
                if pair not in changed:
                    changed[pair] = changed_rows(rows, last)
                products.append(Products(entry, *changed[pair]))
            self.sources[i], latest[i] = sources, rows
        self.rows |= latest
        return products

    def _step_quadratic(self, permutation: Permutation, target: Tensor) -> bool:
        """Take the whole step if the true objective rises, else those of its cycles that raise it.

        The assignment maximises a linearisation here, and the objective can fall along it.
        """
        start = permutation[self.group]
        pairs = self.similarity.gather(1, torch.stack((start, target), 1)).double().cpu()
        gains = pairs[:, 1] - pairs[:, 0]
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


class _FamilyState(_State):
    """An outer group and the groups nested in it, solved together."""

    def step(self, permutation: Permutation) -> bool:
        problem = self.problem
        places = [entry.place for entry in self.entries]
        pieces = weight_pieces(problem.spec, problem.a, problem.b, places, permutation)
        found = solve_structured(problem.spec.groups, self.group, pieces)
        self.assignment, self.similarity = found.outer, found.similarity
        self.matched = found.identity
        self.identity = self.identity or found.identity
        candidate = {
            **permutation,
            **moved_by(problem.spec, self.group, found, permutation),
        }
        value = weight_objective(problem, permutation, self.tensors)
        trial = weight_objective(problem, candidate, self.tensors)
        if trial <= value + torch.finfo(pieces[0].similarity.dtype).eps * abs(trial):
            return False
        permutation.update(candidate)
        self.gain += trial - value
        self.matched = found.matched
        return True


def _assign(states: Sequence[_GroupState], permutation: Permutation) -> None:
    """Solve the assignments of groups that do not wait for each other, in one call."""
    found = solve_together(
        [state.similarity for state in states],
        maximize=True,
        prefer=[permutation[state.group] for state in states],
        initial_duals=[state.duals for state in states],
    )
    for state, assignment in zip(states, found, strict=True):
        state.assignment = assignment


def _rounds(order: Sequence[_State]) -> list[list[_State]]:
    """Split an order into rounds of groups that no tensor joins, each as early as it can be.

    Of two that one joins the earlier stays the earlier, so the outcome is that of the order.
    """
    rounds: list[list[_State]] = []
    moved: dict[str, int] = {}
    read: dict[str, int] = {}
    for state in order:
        first = max(
            0,
            *(moved.get(m, 0) for m in state.movers),
            *(read.get(m, 0) for m in state.members),
        )
        if first == len(rounds):
            rounds.append([])
        rounds[first].append(state)
        moved |= dict.fromkeys(state.members, first + 1)
        read |= {m: max(read.get(m, 0), first + 1) for m in state.movers}
    return rounds


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
