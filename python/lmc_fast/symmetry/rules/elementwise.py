"""Operations that treat every entry alike, with broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

from lmc_fast.symmetry.factors import Axis
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.rules.registry import register_rule


def broadcast(op: Operation, values: Sequence[Value]) -> Value:
    """Unify the axes of values that meet entry by entry; the result has all of them."""
    rank = max((len(v.axes) for v in values), default=0)
    result: list[Axis] = [()] * rank
    for value in values:
        for back in range(1, len(value.axes) + 1):
            axis = value.axes[-back]
            if value.shape[-back] == 1:
                continue
            if result[-back]:
                op.unify(result[-back], axis)
            else:
                result[-back] = axis
    return Value(tuple(result))


@register_rule(
    "aten.dropout",
    "aten.alpha_dropout",
    "aten.feature_dropout",
    "aten.contiguous",
    "aten.clone",
    "aten.detach",
    "aten.alias",
    "aten.to",
    "aten._to_copy",
    "aten.type_as",
    "aten.lift_fresh_copy",
    "aten.where",
    "aten.clamp",
    "aten.masked_fill",
    "aten._prelu_kernel",
    "aten.hardswish",
    "aten.hardsigmoid",
    "aten.hardtanh",
    "aten.relu6",
    "aten.selu",
    "aten.celu",
    "aten.mish",
    "aten.log_sigmoid",
    "aten.log_sigmoid_forward",
    "aten.threshold",
    "aten.rrelu",
    "aten.hardshrink",
    "aten.softshrink",
    "aten.clip",
    "aten.square",
    "aten.float_power",
    "aten.isfinite",
    "aten.isin",
    "aten.special_expit",
    "aten.softsign",
    "aten.tanhshrink",
    "aten.nan_to_num",
)
def elementwise(op: Operation) -> Value:
    """Every entry of the result depends on the entries at the same place."""
    return broadcast(op, op.tensors)


@register_rule("aten.copy", "aten.fill")
def overwrite(op: Operation) -> Value:
    """The target takes the values of the source, broadcast to it."""
    return broadcast(op, op.tensors)


@register_rule(
    "aten.zeros_like",
    "aten.ones_like",
    "aten.full_like",
    "aten.empty_like",
    "aten.new_zeros",
    "aten.new_ones",
    "aten.new_full",
    "aten.new_empty",
    "aten.zeros",
    "aten.ones",
    "aten.full",
    "aten.empty",
    "aten.scalar_tensor",
)
def constant(op: Operation) -> Value:
    """All entries are equal: any permutation of any axis leaves the result as it is."""
    return op.free_value(op.shapes[0])


@register_rule("aten.prelu")
def prelu(op: Operation) -> Value:
    """A slope for every channel, axis 1, or one for all."""
    x, weight = op["self"], op["weight"]
    if weight.shape[0] > 1:
        op.unify(x.axes[1], weight.axes[0])
    return Value(x.axes)
