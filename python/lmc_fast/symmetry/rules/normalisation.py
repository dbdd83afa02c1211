"""Normalisations: which axes they mix and which parameters move with them."""

from __future__ import annotations

from lmc_fast.symmetry.factors import product
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.refine import cut
from lmc_fast.symmetry.rules.registry import register_rule


@register_rule(
    "aten.batch_norm", "aten.instance_norm", "aten.native_batch_norm", "aten.cudnn_batch_norm"
)
def batch_norm(op: Operation) -> Value:
    """Scale, shift and running statistics of every channel, axis 1."""
    x = op["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if op[name] is not None:
            op.unify(x.axes[1], op[name].axes[0])
    op.reduce(x, range(2, len(x.axes)))
    return Value(x.axes)


@register_rule("aten.layer_norm", "aten.rms_norm")
def layer_norm(op: Operation) -> Value:
    """Mixes the last axes as a whole; scale and shift move with them."""
    x = op["input"]
    rank = len(op["normalized_shape"])
    for name in ("weight", "bias"):
        parameter = op.arguments.get(name)
        if parameter is not None:
            for a, b in zip(x.axes[-rank:], parameter.axes, strict=True):
                op.unify(a, b)
    op.reduce(x, range(len(x.axes) - rank, len(x.axes)))
    return Value(x.axes)


@register_rule("aten.group_norm")
def group_norm(op: Operation) -> Value:
    """Whole groups of channels move, and channels within each group."""
    x = op["input"]
    if x.axes[1] and op["num_groups"] > 1:
        cut(product(x.axes[1]), op["num_groups"], op.cause("its groups straddle the units"))
    for name in ("weight", "bias"):
        if op[name] is not None:
            op.unify(x.axes[1], op[name].axes[0])
    op.reduce(x, range(2, len(x.axes)))
    return Value(x.axes)


@register_rule("aten._weight_norm")
def weight_norm(op: Operation) -> Value:
    """Direction and magnitude: one norm for every unit of one axis."""
    v, g, dim = op["v"], op["g"], op["dim"]
    for i, (a, b) in enumerate(zip(v.axes, g.axes, strict=True)):
        if b:
            op.unify(a, b)
        elif i != dim:
            op.reduce(v, [i])
    return Value(v.axes)
