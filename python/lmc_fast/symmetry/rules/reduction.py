"""Reductions, softmax and other operations on whole fibres of a tensor."""

from __future__ import annotations

from lmc_fast.symmetry.operation import Operation, Result, Value, normalise_dim, normalise_dims
from lmc_fast.symmetry.rules.elementwise import broadcast
from lmc_fast.symmetry.rules.registry import register_rule
from lmc_fast.symmetry.rules.shape import pieces


@register_rule(
    "aten.sum",
    "aten.mean",
    "aten.amax",
    "aten.amin",
    "aten.var",
    "aten.std",
    "aten.prod",
    "aten.logsumexp",
    "aten.linalg_vector_norm",
    "aten.norm",
    "aten.all",
    "aten.any",
    "aten.nansum",
    "aten.count_nonzero",
)
def reduction(op: Operation) -> Value:
    """A symmetric function of every fibre: the axis vanishes."""
    return _reduced(op)


def _reduced(op: Operation) -> Value:
    x = op.tensors[0]
    dims = normalise_dims(op.arguments.get("dim"), len(x.axes))
    op.reduce(x, dims)
    if op.arguments.get("keepdim", False):
        return Value(tuple(() if d in dims else axis for d, axis in enumerate(x.axes)))
    return Value(tuple(axis for d, axis in enumerate(x.axes) if d not in dims))


@register_rule("aten.var_mean", "aten.std_mean")
def two_moments(op: Operation) -> list[Value]:
    """Two reductions at once."""
    return [_reduced(op), _reduced(op)]


@register_rule(
    "aten.softmax",
    "aten._softmax",
    "aten._safe_softmax",
    "aten.log_softmax",
    "aten._log_softmax",
    "aten.softmin",
)
def softmax(op: Operation) -> Value:
    """Every entry is treated alike within its fibre."""
    x = op.tensors[0]
    op.reduce(x, [normalise_dim(op["dim"], len(x.axes))])
    return Value(x.axes)


@register_rule("aten.glu")
def glu(op: Operation) -> Value:
    """One half of an axis gates the other."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    half = x.shape[dim] // 2
    first, second = pieces(op, x, dim, [half, half])
    op.unify(first.axes[dim], second.axes[dim])
    return first


@register_rule(
    "aten.cumsum",
    "aten.cumprod",
    "aten.argmax",
    "aten.argmin",
    "aten.max",
    "aten.min",
    "aten.topk",
    "aten.sort",
    "aten.argsort",
)
def ordered(op: Operation) -> Result:
    """The order of the entries, or their number, shows in the result: the axis is fixed."""
    x = op.tensors[0]
    if len(op.tensors) > 1:
        return broadcast(op, op.tensors)
    dims = normalise_dims(op.arguments.get("dim"), len(x.axes))
    if op.name in ("aten.max", "aten.min") and "dim" not in op.arguments:
        return _reduced(op)
    op.pin([x.axes[d] for d in dims], "the result depends on the order along the axis")
    op.reduce(x, dims)
    results: list[Value] = []
    for shape in op.shapes:
        if len(shape) == len(x.axes):
            axes = [op.fixed(shape[d]) if d in dims else axis for d, axis in enumerate(x.axes)]
        else:
            axes = [axis for d, axis in enumerate(x.axes) if d not in dims]
        results.append(Value(tuple(axes)))
    return results[0] if len(results) == 1 else results
