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

    Notes
    -----
    A rule reads the axes of its arguments as `Value` and says with ``op.unify`` which move
    together, with ``op.pin`` which stay, and with ``op.reduce`` along which the operation mixes. It
    cannot make a derived spec wrong: what fails the proof stays fixed, with a warning.

    Examples
    --------
    A running sum orders the places along its axis; what stands at every place may move:

    >>> import torch
    >>> from lmc_fast import PermutationSpec, register_rule
    >>> @register_rule("aten.logcumsumexp")
    ... def running(op):
    ...     op.pin([op["self"].axes[op["dim"]]], "its places are ordered")
    ...     op.reduce(op["self"], [op["dim"]])
    ...     return op["self"]
    >>> class Running(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.logcumsumexp(1)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 6), Running(), torch.nn.Linear(6, 3))
    >>> dict(PermutationSpec.from_model(net, torch.randn(2, 5, 4)).groups)
    {'layer0': 6}
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
