"""Look-ups: an index tells the entries of an axis apart, the other axes move."""

from __future__ import annotations

from lmc_fast.symmetry.operation import Operation, Value, normalise_dim
from lmc_fast.symmetry.rules.elementwise import broadcast
from lmc_fast.symmetry.rules.registry import register_rule

_INDEXED = "its entries are told apart by an index"


@register_rule("aten.embedding")
def embedding(op: Operation) -> Value:
    """Rows are named by their index, columns move."""
    weight, indices = op["weight"], op["indices"]
    op.pin([weight.axes[0]], _INDEXED)
    op.reduce(weight, [0])
    return Value((*indices.axes, weight.axes[1]))


@register_rule("aten.index_select")
def index_select(op: Operation) -> Value:
    """One axis is indexed, the others pass through."""
    x, index = op["self"], op["index"]
    dim = normalise_dim(op["dim"], len(x.axes))
    op.pin([x.axes[dim]], _INDEXED)
    op.reduce(x, [dim])
    return Value((*x.axes[:dim], index.axes[0] if index.axes else (), *x.axes[dim + 1 :]))


@register_rule("aten.index")
def index(op: Operation) -> Value:
    """Advanced indexing: the indexed axes give way to those of the broadcast indices."""
    x, indices = op["self"], op["indices"]
    dims = [d for d, i in enumerate(indices) if i is not None]
    op.pin([x.axes[d] for d in dims], _INDEXED)
    op.reduce(x, dims)
    picked = broadcast(op, [indices[d] for d in dims])
    kept = [axis for d, axis in enumerate(x.axes) if d not in dims]
    adjacent = dims == list(range(dims[0], dims[0] + len(dims)))
    at = dims[0] if adjacent else 0
    result = (*kept[:at], *picked.axes, *kept[at:])
    if len(result) != len(op.shapes[0]):
        raise NotImplementedError("indexing by a boolean mask")
    return Value(tuple(result))


@register_rule("aten.gather")
def gather(op: Operation) -> Value:
    """Entries along one axis are picked by an index of the same rank."""
    x, picked = op["self"], op["index"]
    dim = normalise_dim(op["dim"], len(x.axes))
    op.pin([x.axes[dim]], _INDEXED)
    op.reduce(x, [dim])
    axes = list(picked.axes)
    for d, (a, b) in enumerate(zip(x.axes, picked.axes, strict=True)):
        if d != dim:
            if x.shape[d] != picked.shape[d]:
                op.pin([a, b], "a look-up uses a part of the axis")
            else:
                op.unify(a, b)
    return Value(tuple(axes))
