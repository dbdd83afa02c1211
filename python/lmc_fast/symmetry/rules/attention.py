"""Scaled dot-product attention."""

from __future__ import annotations

from lmc_fast.symmetry.factors import Factor, atoms
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.roles import name_roles
from lmc_fast.symmetry.rules.elementwise import broadcast
from lmc_fast.symmetry.rules.registry import register_rule


@register_rule("aten.scaled_dot_product_attention")
def scaled_dot_product_attention(op: Operation) -> Value:
    """``softmax(q k^T + mask) v`` over (..., heads, places, channels).

    Query and key channels move together, so do the places of keys and values, and the heads;
    with grouped queries a key-value head serves several query heads.
    """
    q, k, v = op["query"], op["key"], op["value"]
    if op.arguments.get("enable_gqa", False) and q.shape[-3] != k.shape[-3]:
        k, v = (_repeat_heads(op, x, q.shape[-3] // x.shape[-3]) for x in (k, v))
    op.unify(q.axes[-1], k.axes[-1])
    op.unify(k.axes[-2], v.axes[-2])
    scores = broadcast(op, [Value((*x.axes[:-2], ())) for x in (q, k, v)]).axes[:-1]
    mask = op.arguments.get("attn_mask")
    if mask is not None:
        broadcast(op, [Value((*scores, q.axes[-2], k.axes[-2])), mask])
    for x in (q, k, v):
        op.reduce(x, [len(x.axes) - 2])
    name_roles(scores[-1] if scores else (), q.axes[-1], v.axes[-1])
    return Value((*scores, q.axes[-2], v.axes[-1]))


def _repeat_heads(op: Operation, x: Value, count: int) -> Value:
    axes = list(x.axes)
    copies = Factor(count, contexts=(frozenset(atoms(axes[-3])),), hint="queries")
    axes[-3] = (*axes[-3], copies)
    return Value(tuple(axes))
