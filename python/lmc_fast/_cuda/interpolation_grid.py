"""The last layers of a network at many points of weight space, with their loss, in one kernel."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from lmc_fast._cuda.launcher import Launcher

MAX_ANCHORS = 3

_THREADS = 128
_TILE_SAMPLES = 128
_TILE_POINTS = 8
_TILE_CLASSES = 10
_DEPTH = 16
_HEAD_SAMPLES = 256
_HEAD_DEPTH = 64

MAX_POINTS = 65535 * _TILE_POINTS
"""Of one call of `mixed_cross_entropy`: what fits into a grid."""


class _Scoring(ctypes.Structure):
    _fields_ = (
        ("targets", ctypes.c_void_p),
        ("loss", ctypes.c_void_p),
        ("wrong", ctypes.c_void_p),
        ("status", ctypes.c_void_p),
        ("points", ctypes.c_int),
        ("samples", ctypes.c_int),
        ("hidden", ctypes.c_int),
        ("classes", ctypes.c_int),
    )


class _GridParams(ctypes.Structure):
    _fields_ = (
        ("scoring", _Scoring),
        ("preactivations", ctypes.c_void_p * MAX_ANCHORS),
        ("weights", ctypes.c_void_p * MAX_ANCHORS),
        ("biases", ctypes.c_void_p * MAX_ANCHORS),
        ("shares", ctypes.c_void_p),
        ("aligned", ctypes.c_int),
    )


class _HeadParams(ctypes.Structure):
    _fields_ = (
        ("scoring", _Scoring),
        ("activations", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("biases", ctypes.c_void_p),
        ("rectify", ctypes.c_int),
    )


def mixed_cross_entropy(
    preactivations: Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shares: Tensor,
    targets: Tensor,
    status: Tensor,
    *,
    launcher: Launcher,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and error of every sample at every point.

    Point k has ``hidden = relu(sum_a shares[k, a] preactivations[a])`` and logits
    ``hidden @ W.T + b`` with W and b mixed alike.

    Parameters
    ----------
    preactivations : 2 or 3 of Tensor, (samples, hidden) float32
    weights, biases : as many of Tensor, (classes, hidden) and (classes,) float32
    shares : Tensor, (points, anchors) float32
        At most `MAX_POINTS` points.
    targets : Tensor, (samples,) int64
        A class, or -100 for a sample to leave out.
    status : Tensor, (1,) int32
        Set to 1 where a target is no class; read it once, at the end.

    Returns
    -------
    loss, wrong : Tensor, (points, samples) float64 and uint8
        `wrong` is 1 where another class than the target has the greatest logit (the first of
        equals); both are 0 for samples left out.

    Notes
    -----
    points * samples * hidden * (classes + anchors + 1) multiply-adds in float32; the mixed
    activations are never stored.
    """
    (samples, hidden), (points, anchors) = preactivations[0].shape, shares.shape
    loss, wrong = _scores(points, samples, shares.device)
    if loss.numel() == 0:
        return loss, wrong
    kept = [[t.contiguous() for t in group] for group in (preactivations, weights, biases)]
    shares, targets = shares.contiguous(), targets.contiguous()
    params = _GridParams(
        scoring=_scoring(loss, wrong, targets, status, hidden, len(kept[1][0])),
        shares=shares.data_ptr(),
        aligned=hidden % 4 == 0 and all(t.data_ptr() % 16 == 0 for t in kept[0]),
    )
    for field, group in zip(
        (params.preactivations, params.weights, params.biases), kept, strict=True
    ):
        for a, tensor in enumerate(group):
            field[a] = tensor.data_ptr()
    grid = (-(-samples // _TILE_SAMPLES), -(-points // _TILE_POINTS), 1)
    tiles = 2 * anchors * _TILE_SAMPLES * (_DEPTH + 4)
    shared = 4 * (tiles + 2 * _TILE_POINTS * _TILE_CLASSES * _DEPTH)
    launcher.launch(f"interpolation_grid_{anchors}", grid, _THREADS, shared, params)
    return loss, wrong


def head_cross_entropy(
    activations: Tensor,
    weights: Tensor,
    biases: Tensor,
    targets: Tensor,
    status: Tensor,
    *,
    rectify: bool,
    launcher: Launcher,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and error of every sample at points that have activations of their own.

    Parameters
    ----------
    activations : Tensor, (points, hidden, samples) float32
    weights, biases : Tensor, (points, classes, hidden) and (points, classes) float32
    targets, status
        As for `mixed_cross_entropy`.
    rectify : bool
        Apply a ReLU to the activations first.

    Returns
    -------
    loss, wrong : Tensor, (points, samples) float64 and uint8
        As for `mixed_cross_entropy`.

    Notes
    -----
    points * samples * hidden * classes multiply-adds in float32. The activations are read once for
    every ten classes and not written; logits are never stored.
    """
    points, hidden, samples = activations.shape
    loss, wrong = _scores(points, samples, activations.device)
    if loss.numel() == 0:
        return loss, wrong
    activations, weights = activations.contiguous(), weights.contiguous()
    biases, targets = biases.contiguous(), targets.contiguous()
    params = _HeadParams(
        scoring=_scoring(loss, wrong, targets, status, hidden, weights.shape[1]),
        activations=activations.data_ptr(),
        weights=weights.data_ptr(),
        biases=biases.data_ptr(),
        rectify=rectify,
    )
    grid = (points * -(-samples // _HEAD_SAMPLES), 1, 1)
    shared = 4 * 2 * _TILE_CLASSES * _HEAD_DEPTH
    launcher.launch("interpolation_head", grid, _THREADS, shared, params)
    return loss, wrong


def _scores(points: int, samples: int, device: torch.device) -> tuple[Tensor, Tensor]:
    loss = torch.empty(points, samples, dtype=torch.float64, device=device)
    return loss, torch.empty_like(loss, dtype=torch.uint8)


def _scoring(
    loss: Tensor, wrong: Tensor, targets: Tensor, status: Tensor, hidden: int, classes: int
) -> _Scoring:
    return _Scoring(
        targets=targets.data_ptr(),
        loss=loss.data_ptr(),
        wrong=wrong.data_ptr(),
        status=status.data_ptr(),
        points=len(loss),
        samples=loss.shape[1],
        hidden=hidden,
        classes=classes,
    )
