"""The rival that every CUDA install of torch carries: a Triton kernel of the same method."""

# No postponed annotations: Triton reads which arguments are constants from them.
import torch
import triton
import triton.language as tl
from torch import Tensor


def triton_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of two row-major float32 matrices."""
    (n, p), q = x.shape, y.shape[1]
    variance_x, mean_x = torch.var_mean(x, 0, correction=0)
    variance_y, mean_y = torch.var_mean(y, 0, correction=0)
    grid_p, grid_q = triton.cdiv(p, 128), triton.cdiv(q, 128)
    slabs = max(1, min(528 // (grid_p * grid_q), n // 1024))
    length = triton.cdiv(triton.cdiv(n, slabs), 128) * 128
    slabs = triton.cdiv(n, length)
    out = torch.empty(slabs, p, q, device=x.device)
    cross_product[(grid_p, grid_q, slabs)](
        x,
        y,
        mean_x,
        mean_y,
        variance_x.rsqrt(),
        variance_y.rsqrt(),
        out,
        n,
        p,
        q,
        length,
        num_warps=8,
        num_stages=3,
    )
    return out.sum(0) / n


@triton.jit
def cross_product(x, y, mean_x, mean_y, scale_x, scale_y, out, n, p, q, length):
    """Three products of halves, promoted every 128 rows, for one tile and one slab of rows."""
    i = tl.program_id(0) * 128 + tl.arange(0, 128)
    j = tl.program_id(1) * 128 + tl.arange(0, 128)
    k = tl.arange(0, 32)
    first = tl.program_id(2) * length
    shift_x = tl.load(mean_x + i, i < p, 0.0)[None, :]
    shift_y = tl.load(mean_y + j, j < q, 0.0)[None, :]
    unit_x = tl.load(scale_x + i, i < p, 0.0)[None, :]
    unit_y = tl.load(scale_y + j, j < q, 0.0)[None, :]
    total = tl.zeros((128, 128), tl.float32)
    for block in range(0, length, 128):
        chain = tl.zeros((128, 128), tl.float32)
        for part in range(0, 128, 32):
            r = (first + block + part + k).to(tl.int64)[:, None]
            a = tl.load(x + r * p + i[None, :], (r < n) & (i < p)[None, :], 0.0)
            b = tl.load(y + r * q + j[None, :], (r < n) & (j < q)[None, :], 0.0)
            a = tl.where(r < n, (a - shift_x) * unit_x, 0.0)
            b = tl.where(r < n, (b - shift_y) * unit_y, 0.0)
            a_high = a.to(tl.float16)
            b_high = b.to(tl.float16)
            a_low = (a - a_high.to(tl.float32)).to(tl.float16)
            b_low = (b - b_high.to(tl.float32)).to(tl.float16)
            chain = tl.dot(tl.trans(a_low), b_high, chain)
            chain = tl.dot(tl.trans(a_high), b_low, chain)
            chain = tl.dot(tl.trans(a_high), b_high, chain)
        total += chain
    at = (tl.program_id(2) * p + i[:, None]).to(tl.int64) * q + j[None, :]
    tl.store(out + at, total, (i < p)[:, None] & (j < q)[None, :])
