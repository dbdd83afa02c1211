"""Recurrent layers: LSTM, GRU and plain RNN."""

from __future__ import annotations

from lmc_fast.symmetry.factors import Axis, Factor, atoms, concatenation, family, product
from lmc_fast.symmetry.operation import Operation, Value
from lmc_fast.symmetry.refine import carve, member
from lmc_fast.symmetry.rules.registry import register_rule

_GATES = {"aten.lstm": 4, "aten.gru": 3, "aten.rnn_tanh": 1, "aten.rnn_relu": 1}


@register_rule(*_GATES)
def recurrent(op: Operation) -> list[Value]:
    """Hidden units move in every gate, in the recurrent weight and in the states together.

    The weights of a layer and direction are ``W_ih, W_hh[, b_ih, b_hh][, W_hr]``, with the gates
    one after the other along axis 0.
    """
    gates = _GATES[op.name]
    x = op["input"]
    states = op["hx"] if isinstance(op["hx"], (list, tuple)) else [op["hx"]]
    directions = 2 if op["bidirectional"] else 1
    layers = op["num_layers"]
    weights = list(op["params"])
    each = len(weights) // (layers * directions)
    biased = 2 if op["has_biases"] else 0
    features: Axis = x.axes[-1]
    last: list[list[Factor]] = [[] for _ in states]
    for layer in range(layers):
        outputs: list[Axis] = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            own = weights[at : at + each]
            op.unify(own[0].axes[1], features)
            hidden = _hidden(op, own[: 2 + biased], gates)
            out = own[-1].axes[0] if each > 2 + biased else hidden
            if each > 2 + biased:
                op.unify(own[-1].axes[1], hidden)
            op.unify(own[1].axes[1], out)
            outputs.append(out)
            for s, axis in enumerate((out, hidden)[: len(states)]):
                last[s].append(product(axis) if axis else Factor(1))
        features = (concatenation([product(o) if o else Factor(1) for o in outputs]),)
    finals = []
    for state, units in zip(states, last, strict=True):
        op.pin([state.axes[0]], "layers and directions are told apart")
        first = atoms(state.axes[0])
        for i, factor in enumerate(units):
            own_units = [member(f, first[0], i) if first else f for f in atoms(state.axes[-1])]
            op.unify((factor,), tuple(own_units))
        key = first[0] if first else Factor(1)
        finals.append(Value((*state.axes[:-1], (family(key, units),))))
    return [Value((*x.axes[:-1], features)), *finals]


def _hidden(op: Operation, weights: list[Value], gates: int) -> Axis:
    """Merge the gates of all weights; return the axis of hidden units."""
    size = weights[0].shape[0] // gates
    hidden: Axis | None = None
    for w in weights:
        for part in carve(w.axes[0], [size] * gates, op.cause("its gates straddle the units")):
            if hidden is None:
                hidden = part
            else:
                op.unify(hidden, part)
    return hidden or ()
