"""What the assignment solver accepts as a cost matrix, read in place wherever its layout allows."""

import os
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lmc_fast.tensors import check_readable

EXACT_INTEGERS = 2.0**53


class CostView(NamedTuple):
    """A batch of matrices in memory: an address, and strides counted in elements."""

    owner: Any
    address: int
    float64: bool
    batch_shape: tuple[int, ...]
    rows: int
    cols: int
    batch_stride: int
    row_stride: int
    col_stride: int
    device: torch.device | None

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., rows, cols)."""
        return (*self.batch_shape, self.rows, self.cols)

    @property
    def batch(self) -> int:
        """Number of matrices."""
        size = 1
        for extent in self.batch_shape:
            size *= extent
        return size


def view_cost(op: str, cost: Any) -> CostView:
    """Check `cost` for the public call `op` and find a float32 or float64 matrix in it.

    Raises
    ------
    TypeError
        For complex numbers, strings, objects, and tensors without readable memory.
    ValueError
        For less than two dimensions, and for integers of 2**53 or more.
    MemoryError
        If a copy is needed and would not fit into memory.
    """
    if isinstance(cost, torch.Tensor):
        return _view_tensor(op, cost)
    return _view_array(op, cost)


def _view_tensor(op: str, cost: torch.Tensor) -> CostView:
    check_readable(op, cost)
    device = cost.device
    dtype = cost.dtype
    if cost.requires_grad:
        cost = cost.detach()
    _check_rank(op, cost.ndim, tuple(cost.shape))
    if dtype is not torch.float32 and dtype is not torch.float64:
        if dtype.is_complex:
            raise TypeError(f"[{op}] expected real costs, got {dtype}; pass the part you mean")
        wide = dtype in (torch.int32, torch.int64, torch.uint32, torch.uint64)
        _check_copy(op, cost.numel(), 8 if wide else 4)
        cost = cost.to(torch.float64 if wide else torch.float32)
        if wide:
            _check_integers(op, float(cost.abs().max()) if cost.numel() else 0.0)
    if device.type != "cpu":
        cost = cost.cpu()
    cost = cost.resolve_neg()
    batch_shape = tuple(cost.shape[:-2])
    if cost.ndim > 3:
        cost = _dense(op, cost).flatten(0, -3)
    stride = cost.stride()
    rows, cols = cost.shape[-2:]
    if not _readable(rows, cols, stride[-2], stride[-1]):
        cost = _dense(op, cost)
        stride = cost.stride()
    return CostView(
        cost,
        cost.data_ptr(),
        cost.dtype is torch.float64,
        batch_shape,
        rows,
        cols,
        stride[0] if cost.ndim > 2 else 0,
        *_strides(rows, cols, stride[-2], stride[-1]),
        device,
    )


def _dense(op: str, cost: torch.Tensor) -> torch.Tensor:
    _check_copy(op, cost.numel(), cost.element_size())
    return cost.contiguous()


def _view_array(op: str, cost: Any) -> CostView:
    if isinstance(cost, np.ma.MaskedArray):
        raise TypeError(f"[{op}] expected no mask; fill forbidden entries with infinity")
    array = cost if type(cost) is np.ndarray else _as_array(op, cost)
    dtype = array.dtype
    if dtype.num == 11 or dtype.num == 12:  # float32, float64
        native = dtype.isnative and array.flags.aligned
    else:
        native = False
        if dtype.kind not in "fiub":
            raise TypeError(
                f"[{op}] expected real numbers, got dtype {dtype}; convert the costs to float"
            )
    _check_rank(op, array.ndim, array.shape)
    if not native:
        array = _convert(op, array)
    size = array.itemsize
    batch_shape = array.shape[:-2]
    if array.ndim > 3:
        _check_copy(op, 0 if array.flags.c_contiguous else array.size, size)
        array = array.reshape(-1, *array.shape[-2:])
    *_, row_stride, col_stride = strides = [s // size for s in array.strides]
    exact = all(s % size == 0 for s in array.strides)
    rows, cols = array.shape[-2:]
    if not exact or not _readable(rows, cols, row_stride, col_stride):
        _check_copy(op, array.size, size)
        array = np.ascontiguousarray(array)
        *_, row_stride, col_stride = strides = [s // size for s in array.strides]
    return CostView(
        array,
        array.__array_interface__["data"][0],
        size == 8,
        batch_shape,
        rows,
        cols,
        strides[0] if array.ndim > 2 else 0,
        *_strides(rows, cols, row_stride, col_stride),
        None,
    )


def _as_array(op: str, cost: Any) -> NDArray[Any]:
    try:
        return np.asarray(cost)
    except (ValueError, TypeError) as error:
        raise type(error)(f"[{op}] expected a matrix of numbers: {error}") from None


def _convert(op: str, array: NDArray[Any]) -> NDArray[Any]:
    small = array.dtype.kind == "b" or array.dtype.itemsize < 4
    small = small or (array.dtype.kind == "f" and array.dtype.itemsize == 4)
    _check_copy(op, array.size, 4 if small else 8)
    converted = array.astype(np.float32 if small else np.float64)
    if array.dtype.kind in "iu" and array.size:
        _check_integers(op, float(np.abs(converted).max()))
    return converted


def _check_rank(op: str, rank: int, shape: tuple[int, ...]) -> None:
    if rank < 2:
        raise ValueError(
            f"[{op}] expected a matrix (rows, columns) or a batch of them, got shape {shape}"
        )


def _check_integers(op: str, largest: float) -> None:
    if largest >= EXACT_INTEGERS:
        raise ValueError(
            f"[{op}] expected integers below 2**53 in magnitude, got {largest:.17g}; "
            "subtract an offset or divide by a common factor"
        )


def _check_copy(op: str, count: int, size: int) -> None:
    if count <= 1 << 24:
        return
    needed = count * size
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return
    if needed > memory:
        raise MemoryError(
            f"[{op}] a copy of the costs needs {needed} bytes, this machine has {memory}; "
            "pass float32 or float64 with one contiguous axis, which is read in place"
        )


def _readable(rows: int, cols: int, row_stride: int, col_stride: int) -> bool:
    return (col_stride == 1 or cols == 1 or row_stride == 1 or rows == 1) and (
        row_stride >= 0 and col_stride >= 0
    )


def _strides(rows: int, cols: int, row_stride: int, col_stride: int) -> tuple[int, int]:
    if col_stride == 1 or row_stride == 1:
        return row_stride, col_stride
    # An axis of length one may claim any stride.
    return (row_stride, 1) if cols == 1 else (1, col_stride)
