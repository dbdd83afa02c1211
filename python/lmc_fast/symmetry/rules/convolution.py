"""Convolutions, pooling and resampling: channels move, places do not."""

from __future__ import annotations

from collections.abc import Sequence

from lmc_fast.symmetry.factors import Axis, Factor, product
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.refine import cut
from lmc_fast.symmetry.rules.registry import register_rule

_PLACES = "neighbouring places along a spatial axis are treated together"


def spatial(op: Operation, x: Value, rank: int) -> Value:
    """Fix the last `rank` axes, whose places are distinguished; the others pass through."""
    dims = range(len(x.axes) - rank, len(x.axes))
    op.pin([x.axes[d] for d in dims], _PLACES)
    op.reduce(x, dims)
    return Value((*x.axes[: len(x.axes) - rank], *(op.fixed(n) for n in op.shapes[0][-rank:])))


def _leading(op: Operation, axis: Axis, groups: int) -> tuple[Axis, Axis]:
    """Divide a channel axis into the groups and the channels within each."""
    whole = product(axis) if axis else Factor(1)
    outer, inner = cut(whole, groups, op.cause("groups of channels straddle the units"))
    return tuple(outer), tuple(inner)


@register_rule(
    "aten.conv1d",
    "aten.conv2d",
    "aten.conv3d",
    "aten.conv_transpose1d",
    "aten.conv_transpose2d",
    "aten.conv_transpose3d",
    "aten.convolution",
)
def convolution(op: Operation) -> Value:
    """Channels of the input meet axis 1 of the weight within each group, its axis 0 the result's.

    A transposed convolution has the two weight axes the other way round.
    """
    x, weight, bias = op["input"], op["weight"], op["bias"]
    groups = op["groups"]
    rank = len(weight.axes) - 2
    transposed = "transpose" in op.name or op.arguments.get("transposed", False)
    channels = len(x.axes) - rank - 1
    op.pin(weight.axes[2:], _PLACES, quiet=True)
    op.reduce(weight, range(2, len(weight.axes)))
    source, target = (0, 1) if transposed else (1, 0)
    if groups == 1:
        op.unify(weight.axes[source], x.axes[channels])
        result = weight.axes[target]
    else:
        outer, inner = _leading(op, x.axes[channels], groups)
        weight_outer, weight_inner = _leading(op, weight.axes[0], groups)
        op.unify(weight_outer, outer)
        op.unify(weight_inner if transposed else weight.axes[1], inner)
        result = (*weight_outer, *(weight.axes[1] if transposed else weight_inner))
    if bias is not None:
        op.unify(result, bias.axes[0])
    placed = spatial(op, x, rank)
    return Value((*placed.axes[:channels], result, *placed.axes[channels + 1 :]))


def _pooling(rank: int, names: Sequence[str]) -> None:
    @register_rule(*names)
    def pool(op: Operation) -> Value | list[Value]:
        """Every channel on its own; places are fixed."""
        pooled = spatial(op, op.tensors[0], rank)
        return pooled if len(op.shapes) == 1 else [pooled] * len(op.shapes)


for _rank in (1, 2, 3):
    _pooling(
        _rank,
        [f"aten.{kind}_pool{_rank}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max")]
        + [f"aten.max_pool{_rank}d_with_indices"]
        + [
            f"aten.{kind}{_rank}d"
            for kind in (
                "upsample_nearest",
                "_upsample_nearest_exact",
                "reflection_pad",
                "replication_pad",
            )
        ],
    )
_pooling(1, ["aten.upsample_linear1d"])
_pooling(2, ["aten.upsample_bilinear2d", "aten.upsample_bicubic2d"])
_pooling(3, ["aten.upsample_trilinear3d"])
