"""What a rule sees: one traced operation, its arguments as axes of factors, and what it may do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmc_fast.symmetry.factors import Axis, Cause, Factor, atoms, axis_size, depends, nodes, pin
from lmc_fast.symmetry.refine import forget, unify


@dataclass(frozen=True)
class Value:
    """A traced tensor: the factors of every axis.

    Attributes
    ----------
    axes : tuple of Axis
        One product of factors per axis; an axis of one entry has none.
    """

    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent of every axis."""
        return tuple(axis_size(axis) for axis in self.axes)

    @property
    def is_fixed(self) -> bool:
        """Whether nothing moves any axis."""
        return all(f.pinned is not None for axis in self.axes for f in atoms(axis))


Result = Value | Sequence[Value]
Rule = Callable[["Operation"], Result]


@dataclass(frozen=True)
class Operation:
    """One operation of a traced model, as a rule sees it.

    Attributes
    ----------
    name : str
        Its name without the overload, ``aten.add``.
    arguments : Mapping[str, Any]
        By the names of the operation's schema; tensors are `Value`, and so are those in lists.
    shapes : tuple of tuple of int
        Shapes of the results.
    source : str
        File and line in the model's code.
    """

    name: str
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    source: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def tensors(self) -> list[Value]:
        """All tensor arguments in order, those in lists included."""
        found: list[Value] = []
        for argument in self.arguments.values():
            items = argument if isinstance(argument, (list, tuple)) else [argument]
            found.extend(item for item in items if isinstance(item, Value))
        return found

    def cause(self, reason: str) -> Cause:
        """Return the cause of a pin by this operation."""
        return Cause(self.name, reason, self.source)

    def unify(self, a: Axis, b: Axis) -> None:
        """Make two axes of equal size move together."""
        unify(a, b, self.cause("the axes it joins are divided in ways that do not fit together"))

    def pin(self, axes: Sequence[Axis], reason: str, *, quiet: bool = False) -> None:
        """Fix axes, with the reason; a quiet one, which every network has, is not reported."""
        cause = Cause("kernel", reason) if quiet else self.cause(reason)
        for axis in axes:
            pin(axis, cause)

    def fixed(self, size: int, reason: str = "its positions are distinguished") -> Axis:
        """Return a new axis that nothing moves."""
        return (Factor(size, pinned=Cause("position", reason, self.source)),) if size != 1 else ()

    def fixed_value(self, shape: Sequence[int]) -> Value:
        """Return a result that nothing moves."""
        return Value(tuple(self.fixed(n) for n in shape))

    def free_value(self, shape: Sequence[int]) -> Value:
        """Return a result whose axes may all be permuted."""
        return free_value(shape)

    def reduce(self, value: Value, dims: Sequence[int]) -> None:
        """State that fibres along `dims` are treated as a whole.

        The result may move with the axes in `dims`, but the permutation of the other axes must not
        depend on the position along them.
        """
        over = {f for d in dims for f in nodes(value.axes[d])}
        for d, axis in enumerate(value.axes):
            if d not in dims:
                for factor in list(nodes(axis)):
                    for key in over:
                        if depends(factor, key):
                            forget(factor, key, self.cause("it mixes what it depends on"))


def free_value(shape: Sequence[int]) -> Value:
    """Return a tensor that nothing constrains yet: an axis may vary with those before it."""
    axes: list[Axis] = []
    for n in shape:
        context = frozenset(f for axis in axes for f in axis)
        axes.append((Factor(n, contexts=(context,)),) if n != 1 else ())
    return Value(tuple(axes))


def normalise_dim(dim: int, rank: int) -> int:
    """Return a dimension counted from the front."""
    return dim + rank if dim < 0 else dim


def normalise_dims(dims: int | Sequence[int] | None, rank: int) -> list[int]:
    """Return dimensions counted from the front; None and () mean all of them."""
    if dims is None:
        return list(range(rank))
    listed = [dims] if isinstance(dims, int) else list(dims)
    return [normalise_dim(d, rank) for d in listed] or list(range(rank))
