"""Which tensors can be read at all."""

from __future__ import annotations

import torch


def check_readable(op: str, tensor: torch.Tensor) -> None:
    """Raise unless a tensor is dense and has values in memory.

    Raises
    ------
    TypeError
        For sparse, meta and fake tensors and those under a functorch transform; `op` is named.
    """
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"[{op}] expected a dense tensor, got layout {tensor.layout}; use .to_dense()"
        )
    plain = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
    if (
        tensor.is_meta
        or (not plain and hasattr(tensor, "fake_mode"))
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    ):
        kind = "a meta tensor" if tensor.is_meta else "a tensor under a transform"
        raise TypeError(f"[{op}] expected a tensor with values in memory, got {kind}")
