"""What an evaluation takes, so that it stays within the limit that the user gives."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmc_fast.barrier.forward import call_with
from lmc_fast.barrier.points import StateDict


def too_little_memory(max_memory: int, needed: int, what: str) -> ValueError:
    """Return the error of a limit that even the smallest slice exceeds."""
    return ValueError(
        f"max_memory is {max_memory} bytes, but {what} take about {needed}; give at least that"
    )


def state_bytes(state: StateDict) -> int:
    """Return the bytes of a network's tensors."""
    return sum(t.numel() * t.element_size() for t in state.values())


def forward_bytes(model: nn.Module, state: StateDict, inputs: Any) -> int:
    """Return the bytes of the tensors alive at once, at most, while the model runs.

    Counts what operations return, not what they use inside.
    """
    ledger = _Ledger()
    with ledger:
        call_with(model, state, inputs)
    return ledger.peak


class _Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up storages while tensors on them live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._bytes = 0
        self._tensors: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler at the first operation, which takes a second.
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **({} if kwargs is None else kwargs))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if _holds(t)}
        for tensor in tree_leaves(result):
            if not _holds(tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            if key in given and key not in self._tensors:
                continue
            if key not in self._tensors:
                self._bytes += size
            self._tensors[key] = self._tensors.get(key, 0) + 1
            weakref.finalize(tensor, self._release, key, size)
        self.peak = max(self.peak, self._bytes)
        return result

    def _release(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self._bytes -= size


def _holds(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided
