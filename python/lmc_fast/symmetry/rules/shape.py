"""Operations that rearrange axes: views, permutations, cuts, joins, repeats."""

from __future__ import annotations

from collections.abc import Sequence

from lmc_fast.symmetry.factors import (
    Axis,
    Factor,
    atoms,
    axis_size,
    concatenation,
    depends,
    family,
    leaves,
    pin,
    product,
)
from lmc_fast.symmetry.operation import Operation, Value, normalise_dim
from lmc_fast.symmetry.refine import carve, cut, member
from lmc_fast.symmetry.rules.registry import register_rule


@register_rule(
    "aten.view",
    "aten.reshape",
    "aten._unsafe_view",
    "aten.flatten",
    "aten.unflatten",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.view_as",
    "aten.reshape_as",
)
def view(op: Operation) -> Value:
    """The same entries in row-major order, the axes divided anew."""
    waiting = [f for axis in op.tensors[0].axes for f in atoms(axis)]
    axes: list[Axis] = []
    for size in op.shapes[0]:
        if axis_size(waiting) == 0 or size == 0:
            return op.fixed_value(op.shapes[0])
        left, waiting = (
            cut(product(waiting), size, op.cause("a reshape divides the axis across its units"))
            if size > 1
            else ([], waiting)
        )
        axes.append(tuple(left))
    return Value(tuple(axes))


@register_rule("aten.permute")
def permute(op: Operation) -> Value:
    """Axes in another order."""
    x = op["self"]
    return Value(tuple(x.axes[d] for d in op["dims"]))


@register_rule("aten.transpose", "aten.swapaxes", "aten.swapdims")
def transpose(op: Operation) -> Value:
    """Two axes change places."""
    x, *dims = op.arguments.values()
    i, j = (normalise_dim(d, len(x.axes)) for d in dims)
    axes = list(x.axes)
    axes[i], axes[j] = axes[j], axes[i]
    return Value(tuple(axes))


@register_rule("aten.t", "aten.numpy_T", "aten.mT", "aten.matrix_H")
def reverse(op: Operation) -> Value:
    """The last two axes change places."""
    axes = op.tensors[0].axes
    return Value((*axes[:-2], *reversed(axes[-2:])))


@register_rule("aten.movedim")
def movedim(op: Operation) -> Value:
    """Axes move to given places."""
    x = op["self"]
    rank = len(x.axes)
    source, target = (
        [normalise_dim(d, rank) for d in ([dims] if isinstance(dims, int) else dims)]
        for dims in (op["source"], op["destination"])
    )
    order = [d for d in range(rank) if d not in source]
    for place, d in sorted(zip(target, source, strict=True)):
        order.insert(place, d)
    return Value(tuple(x.axes[d] for d in order))


@register_rule("aten.expand", "aten.expand_as", "aten.broadcast_to")
def expand(op: Operation) -> Value:
    """Copies along an axis of one entry are alike: any permutation of them is allowed."""
    x = op.tensors[0]
    shape = op.shapes[0]
    lead = len(shape) - len(x.axes)
    grown = [
        x.axes[d - lead] if d >= lead and x.shape[d - lead] == n else _copies(x, n)
        for d, n in enumerate(shape)
    ]
    return Value(tuple(grown))


def _copies(x: Value, count: int) -> Axis:
    """Return an axis of equal copies; which copy is which may vary with everything else."""
    context = frozenset(f for axis in x.axes for f in leaves(axis))
    return (Factor(count, contexts=(context,)),) if count != 1 else ()


@register_rule("aten.repeat", "aten.tile")
def repeat(op: Operation) -> Value:
    """Whole copies one after the other: the copies are the outer factor."""
    x = op["self"]
    counts = list(op.arguments.get("repeats", op.arguments.get("dims")))
    lead = len(counts) - len(x.axes)
    if lead < 0:
        counts, lead = [1] * -lead + counts, 0
    axes = [
        (*_copies(x, n), *(x.axes[d - lead] if d >= lead else ())) for d, n in enumerate(counts)
    ]
    return Value(tuple(axes))


@register_rule("aten.repeat_interleave")
def repeat_interleave(op: Operation) -> Value:
    """Copies of every entry side by side: the copies are the inner factor."""
    x = op["self"] if "self" in op.arguments else op.tensors[0]
    count, dim = op["repeats"], op["dim"]
    if not isinstance(count, int) or dim is None:
        raise NotImplementedError("repeats that differ between entries")
    dim = normalise_dim(dim, len(x.axes))
    axes = list(x.axes)
    axes[dim] = (*axes[dim], *_copies(x, count))
    return Value(tuple(axes))


@register_rule("aten.cat", "aten.concat", "aten.concatenate")
def cat(op: Operation) -> Value:
    """One axis is a concatenation; the others move together."""
    values = [v for v in op["tensors"] if 0 not in v.shape]
    dim = normalise_dim(op["dim"], len(values[0].axes))
    joined = concatenation([product(v.axes[dim]) if v.axes[dim] else Factor(1) for v in values])
    if all(v.is_fixed for v in values):
        return op.fixed_value(op.shapes[0])
    for v in values[1:]:
        for d, (a, b) in enumerate(zip(values[0].axes, v.axes, strict=True)):
            if d != dim:
                op.unify(a, b)
    axes = list(values[0].axes)
    axes[dim] = (joined,)
    return Value(tuple(axes))


@register_rule("aten.stack")
def stack(op: Operation) -> Value:
    """A new fixed axis; what moves the others may differ between its units."""
    values = op["tensors"]
    dim = normalise_dim(op["dim"], len(values[0].axes) + 1)
    new = Factor(len(values), pinned=op.cause("its entries are told apart by their position"))
    axes: list[Axis] = [
        (family(new, [product(v.axes[d]) for v in values]),) if axis else ()
        for d, axis in enumerate(values[0].axes)
    ]
    axes.insert(dim, (new,) if len(values) > 1 else ())
    return Value(tuple(axes))


def pieces(op: Operation, x: Value, dim: int, sizes: Sequence[int]) -> list[Value]:
    """Cut one axis into consecutive pieces."""
    cause = op.cause("a slice cuts the axis inside a unit")
    before = x.axes[dim]
    others = [d for d in range(len(x.axes)) if d != dim]
    keys = atoms(before)
    cuts = carve(before, sizes, cause)
    results = []
    start = 0
    for size, axis in zip(sizes, cuts, strict=True):
        axes = list(x.axes)
        axes[dim] = axis
        if keys and keys[0].pinned is not None and len(keys) == 1:
            key = axis[0] if axis else None
            for d in others:
                axes[d] = tuple(_restrict(f, keys[0], key, start, size) for f in atoms(axes[d]))
        start += size
        results.append(Value(tuple(axes)))
    return results


def _restrict(factor: Factor, key: Factor, new: Factor | None, start: int, count: int) -> Factor:
    """Return what stands for a factor on a range of the units of a pinned key."""
    if not depends(factor, key):
        return factor
    members = [member(factor, key, i) for i in range(start, start + count)]
    return members[0] if new is None or count == 1 else family(new, members)


@register_rule("aten.chunk")
def chunk(op: Operation) -> list[Value]:
    """Equal pieces of an axis."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    return pieces(op, x, dim, [shape[dim] for shape in op.shapes])


@register_rule("aten.split", "aten.split_with_sizes", "aten.unsafe_split", "aten.tensor_split")
def split(op: Operation) -> list[Value]:
    """Consecutive pieces of an axis."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    return pieces(op, x, dim, [shape[dim] for shape in op.shapes])


@register_rule("aten.slice", "aten.narrow")
def slice_(op: Operation) -> Value:
    """One range of an axis."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    total, count = x.shape[dim], op.shapes[0][dim]
    if count == total:
        return Value(x.axes)
    start, step = op["start"] or 0, op.arguments.get("step", 1)
    start = max(start + total, 0) if start < 0 else start
    if step != 1 or count == 0:
        return _every(op, x, dim, start, step, count)
    sizes = [n for n in (start, count, total - start - count) if n]
    return pieces(op, x, dim, sizes)[1 if start else 0]


def _every(op: Operation, x: Value, dim: int, start: int, step: int, count: int) -> Value:
    """Every `step`-th entry: the inner factor of a split is fixed and one unit of it selected."""
    axis = x.axes[dim]
    total = x.shape[dim]
    if count and total % step == 0 and total // step == count and start < step:
        outer, inner = cut(product(axis), count, op.cause("a stride straddles its units"))
        pin(inner, op.cause("every other entry is taken"))
        axes = list(x.axes)
        axes[dim] = tuple(outer)
        chosen = Value((*axes, tuple(inner)))
        return _select(op, chosen, len(axes), start)
    op.pin([axis], "a stride takes some entries of it")
    axes = list(x.axes)
    axes[dim] = op.fixed(count)
    return Value(tuple(axes))


@register_rule("aten.select")
def select(op: Operation) -> Value:
    """One unit of an axis is told from the others."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    return _select(op, x, dim, normalise_dim(op["index"], x.shape[dim]))


def _select(op: Operation, x: Value, dim: int, index: int) -> Value:
    pin(x.axes[dim], op.cause("one entry is told from the others"))
    keys = atoms(x.axes[dim])
    axes = [list(atoms(axis)) for d, axis in enumerate(x.axes) if d != dim]
    for key in reversed(keys):
        index, unit = divmod(index, key.size)
        axes = [[m for f in axis for m in atoms((member(f, key, unit),))] for axis in axes]
    return Value(tuple(tuple(axis) for axis in axes))


@register_rule("aten.unbind")
def unbind(op: Operation) -> list[Value]:
    """All units of an axis, one by one."""
    x = op["self"]
    dim = normalise_dim(op["dim"], len(x.axes))
    return [_select(op, x, dim, i) for i in range(x.shape[dim])]


@register_rule("aten.roll", "aten.flip")
def shift(op: Operation) -> Value:
    """Entries move along fixed axes."""
    x = op["self"]
    dims = [normalise_dim(d, len(x.axes)) for d in op["dims"]]
    op.pin([x.axes[d] for d in dims], "entries change places along the axis")
    op.reduce(x, dims)
    return Value(x.axes)


@register_rule("aten.pad", "aten.constant_pad_nd")
def pad(op: Operation) -> Value:
    """Padded axes are fixed, the others pass through."""
    x = op["self"]
    amounts = op["pad"]
    axes = list(x.axes)
    for i in range(len(amounts) // 2):
        d = len(axes) - 1 - i
        if amounts[2 * i] or amounts[2 * i + 1]:
            op.pin([axes[d]], "it is padded")
            op.reduce(x, [d])
            axes[d] = op.fixed(op.shapes[0][d])
    return Value(tuple(axes))
