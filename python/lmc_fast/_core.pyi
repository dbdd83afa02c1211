from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

def compiler() -> str: ...

class AssignmentBatch:
    def __init__(
        self,
        address: int,
        float64: bool,
        batch: int,
        batch_stride: int,
        rows: int,
        cols: int,
        row_stride: int,
        col_stride: int,
        prefer: NDArray[np.int64] | None,
        initial_u: NDArray[np.float64] | None,
        initial_v: NDArray[np.float64] | None,
        cols_out: NDArray[np.int64],
        reports: NDArray[np.float64],
        u: NDArray[np.float64] | None,
        v: NDArray[np.float64] | None,
        margins: NDArray[np.float64] | None,
        regrets: NDArray[np.float64] | None,
    ) -> None: ...

def solve_assignments(
    batches: Sequence[AssignmentBatch], maximize: bool, keep: bool, max_gap: float, threads: int
) -> tuple[int, int, int, int, int]: ...
def solve_matrix(
    matrix: NDArray[np.float32] | NDArray[np.float64],
    maximize: bool,
    threads: int,
    pairs: NDArray[np.int64],
    /,
) -> bool: ...
def cuda_device_count() -> int: ...

class CudaModule:
    def __init__(self, device: int, image: bytes) -> None: ...
    def kernel(self, name: str, shared_bytes: int) -> int: ...
    def launch(
        self,
        kernel: int,
        x: int,
        y: int,
        z: int,
        threads: int,
        shared_bytes: int,
        stream: int,
        params: bytes,
    ) -> None: ...

def cross_entropy(
    logits: NDArray[np.float32],
    labels: NDArray[np.int32],
    loss: NDArray[np.float32],
    wrong: NDArray[np.uint8],
    sums: NDArray[np.float64],
    threads: int,
) -> None: ...
def mixed_units(
    rows: NDArray[np.float32],
    unit_rows: NDArray[np.int64],
    networks: NDArray[np.int64],
    shares: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
    shift: NDArray[np.float32] | None,
    relu: bool,
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def mixed_relu_linear(
    rows: NDArray[np.float32],
    unit_rows: NDArray[np.int64],
    networks: NDArray[np.int64],
    shares: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
    shift: NDArray[np.float32] | None,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32],
    out: NDArray[np.float32],
    threads: int,
) -> None: ...
def relu_network_bytes(units: list[int]) -> int: ...
def mixed_relu_network(
    rows: NDArray[np.float32],
    unit_rows: NDArray[np.int64],
    networks: NDArray[np.int64],
    shares: NDArray[np.float32],
    scale: NDArray[np.float32] | None,
    shift: NDArray[np.float32] | None,
    layers: list[
        tuple[
            list[NDArray[np.float32]],
            list[NDArray[np.float32]],
            NDArray[np.float32] | None,
            NDArray[np.float32] | None,
        ]
    ],
    out: NDArray[np.float32],
    instruction_set: int,
    threads: int,
) -> None: ...

best_instruction_set: int

_Sum = tuple[int, tuple[int, ...], int, tuple[int, ...], int, int, int, int, int]

def add_products_float32(
    updates: list[tuple[list[_Sum], int, int, bool]], instruction_set: int, threads: int
) -> None: ...
def add_products_float64(
    updates: list[tuple[list[_Sum], int, int, bool]], instruction_set: int, threads: int
) -> None: ...
def row_inner_products_float32(
    tensors: list[tuple[int, int, int, int, int, int, int]],
    sums: NDArray[np.float64],
    threads: int,
) -> None: ...
def row_inner_products_float64(
    tensors: list[tuple[int, int, int, int, int, int, int]],
    sums: NDArray[np.float64],
    threads: int,
) -> None: ...
def matched_sums_float32(
    similarity: int, units: int, current: int, target: int
) -> tuple[float, float, float, float, int]: ...
def matched_sums_float64(
    similarity: int, units: int, current: int, target: int
) -> tuple[float, float, float, float, int]: ...
def changed_rows(rows: int, last: int, found: NDArray[np.int64]) -> int: ...
