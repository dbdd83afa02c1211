"""What every evaluation starts from: networks of one architecture, moved and checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import TypedDict

from lmc_fast.barrier.losses import LossFunction
from lmc_fast.barrier.normalise import NORMS
from lmc_fast.barrier.points import StateDict, complete_state
from lmc_fast.checkpoints import Network, state_of
from lmc_fast.data import Data
from lmc_fast.errors import LmcWarning
from lmc_fast.permutation import apply_permutation

Norm = Literal["keep", "reset", "repair"]

MAX_MEMORY = 1 << 31


class Options(TypedDict, total=False):
    """Keywords that every evaluation takes; `lmc_fast.barrier.barrier` describes them."""

    spec: Any
    model: nn.Module | None
    loss: str | LossFunction
    norm: Norm | None
    calibration: Data | None
    calibrate_temperature: bool
    per_example: bool
    max_memory: int
    progress: bool


class Gathering(TypedDict):
    """The part of `Options` that `Networks.gather` takes."""

    spec: Any
    model: nn.Module | None
    norm: str | None


def gathering(options: Options) -> Gathering:
    """Return the part of ``options`` that `Networks.gather` takes."""
    return {
        "spec": options.get("spec"),
        "model": options.get("model"),
        "norm": options.get("norm"),
    }


@dataclass(frozen=True)
class Networks:
    """A module that supplies the architecture, and complete state dicts for it."""

    model: nn.Module
    states: tuple[StateDict, ...]
    norm: str

    @classmethod
    def gather(
        cls,
        networks: Sequence[Network],
        permutations: Sequence[Any],
        *,
        labels: Sequence[str],
        model: nn.Module | None = None,
        spec: Any = None,
        norm: str | None = None,
    ) -> Networks:
        """Move each network by its permutation and check it against the architecture.

        Raises
        ------
        TypeError
            If a network is of no accepted kind, or no module supplies the architecture.
        ValueError
            If a network does not fit the architecture.

        Warns
        -----
        LmcWarning
            If ``norm`` is None and the model has BatchNorm statistics.
        """
        candidates = (model, *networks)
        module = next((net for net in candidates if isinstance(net, nn.Module)), None)
        if module is None:
            raise TypeError(
                "no module supplies the architecture: give a module, or model= beside state dicts"
            )
        norm = _checked_norm(norm, module)
        states = tuple(
            complete_state(module, moved(state_of(net), permutation, spec), label)
            for net, permutation, label in zip(networks, permutations, labels, strict=True)
        )
        return cls(module, states, norm)


def moved(state: StateDict, permutation: Any, spec: Any = None) -> StateDict:
    """Return ``state`` moved by a `Matching`, or by a mapping and its spec; by nothing for None."""
    if permutation is None:
        return state
    moves = getattr(permutation, "permutation", permutation)
    spec = getattr(permutation, "spec", None) if spec is None else spec
    if spec is None:
        raise ValueError("a permutation given as a mapping needs spec=, the spec it belongs to")
    result: StateDict = apply_permutation(spec, moves, state)
    return result


def _checked_norm(norm: str | None, model: nn.Module) -> str:
    if norm is None:
        if any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules()):
            warnings.warn(
                "BatchNorm statistics are interpolated like weights, which overstates barriers; "
                'consider norm="reset", or silence this with norm="keep"',
                LmcWarning,
                stacklevel=4,
            )
        return "keep"
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return norm
