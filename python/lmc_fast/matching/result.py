"""What a matching returns: the permutation and how good it is."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar, overload

from torch import Tensor, nn

from lmc_fast.permutation import (
    Permutation,
    apply_permutation,
    check_permutation,
    load_permutation,
    save_permutation,
)
from lmc_fast.spec import PermutationSpec

FORMAT = "lmc_fast.matching.2"
_Model = TypeVar("_Model", bound=nn.Module)


@dataclass(frozen=True)
class GroupStatistics:
    """How well the units of one group are matched.

    Of a group nested in another (the channels within each head) the figures are over all its units
    in all units of the other, paired as the other is matched.

    Attributes
    ----------
    size : int
        Units.
    identity, matched : float
        Mean similarity of units paired by position, and as matched.
    gap : float
        Certified distance of the group's last assignment from its optimum; 0.0 is a proof.
    regret : float or None
        Median over units of how much the group's similarity falls if the unit may not have its
        partner and all others are chosen anew; None if `match` was not asked for it.
    undetermined : int or None
        Units with a regret of at most a tenth of what matching gains per unit over random pairs:
        the data says little about their partners. None likewise.
    dead_a, dead_b : int or None
        Units that are constant on the data (activation matching); for a group with others nested in
        it their units are counted.
    """

    size: int
    identity: float
    matched: float
    gap: float
    regret: float | None = None
    undetermined: int | None = None
    dead_a: int | None = None
    dead_b: int | None = None


@dataclass(frozen=True)
class Matching:
    """The permutation that aligns model B to model A.

    Attributes
    ----------
    permutation : dict[str, Tensor]
        int64 gather indices per group: ``perm[i] = j`` matches unit i of A to unit j of B.
    objective : float
        What was maximised: ``sum <A, P(B)>`` over the weights, or the summed similarity of
        matched activations.
    history : tuple of float
        Objective before the first sweep and after every sweep.
    sweeps : int
        Passes over all groups.
    converged : bool
        Whether the last sweep changed nothing.
    bound : float
        No permutation has a larger objective.
    spec : PermutationSpec
        The groups.
    method, metric : str
        How the similarity was defined.
    statistics : Mapping[str, GroupStatistics]
        Match quality per group.
    restarts : tuple of float
        Objective of every run from its own starting permutation; their spread tells how rugged
        the problem is.
    proof : str
        What was checked of the spec on the model, in words.
    """

    permutation: Permutation
    objective: float
    history: tuple[float, ...]
    sweeps: int
    converged: bool
    bound: float
    spec: PermutationSpec
    method: str
    metric: str
    statistics: Mapping[str, GroupStatistics]
    restarts: tuple[float, ...]
    proof: str

    @overload
    def apply(self, model: _Model) -> _Model: ...
    @overload
    def apply(self, model: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def apply(self, model: nn.Module | Mapping[str, Tensor]) -> nn.Module | dict[str, Tensor]:
        """Return an aligned copy of B: a module for a module, a state dict for a state dict.

        Raises
        ------
        SpecMismatchError
            If the model's tensors do not fit the spec.
        """
        if isinstance(model, nn.Module):
            aligned = copy.deepcopy(model)
            aligned.load_state_dict(
                apply_permutation(self.spec, self.permutation, model.state_dict())
            )
            return aligned
        return apply_permutation(self.spec, self.permutation, model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the permutation and all results to one safetensors file, whole or not at all."""
        content = {
            name: value
            for name, value in vars(self).items()
            if name not in ("permutation", "spec", "statistics")
        }
        content["statistics"] = {name: asdict(s) for name, s in self.statistics.items()}
        metadata = {"format": FORMAT, "spec": self.spec.to_json(), "matching": json.dumps(content)}
        save_permutation(self.permutation, path, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Matching:
        """Read a matching written by `save`.

        Raises
        ------
        ValueError
            If the file is not such a matching, or its permutation does not fit its spec.
        """
        permutation, metadata = load_permutation(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"{path}: expected a matching saved by Matching.save ({FORMAT}), got format "
                f"{metadata.get('format')!r}"
            )
        content = json.loads(metadata["matching"])
        content["statistics"] = {n: GroupStatistics(**s) for n, s in content["statistics"].items()}
        content["history"] = tuple(content["history"])
        content["restarts"] = tuple(content["restarts"])
        spec = PermutationSpec.from_json(metadata["spec"])
        check_permutation(spec, permutation)
        return cls(permutation=permutation, spec=spec, **content)

    def __str__(self) -> str:
        lines = [
            f"matched by {self.method} ({self.metric}): objective {self.objective:.6g} of at most "
            f"{self.bound:.6g}, {self.sweeps} sweeps, "
            + ("converged" if self.converged else "not converged"),
            f"spec: {self.proof}",
        ]
        width = max((len(name) for name in self.statistics), default=0)
        for name, s in self.statistics.items():
            outer = self.spec.parents.get(name)
            per = f" in each of {self.spec.groups[outer]}" if outer else ""
            known = (
                ""
                if s.regret is None
                else f"  regret {s.regret:.2g}  undetermined {s.undetermined}"
            )
            dead = "" if s.dead_a is None else f"  dead {s.dead_a}/{s.dead_b}"
            lines.append(
                f"  {name:<{width}}  {s.size:>6} units{per}  similarity {s.identity:.4g} -> "
                f"{s.matched:.4g}{known}{dead}"
            )
        return "\n".join(lines)
