"""The registry of rules: operation name to function."""

from __future__ import annotations

from collections.abc import Callable

from lmc_fast.symmetry.operation import Rule

_RULES: dict[str, Rule] = {}


def register_rule(*names: str) -> Callable[[Rule], Rule]:
    """Register how operations carry permutations from their arguments to their results.

    Parameters
    ----------
    names : str
        Operations without overload, ``"aten.relu"`` or ``"mylib.my_op"``. A later rule replaces
        an earlier one.

    Returns
    -------
    Callable
        A decorator for a function that takes an `Operation` and returns the `Value` of its
        result, or a list of them.

    Examples
    --------
    >>> from lmc_fast.symmetry import register_rule
    >>> @register_rule("mylib.scale_channels")
    ... def scale_channels(op):
    ...     op.unify(op["x"].axes[1], op["scale"].axes[0])
    ...     return op["x"]
    """

    def register(rule: Rule) -> Rule:
        for name in names:
            _RULES[name] = rule
        return rule

    return register


def find_rule(name: str) -> Rule | None:
    """Return the rule of an operation; one in place follows the rule of the other."""
    return _RULES.get(name) or _RULES.get(name.removesuffix("_"))


def registered_rules() -> dict[str, Rule]:
    """Return a copy of the registry."""
    return dict(_RULES)
