"""Contractions: matrix products of every kind."""

from __future__ import annotations

from collections.abc import Sequence

from lmc_fast.symmetry.factors import Axis
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.roles import name_roles
from lmc_fast.symmetry.rules.elementwise import broadcast
from lmc_fast.symmetry.rules.registry import register_rule


@register_rule("aten.linear")
def linear(op: Operation) -> Value:
    """``y = x W^T + b``: the last axis of x meets axis 1 of W, axis 0 of W is the result's."""
    x, weight, bias = op["input"], op["weight"], op["bias"]
    op.unify(weight.axes[-1], x.axes[-1])
    if len(weight.axes) == 1:
        return Value(x.axes[:-1])
    if bias is not None:
        op.unify(weight.axes[0], bias.axes[0])
    return Value((*x.axes[:-1], weight.axes[0]))


@register_rule("aten.matmul", "aten.mm", "aten.bmm", "aten.mv", "aten.dot")
def matmul(op: Operation) -> Value:
    """Batched matrix product with broadcasting over the leading axes."""
    a, b = op.tensors
    return product(op, a, b)


def product(op: Operation, a: Value, b: Value) -> Value:
    """Contract the last axis of `a` with the last but one (or only) axis of `b`."""
    inner = b.axes[-2] if len(b.axes) > 1 else b.axes[-1]
    op.unify(a.axes[-1], inner)
    batch = broadcast(op, [Value(a.axes[:-2]), Value(b.axes[:-2])])
    rows: Sequence[Axis] = a.axes[-2:-1]
    columns: Sequence[Axis] = b.axes[-1:] if len(b.axes) > 1 else ()
    if batch.axes:
        name_roles(batch.axes[-1], a.axes[-1], b.axes[-1])
    return Value((*batch.axes, *rows, *columns))


@register_rule("aten.addmm", "aten.baddbmm")
def addmm(op: Operation) -> Value:
    """``bias + a b``."""
    bias, a, b = op.tensors
    return broadcast(op, [product(op, a, b), bias])


@register_rule("aten.einsum")
def einsum(op: Operation) -> Value:
    """Axes with the same letter are the same axis."""
    left, _, right = op["equation"].replace(" ", "").partition("->")
    operands = left.split(",")
    if "." in left or not _:
        raise NotImplementedError("an einsum with an ellipsis or without an explicit result")
    named: dict[str, Axis] = {}
    for letters, value in zip(operands, op["tensors"], strict=True):
        for letter, axis in zip(letters, value.axes, strict=True):
            if named.get(letter):
                if axis:
                    op.unify(named[letter], axis)
            else:
                named[letter] = axis
    return Value(tuple(named[letter] for letter in right))


@register_rule("aten.outer")
def outer(op: Operation) -> Value:
    """Every pair of entries of two vectors."""
    a, b = op.tensors
    return Value((*a.axes, *b.axes))
