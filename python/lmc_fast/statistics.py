"""Streaming cross-moments of the activations of two networks."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from lmc_fast._cuda.cross_correlation import MODES
from lmc_fast._cuda.launcher import Launcher, launcher_or_none
from lmc_fast._cuda.moments import DeviceMoments, add
from lmc_fast.errors import LmcWarning

CHUNK_ROWS = 512
"""Rows per float32 product: sums of products of sparse activations lose 6e-7 of the correlation at
this length and 3e-5 at 8192. The products are added in float64."""


class CrossMoments:
    """Accumulate the p x q cross block of two sets of units over batches of samples.

    One pass, any order of batches, mergeable. Every chunk is centred by its own mean before it is
    multiplied, and chunks are combined by the pairwise update of Chan, Golub and LeVeque (1983,
    eq. 2.1) in float64, so a mean of 1e3 beside a variance of 1e-6 comes out right.

    Parameters
    ----------
    mode : {"float32", "fast", "exact"}
        Arithmetic of the products: float32 accuracy (on CUDA three products of halves, correlations
        within 2e-6 of float64), one product of halves where the device is faster with it (errors
        of about 1e-3; the CPU computes as in "float32"), or float64.

    Attributes
    ----------
    count : int
        Samples seen (rows times spatial positions).
    mean_x, mean_y : Tensor
        float64, shapes (p,) and (q,).

    Notes
    -----
    Memory: one float64 p x q block and six vectors; never the activations. An update costs
    2 n p q floating-point operations in the dtype of the input (float32 for half precision).
    On CUDA updates only queue work; reading a result waits for it.
    """

    def __init__(self, *, mode: str = "float32") -> None:
        if mode not in MODES:
            raise ValueError(f"CrossMoments: expected mode to be one of {MODES}, got {mode!r}")
        self.mode = mode
        self._count = 0
        self._mean_x = torch.zeros(0, dtype=torch.float64)
        self._mean_y = torch.zeros(0, dtype=torch.float64)
        self._m2_x = self._mean_x
        self._m2_y = self._mean_y
        self._cross = torch.zeros(0, 0, dtype=torch.float64)
        self._dtype = torch.float32
        self._queued: DeviceMoments | None = None

    @property
    def count(self) -> int:
        """Samples seen."""
        return self._count + (self._queued.count if self._queued else 0)

    @property
    def mean_x(self) -> Tensor:
        """Means of the units of A, (p,) float64."""
        self._settle()
        return self._mean_x

    @property
    def mean_y(self) -> Tensor:
        """Means of the units of B, (q,) float64."""
        self._settle()
        return self._mean_y

    def update(self, x: Tensor, y: Tensor) -> None:
        """Add one batch.

        Parameters
        ----------
        x : Tensor, shape (n, p) or (n, p, ...)
            Activations of A; further axes are spatial positions and count as samples.
        y : Tensor, shape (n, q) or (n, q, ...)
            Activations of B on the same samples.

        Raises
        ------
        ValueError
            If the two do not describe the same samples, or the unit counts changed.
        TypeError
            If one is not a real floating-point tensor.
        """
        update_moments([self], [x], [y])

    def _check(self, x: Tensor, y: Tensor) -> None:
        for name, tensor in (("x", x), ("y", y)):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
                raise TypeError(
                    f"CrossMoments.update: expected {name} of a float dtype, got {kind}"
                )
        if x.ndim < 2 or y.ndim < 2 or x.shape[:1] + x.shape[2:] != y.shape[:1] + y.shape[2:]:
            raise ValueError(
                "CrossMoments.update: expected x (n, p, ...) and y (n, q, ...) over the same "
                f"samples, got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if x.device != y.device:
            raise ValueError(
                f"CrossMoments.update: expected one device, got {x.device} and {y.device}"
            )
        shape = self._queued.buffers.cross.shape if self._queued else self._cross.shape
        if self.count and (x.shape[1], y.shape[1]) != tuple(shape):
            raise ValueError(
                f"CrossMoments.update: expected p, q = {shape[0]}, {shape[1]} as before, "
                f"got {x.shape[1]}, {y.shape[1]}"
            )

    def _add(self, x: Tensor, y: Tensor) -> None:
        """Multiply with torch, chunk by chunk."""
        least = torch.float64 if self.mode == "exact" else torch.float32
        dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), least)
        rows_x, rows_y = _as_rows(x.detach(), dtype), _as_rows(y.detach(), dtype)
        for start in range(0, len(rows_x), CHUNK_ROWS):
            self.merge(
                _moments_of(rows_x[start : start + CHUNK_ROWS], rows_y[start : start + CHUNK_ROWS])
            )

    def merge(self, other: CrossMoments) -> None:
        """Add the samples of another accumulator to this one; `other` is left unchanged."""
        self._settle()
        other._settle()
        if not other.count:
            return
        if not self.count:
            held = {k: v.clone() if isinstance(v, Tensor) else v for k, v in vars(other).items()}
            self.__dict__.update(held, mode=self.mode)
            return
        if self._cross.shape != other._cross.shape:
            raise ValueError(
                f"CrossMoments.merge: expected a {tuple(self._cross.shape)} block, got "
                f"{tuple(other._cross.shape)}"
            )
        total = self._count + other._count
        delta_x, delta_y = other._mean_x - self._mean_x, other._mean_y - self._mean_y
        weight = self._count * other._count / total
        self._cross.add_(other._cross).addr_(delta_x, delta_y, alpha=weight)
        self._m2_x = self._m2_x + other._m2_x + weight * delta_x.square()
        self._m2_y = self._m2_y + other._m2_y + weight * delta_y.square()
        self._mean_x = self._mean_x + delta_x * (other._count / total)
        self._mean_y = self._mean_y + delta_y * (other._count / total)
        self._count = total
        self._dtype = torch.promote_types(self._dtype, other._dtype)

    def _settle(self) -> None:
        """Take in what the device has accumulated."""
        queued, self._queued = self._queued, None
        if queued is None or not queued.count:
            return
        found = queued.central()
        if found.overflowed:
            raise OutOfRangeError(
                "CrossMoments: expected values within 4000 standard deviations of the first "
                "batch, got larger ones: use mode='exact'"
            )
        if found.imprecise:
            warnings.warn(
                f"{found.imprecise} units vary far less than in the first batch, their "
                "correlations have few digits: use mode='exact'",
                LmcWarning,
                stacklevel=3,
            )
        part = CrossMoments(mode=self.mode)
        part._count, part._mean_x, part._mean_y = found.samples, found.mean_x, found.mean_y
        part._m2_x, part._m2_y, part._cross = found.m2_x, found.m2_y, found.cross
        part._dtype = self._dtype
        self.merge(part)

    def covariance(self) -> Tensor:
        """Return the (p, q) population covariance, ``E[(x - E x)(y - E y)]``."""
        self._require_samples()
        return (self._cross / self.count).to(self._dtype)

    def correlation(self) -> Tensor:
        """Return the (p, q) Pearson correlation; 0 in the rows and columns of dead units."""
        self._require_samples()
        scale_x = _inverse_root(self._m2_x, self.dead_x)
        scale_y = _inverse_root(self._m2_y, self.dead_y)
        product = self._cross * scale_x[:, None]
        return product.mul_(scale_y).clamp_(-1, 1).to(self._dtype)

    def gram(self) -> Tensor:
        """Return the (p, q) uncentred products summed over samples, ``X^T Y``."""
        self._require_samples()
        return torch.addr(self._cross, self.mean_x, self.mean_y, alpha=self.count).to(self._dtype)

    def cosine(self) -> Tensor:
        """Return the (p, q) uncentred cosine similarity; 0 where a unit is always 0."""
        self._require_samples()
        square_x = self._m2_x + self.count * self.mean_x.square()
        square_y = self._m2_y + self.count * self.mean_y.square()
        product = torch.addr(self._cross, self.mean_x, self.mean_y, alpha=self.count)
        product.mul_(_inverse_root(square_x, square_x == 0)[:, None])
        return product.mul_(_inverse_root(square_y, square_y == 0)).clamp_(-1, 1).to(self._dtype)

    @property
    def dead_x(self) -> Tensor:
        """Boolean (p,): units of A that are constant up to rounding."""
        self._settle()
        return _is_constant(self._m2_x, self.mean_x, self.count, self._dtype)

    @property
    def dead_y(self) -> Tensor:
        """Boolean (q,): units of B that are constant up to rounding."""
        self._settle()
        return _is_constant(self._m2_y, self.mean_y, self.count, self._dtype)

    def _require_samples(self) -> None:
        if not self.count:
            raise ValueError(
                "CrossMoments: expected at least one sample, got none: call update first"
            )
        self._settle()


class OutOfRangeError(ValueError):
    """A value too large for the arithmetic of the mode."""


def update_moments(
    moments: Sequence[CrossMoments], xs: Sequence[Tensor], ys: Sequence[Tensor]
) -> None:
    """Add one batch to many accumulators, as `CrossMoments.update` does to one.

    On CUDA one launch serves all layers of a network, whatever their sizes.
    """
    queued: dict[tuple[torch.device, str], list[tuple[DeviceMoments, Tensor, Tensor]]] = {}
    for held, x, y in zip(moments, xs, ys, strict=True):
        held._check(x, y)
        x, y = x.detach(), y.detach()
        if launcher_of(x) is None:
            held._add(x, y)
            continue
        if held._queued is None:
            held._queued = DeviceMoments(x.shape[1], y.shape[1], x.device)
        least = torch.float64 if held.mode == "exact" else held._dtype
        held._dtype = torch.promote_types(least, torch.promote_types(x.dtype, y.dtype))
        queued.setdefault((x.device, held.mode), []).append((held._queued, x, y))
    for (_, mode), layers in queued.items():
        launcher = launcher_of(layers[0][1])
        if launcher is not None:
            add(layers, launcher=launcher, mode=mode)


def launcher_of(x: Tensor) -> Launcher | None:
    """Who runs the kernels on a tensor's device; None where torch multiplies."""
    return launcher_or_none(x.device, "cross_correlation") if x.is_cuda else None


def _as_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring (n, p, ...) to (n * positions, p)."""
    return (x if x.ndim == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])).to(dtype)


def _moments_of(x: Tensor, y: Tensor) -> CrossMoments:
    """Moments of one chunk, centred by its own mean rounded to the dtype of the data."""
    result = CrossMoments()
    result._count = len(x)
    result._dtype = x.dtype
    shift_x = x.mean(0, dtype=torch.float64).to(x.dtype)
    shift_y = y.mean(0, dtype=torch.float64).to(y.dtype)
    dx, dy = x - shift_x, y - shift_y
    sum_x, sum_y = dx.sum(0, dtype=torch.float64), dy.sum(0, dtype=torch.float64)
    result._cross = torch.mm(dx.T, dy).double().addr_(sum_x, sum_y, alpha=-1 / len(x))
    result._m2_x = dx.square().sum(0, dtype=torch.float64) - sum_x.square() / len(x)
    result._m2_y = dy.square().sum(0, dtype=torch.float64) - sum_y.square() / len(y)
    result._mean_x = shift_x.double() + sum_x / len(x)
    result._mean_y = shift_y.double() + sum_y / len(y)
    return result


def _is_constant(m2: Tensor, mean: Tensor, count: int, dtype: torch.dtype) -> Tensor:
    return m2 <= count * (torch.finfo(dtype).eps * mean).square()


def _inverse_root(square: Tensor, zero: Tensor) -> Tensor:
    return torch.where(zero, 0.0, square.clamp_min(torch.finfo(torch.float64).tiny).rsqrt())


def cross_correlation(
    x: Tensor,
    y: Tensor,
    *,
    centered: bool = True,
    normalized: bool = True,
    mode: str = "float32",
) -> Tensor:
    """Return how alike the units of two activation matrices are.

    Parameters
    ----------
    x : Tensor, shape (n, p) or (n, p, ...)
        Activations of A; further axes are spatial positions and count as samples.
    y : Tensor, shape (n, q) or (n, q, ...)
        Activations of B on the same samples.
    centered : bool
        Subtract the mean of every unit.
    normalized : bool
        Divide by the norm of every unit.
    mode : {"float32", "fast", "exact"}
        See `CrossMoments`. Values out of range of the first two are computed in float64.

    Returns
    -------
    Tensor, shape (p, q)
        Pearson correlation by default; covariance (not normalized), cosine (not centered) or the
        gram matrix ``X^T Y`` (neither). Constant units have correlation 0. The dtype and device
        follow the input; half precision computes and returns float32.

    Raises
    ------
    ValueError
        If there are no samples or the two do not describe the same samples.
    TypeError
        If one is not a float tensor.

    Examples
    --------
    >>> import torch, lmc_fast
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]])
    >>> [round(c, 4) for c in lmc_fast.cross_correlation(x, x)[0].tolist()]
    [1.0, -0.866]
    """
    moments = CrossMoments(mode=mode)
    moments.update(x, y)
    try:
        moments._settle()
    except OutOfRangeError:
        dtype = moments._dtype
        moments = CrossMoments(mode="exact")
        moments.update(x, y)
        moments._dtype = dtype
    if centered:
        return moments.correlation() if normalized else moments.covariance()
    return moments.cosine() if normalized else moments.gram()
