"""Losses per example, of many points in weight space at once.

A `Loss` maps outputs with a leading axis of points, and the targets they share, to `Scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

import lmc_fast._core as _core
from lmc_fast.barrier.temperature import tempered_sums

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]

_BLOCK = 1 << 24


@dataclass(frozen=True)
class Scores:
    """Sums over the terms (labels, tokens or outputs) of each example.

    Attributes
    ----------
    loss
        Shape (K, B), float64 or float32: summed loss of each example at each of K points.
    error
        Shape (K, B), integer: how many terms are predicted wrongly; None without class targets.
    weight
        Shape (B,), float64: how many terms each example has.
    tempered
        Shape (K, grid, 3), float64: the sums of `lmc_fast.barrier.temperature.tempered_sums`.
    invalid
        One boolean on the device, read at the end: whether some target is no class. None where
        the targets were checked already.
    graded
        Likewise: whether some target lies between two classes, so that no error is defined.
    sums
        Shape (K, 2), float64: the sums over the examples of loss and error, where known already.
    """

    loss: Tensor
    error: Tensor | None
    weight: Tensor
    tempered: Tensor | None = None
    invalid: Tensor | None = None
    graded: Tensor | None = None
    sums: Tensor | None = None

    def totals(self) -> tuple[Tensor, Tensor | None]:
        """Return the sums over the examples of loss, float64, and error, int64, each (K,)."""
        if self.sums is not None:
            return self.sums[:, 0], self.sums[:, 1].long()
        error = None if self.error is None else self.error.sum(1, dtype=torch.int64)
        return self.loss.double().sum(1), error


@dataclass(frozen=True)
class Loss:
    """A named loss: its name, and the function from outputs (K, B, ...) and targets to scores."""

    name: str
    score: Callable[[Any, Any], Scores]
    stacked: bool
    """Whether outputs come as one tensor (K, B, ...), else as a list of K outputs."""
    doubles: int = 4
    """How many numbers of 8 bytes are held for each output component at once, at most."""
    tempered: bool = False
    """Whether scores hold what `lmc_fast.barrier.temperature` needs."""

    def bytes_per_output(self, like: Tensor) -> int:
        """Return what scoring takes for each output component of outputs like ``like``."""
        compiled = self.name in _CLASSIFYING and not self.tempered and _is_compiled(like)
        # The compiled loss takes a copy of the outputs by class, and results of a few bytes.
        return 2 * like.element_size() if compiled else 8 * self.doubles


def make_loss(loss: str | LossFunction, *, calibrate_temperature: bool = False) -> Loss:
    """Return the `Loss` of a name or of a callable ``loss(output, target)``.

    Names
    -----
    cross_entropy
        Logits (B, C, ...) with class targets (B, ...), or with probabilities of the logits' shape.
    token_cross_entropy
        Logits (B, ..., C) with token targets (B, ...). Both leave out targets equal to -100.
    binary_cross_entropy
        One logit per term, of the targets' shape up to a last axis of length one.
    mse, l1
        Outputs of the targets' shape, likewise; averaged over all output components.

    A callable gets one point's raw output and the targets, and returns the mean over the batch
    (zero-dimensional), or one loss per example (B, ...), whose trailing axes are averaged.

    With ``calibrate_temperature``, which takes class targets, scores also hold what
    `lmc_fast.barrier.temperature` needs.
    """
    if calibrate_temperature:
        if callable(loss) or loss not in _CLASSIFYING:
            raise ValueError(
                f"calibrate_temperature needs loss to be one of {', '.join(_CLASSIFYING)}, "
                f"got {loss!r}"
            )
        score = partial(_CLASSIFYING[loss], temper=True)
        return Loss(loss, score, stacked=True, doubles=8, tempered=True)
    if callable(loss):
        return Loss(getattr(loss, "__name__", type(loss).__name__), _Custom(loss), stacked=False)
    if loss not in _NAMED:
        raise ValueError(
            f"loss must be a callable or one of {', '.join(sorted(_NAMED))}, got {loss!r}"
        )
    return Loss(loss, _NAMED[loss], stacked=True)


def logits_of(output: Any) -> Tensor:
    """Return the tensor of a model's output: itself, its ``logits``, or the first of a tuple."""
    logits = getattr(output, "logits", output)
    if isinstance(logits, (tuple, list)) and logits:
        logits = logits[0]
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"a named loss needs a model that returns a tensor, got {type(output).__name__}; "
            "give loss= a callable"
        )
    return logits


def _cross_entropy(outputs: Tensor, targets: Tensor, *, temper: bool = False) -> Scores:
    if outputs.dim() < 3:
        raise ValueError(
            "cross_entropy needs logits of shape (batch, classes, ...), "
            f"got {tuple(outputs.shape[1:])}"
        )
    return _classify(outputs.movedim(2, -1), targets, "cross_entropy", temper)


def _token_cross_entropy(outputs: Tensor, targets: Tensor, *, temper: bool = False) -> Scores:
    return _classify(outputs, targets, "token_cross_entropy", temper)


def _classify(logits: Tensor, targets: Tensor, name: str, temper: bool) -> Scores:
    """Cross-entropy of logits (K, B, ..., C)."""
    points, examples, classes = logits.shape[0], logits.shape[1], logits.shape[-1]
    if targets.is_floating_point():
        if temper:
            raise ValueError("calibrate_temperature needs class targets, got probabilities")
        if targets.dim() != logits.dim() - 1:
            raise ValueError(_mismatch(name, logits, targets))
        targets = targets.movedim(1, -1) if name == "cross_entropy" else targets
        if targets.shape != logits.shape[1:]:
            raise ValueError(_mismatch(name, logits, targets))
        terms = -(F.log_softmax(logits.double(), dim=-1) * targets).sum(-1)
        weight = terms.new_full((examples,), terms[0, 0].numel() if examples else 1)
        return Scores(terms.reshape(points, examples, -1).sum(-1), None, weight)
    if targets.shape != logits.shape[1:-1]:
        raise ValueError(_mismatch(name, logits, targets))
    labels = targets.reshape(-1).long()
    kept = labels != -100
    labels = labels.where(kept, 0)
    outside = (labels < 0) | (labels >= classes)
    invalid = None
    if labels.device.type != "cpu":
        # Reading it now would wait for the device at every batch.
        invalid = outside.any()
        labels = labels.where(~outside, 0)
    elif outside.any():
        raise ValueError(
            f"{name}: class targets must lie in 0..{classes - 1}, "
            f"got {int(labels.min())}..{int(labels.max())}"
        )
    weight = kept.reshape(examples, -1).sum(-1, dtype=torch.float64)
    if _is_compiled(logits) and not temper:
        return _classify_compiled(logits, labels.where(kept, -1), weight)
    flat = logits.reshape(points, -1, classes)
    loss = torch.empty(flat.shape[:2], dtype=torch.float64, device=flat.device)
    wrong = torch.empty_like(loss, dtype=torch.uint8)
    tempered = None
    step = max(1, _BLOCK // max(1, points * classes))
    for start in range(0, flat.shape[1], step):
        block, label = flat[:, start : start + step], labels[start : start + step]
        wide = block.double()
        picked = wide.gather(2, label.expand(points, -1)[..., None])[..., 0]
        loss[:, start : start + step] = torch.logsumexp(wide, dim=2) - picked
        wrong[:, start : start + step] = block.argmax(dim=2) != label
        if temper:
            sums = tempered_sums(wide, picked, kept[start : start + step])
            tempered = sums if tempered is None else tempered + sums
    return Scores(
        loss.where(kept, 0.0).reshape(points, examples, -1).sum(-1),
        wrong.where(kept, 0).reshape(points, examples, -1).sum(-1, dtype=torch.int64),
        weight,
        tempered,
        invalid,
    )


def _is_compiled(like: Tensor) -> bool:
    return like.dtype == torch.float32 and like.device.type == "cpu"


def _classify_compiled(logits: Tensor, labels: Tensor, weight: Tensor) -> Scores:
    """Cross-entropy of float32 logits (K, B, ..., C); a negative label leaves its term out."""
    points, examples, classes = logits.shape[0], logits.shape[1], logits.shape[-1]
    by_class = logits.reshape(points, -1, classes).transpose(1, 2).contiguous()
    loss = by_class.new_empty(points, by_class.shape[2])
    wrong = torch.empty(loss.shape, dtype=torch.uint8)
    sums = torch.empty(points, 2, dtype=torch.float64)
    _core.cross_entropy(
        by_class.numpy(),
        labels.int().numpy(),
        loss.numpy(),
        wrong.numpy(),
        sums.numpy(),
        torch.get_num_threads(),
    )
    if by_class.shape[2] == examples:
        return Scores(loss, wrong, weight, sums=sums)
    return Scores(
        loss.reshape(points, examples, -1).sum(-1, dtype=torch.float64),
        wrong.reshape(points, examples, -1).sum(-1, dtype=torch.int64),
        weight,
        sums=sums,
    )


def _binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Scores:
    logits, wanted = _like_targets("binary_cross_entropy", outputs, targets)
    terms = F.binary_cross_entropy_with_logits(
        logits.double(), wanted.double().expand_as(logits), reduction="none"
    )
    graded = ((wanted != 0) & (wanted != 1)).any()
    return replace(_summed(terms, (logits > 0) != (wanted > 0.5)), graded=graded)


def _mse(outputs: Tensor, targets: Tensor) -> Scores:
    predicted, wanted = _like_targets("mse", outputs, targets)
    return _summed((predicted.double() - wanted.double()).square(), None)


def _l1(outputs: Tensor, targets: Tensor) -> Scores:
    predicted, wanted = _like_targets("l1", outputs, targets)
    return _summed((predicted.double() - wanted.double()).abs(), None)


def _like_targets(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if outputs.shape[1:] == (*targets.shape, 1):
        outputs = outputs[..., 0]
    if outputs.shape[1:] != targets.shape:
        raise ValueError(
            f"{name}: outputs of shape {tuple(outputs.shape[1:])} and targets of shape "
            f"{tuple(targets.shape)} must agree"
        )
    return outputs, targets


def _summed(terms: Tensor, wrong: Tensor | None) -> Scores:
    points, examples = terms.shape[:2]
    flat = terms.reshape(points, examples, -1)
    return Scores(
        flat.sum(-1),
        None if wrong is None else wrong.reshape(points, examples, -1).sum(-1, dtype=torch.int64),
        flat.new_full((examples,), flat.shape[2]),
    )


@dataclass(frozen=True)
class _Custom:
    """Scores by a user's ``loss(output, target)``, one point after the other."""

    function: LossFunction

    def __call__(self, outputs: list[Any], targets: Tensor) -> Scores:
        losses = [torch.as_tensor(self.function(output, targets)).double() for output in outputs]
        examples = targets.shape[0]
        rows = []
        for loss in losses:
            if loss.dim() == 0:
                rows.append(loss.expand(examples))
            elif loss.shape[0] == examples:
                rows.append(loss.reshape(examples, -1).mean(-1))
            else:
                raise ValueError(
                    "a loss callable must return a scalar or one value per example "
                    f"({examples}), got shape {tuple(loss.shape)}"
                )
        stacked = torch.stack(rows)
        return Scores(stacked, None, stacked.new_ones(examples))


def _mismatch(name: str, logits: Tensor, targets: Tensor) -> str:
    return (
        f"{name}: logits {tuple(logits.shape[1:])} (classes last) and targets "
        f"{tuple(targets.shape)} do not fit; targets lack the class axis, or have the logits' shape"
    )


_CLASSIFYING: dict[str, Callable[..., Scores]] = {
    "cross_entropy": _cross_entropy,
    "token_cross_entropy": _token_cross_entropy,
}

_NAMED: dict[str, Callable[..., Scores]] = {
    **_CLASSIFYING,
    "binary_cross_entropy": _binary_cross_entropy,
    "mse": _mse,
    "l1": _l1,
}
