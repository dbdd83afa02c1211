"""Specs derived from models: what they say, that they are proven, and that nothing is touched."""

import copy
import json
import threading

import pytest
import torch
from lmc_fast import (
    LmcWarning,
    PermutationSpec,
    SpecMismatchError,
    apply_permutation,
    match,
    random_permutation,
)
from lmc_fast.symmetry import derive, example_inputs_for, prove_spec, remember
from symmetry_nets import Function
from torch import nn

from bench import models


def residual(m, x):
    h = m.conv(x)
    return m.fc(m.pool(h + m.block(m.norm(h).relu())).flatten(1))


def convolutional():
    return Function(
        residual,
        conv=nn.Conv2d(3, 6, 3, bias=False),
        norm=nn.BatchNorm2d(6),
        block=nn.Conv2d(6, 6, 3, padding=1),
        pool=nn.AdaptiveAvgPool2d(2),
        fc=nn.Linear(24, 5),
    )


IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VECTOR = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))

CASES = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LayerNorm(6), nn.Linear(6, 3)),
        VECTOR,
        """
        h = 6
        0.weight: h 4
        0.bias: h
        2.weight: h
        2.bias: h
        3.weight: 3 h
        """,
    ),
    "residual, batch norm, flatten": (
        convolutional,
        IMAGE,
        """
        c = 6
        conv.weight: c 3 3 3
        norm.weight: c
        norm.bias: c
        norm.running_mean: c
        norm.running_var: c
        block.weight: c c 3 3
        block.bias: c
        fc.weight: 5 (c 4)
        """,
    ),
    "concatenation": (
        lambda: Function(
            lambda m, x: m.c(torch.cat([m.a(x), m.b(x).relu()], 1)),
            a=nn.Linear(4, 3),
            b=nn.Linear(4, 5),
            c=nn.Linear(8, 2),
        ),
        VECTOR,
        "a.weight: a 4\na.bias: a\nb.weight: b 4\nb.bias: b\nc.weight: 2 (a + b)",
    ),
    "grouped and depthwise convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.Conv2d(6, 9, 3, groups=3),
            nn.Conv2d(9, 2, 1),
        ),
        IMAGE,
        """
        g = 3
        i = 2 per g
        o = 3 per g
        0.weight: (g i) 3 1 1
        0.bias: (g i)
        1.weight: (g i) 1 3 3
        1.bias: (g i)
        2.weight: (g o) i 3 3
        2.bias: (g o)
        3.weight: 2 (g o) 1 1
        """,
    ),
    "group norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)),
        IMAGE,
        """
        g = 2
        c = 3 per g
        0.weight: (g c) 3 1 1
        0.bias: (g c)
        1.weight: (g c)
        1.bias: (g c)
        2.weight: 2 (g c) 1 1
        """,
    ),
    "convolution in one dimension": (
        lambda: nn.Sequential(nn.Conv1d(4, 5, 1), nn.MaxPool1d(2), nn.Conv1d(5, 2, 1)),
        torch.randn(2, 4, 6),
        "0.weight: c 4 1\n0.bias: c\n2.weight: 2 c 1",
    ),
    "convolution in three dimensions": (
        lambda: nn.Sequential(
            nn.Conv3d(1, 5, 1), nn.AvgPool3d(2), nn.Dropout(), nn.Conv3d(5, 2, 1)
        ),
        torch.randn(2, 1, 4, 4, 4),
        "0.weight: c 1 1 1 1\n0.bias: c\n3.weight: 2 c 1 1 1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_derived_specs_are_the_largest_and_proven(case):
    build, inputs, expected = CASES[case]
    model = build()
    spec = PermutationSpec.from_model(model, inputs)
    assert spec.equivalent(PermutationSpec.parse(expected, like=model))
    assert not spec.pinned
    assert prove_spec(spec, model, inputs).change < 1e-12


def classifier(channels, side):
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.Flatten(), nn.Linear(4 * (side - 2) ** 2, 2))


def test_derivation_touches_nothing():
    model = convolutional().train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    seed = torch.random.get_rng_state()
    remember._RESULTS.clear()
    spec = PermutationSpec.from_model(model, IMAGE)
    prove_spec(spec, model, IMAGE)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert model.training
    assert model.block.training
    assert not model.norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("line", "wrong", "group"),
    [
        ("norm.running_var: c", "norm.running_var: 6", "c"),
        ("norm.bias: c", "norm.bias: 6", "c"),
        ("fc.weight: 5 (c 4)", "fc.weight: 5 (4 c)", "c"),
        ("block.weight: c c 3 3", "block.weight: c 6 3 3", "c"),
    ],
)
def test_proof_catches_a_wrong_mapping_on_a_fresh_model(line, wrong, group):
    model = convolutional()
    text = CASES["residual, batch norm, flatten"][2]
    spec = PermutationSpec.parse(text.replace(line, wrong), like=model)
    proof = prove_spec(spec, model, IMAGE)
    assert not proof.passed
    assert proof.failed == (group,)


def test_proof_names_only_the_failing_group():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    spec = PermutationSpec.parse(
        "0.weight: a 4\n0.bias: a\n2.weight: b a\n2.bias: 5\n4.weight: 3 b", like=model
    )
    proof = prove_spec(spec, model, VECTOR)
    assert proof.failed == ("b",)
    assert proof.groups["a"] < 1e-12


def test_outputs_may_be_nested():
    model = Function(
        lambda m, x: {"a": m.last(m.first(x)), "b": (m.first(x).sum(1), [x])},
        first=nn.Linear(4, 6),
        last=nn.Linear(6, 3),
    )
    spec = PermutationSpec.from_model(model, VECTOR)
    assert dict(spec.groups) == {"first": 6}
    assert prove_spec(spec, model, VECTOR).passed


def test_output_units_stay_fixed():
    model = Function(lambda m, x: (m.b(m.a(x)), m.a(x)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    assert not PermutationSpec.from_model(model, VECTOR).groups


def test_tied_tensors_move_together():
    first, last = nn.Linear(4, 6), nn.Linear(6, 4)
    last.weight = nn.Parameter(last.weight.detach())
    tied = nn.Linear(4, 6)
    tied.weight = first.weight
    model = nn.Sequential(first, nn.ReLU(), last, nn.ReLU(), tied, nn.Linear(6, 2))
    spec = PermutationSpec.from_model(model, VECTOR)
    assert spec.tensors["0.weight"] == spec.tensors["4.weight"]
    moved = apply_permutation(
        spec, random_permutation(spec, generator=torch.Generator()), model.state_dict()
    )
    assert moved["0.weight"] is moved["4.weight"]


def test_equal_architectures_share_one_spec():
    assert PermutationSpec.from_model(convolutional(), IMAGE) is PermutationSpec.from_model(
        convolutional(), torch.zeros_like(IMAGE)
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 2, 1)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 2, 1)),
        lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)),
    ],
)
def test_attributes_tell_architectures_apart(other):
    model = other()
    inputs = torch.randn(2, 4, 5, 5)
    assert prove_spec(PermutationSpec.from_model(model, inputs), model, inputs).passed


def test_derivation_from_many_threads():
    remember._RESULTS.clear()
    found = []

    def work():
        found.append(PermutationSpec.from_model(convolutional(), IMAGE))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(spec == found[0] for spec in found)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(remember, "MAX_REMEMBERED", 2)
    for width in (3, 4, 5, 6):
        PermutationSpec.from_model(nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2)), VECTOR)
    assert len(remember._RESULTS) == 2


def branching():
    return Function(
        lambda m, x: m.b(m.a(x) if x.sum() > 0 else m.a(-x)), a=nn.Linear(4, 6), b=nn.Linear(6, 3)
    )


def test_untraceable_models_are_explained():
    with pytest.raises(SpecMismatchError, match=r"torch\.export") as caught:
        PermutationSpec.from_model(branching(), VECTOR)
    message = str(caught.value)
    assert "control flow or a number in it depends on the values" in message
    assert "test_symmetry.py:" in message
    assert "PermutationSpec.parse" in message
    assert "strict=False" in message
    assert "\n" not in message


def test_the_ways_out_of_an_untraceable_model():
    model = branching()
    spec = PermutationSpec.from_model(model, VECTOR, strict=False)
    assert not spec.groups
    assert "torch.export" in spec.pinned[0].reason
    by_hand = PermutationSpec.parse("a.weight: h 4\na.bias: h\nb.weight: 3 h", like=model)
    assert prove_spec(by_hand, model, VECTOR).passed
    moved, p = copy.deepcopy(model), random_permutation(by_hand, generator=torch.Generator())
    moved.load_state_dict(apply_permutation(by_hand, p, model.state_dict()))
    found = match(model, moved, spec=by_hand, example_inputs=VECTOR)
    assert torch.equal(found.permutation["h"], p["h"].argsort())
    assert "proven" in found.proof


def test_an_axis_that_was_pinned_is_supplied_by_hand():
    model = nn.Sequential(nn.Linear(4, 6), Function(lambda m, x: x.renorm(2, 0, 1.0)))
    model.append(nn.Linear(6, 3))
    spec = PermutationSpec.from_model(model, VECTOR)
    assert not spec.groups
    assert spec.pinned[0].operation == "aten.renorm"
    lines = "h = 6\n0.weight: h 4\n0.bias: h\n2.weight: 3 h"
    mended = PermutationSpec.parse(f"{spec}\n{lines}", like=model)
    assert dict(mended.groups) == {"h": 6}
    assert prove_spec(mended, model, VECTOR).passed


def test_wrong_inputs_are_named():
    with pytest.raises(SpecMismatchError, match="check example_inputs"):
        PermutationSpec.from_model(convolutional(), VECTOR)


def test_a_group_that_fails_its_proof_is_fixed_with_a_warning(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
    derived = derive.derive_unproven

    def mislabelled(model, inputs):
        spec = derived(model, inputs)
        tensors = {**spec.tensors, "2.bias": (type(spec.tensors["2.bias"][0])(((5,),)),)}
        return PermutationSpec(spec.groups, tensors)

    monkeypatch.setattr(derive, "derive_unproven", mislabelled)
    with pytest.warns(LmcWarning, match="layer2"):
        spec = PermutationSpec.from_model(model, VECTOR)
    assert dict(spec.groups) == {"layer0": 7}
    assert spec.pinned[0].axis == "layer2"
    assert "its proof failed" in spec.pinned[0].reason
    assert prove_spec(spec, model, VECTOR).passed
    remember._RESULTS.clear()


def test_outputs_that_cannot_be_compared_are_refused():
    model = Function(lambda m, x: m.a(x) / 0, a=nn.Linear(4, 3))
    spec = PermutationSpec.parse("a.weight: 3 4", like=model)
    with pytest.raises(ValueError, match="finite"):
        prove_spec(spec, model, VECTOR)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3)), (2, 4)),
        (lambda: nn.Sequential(nn.Unflatten(1, (784, 1)), nn.Flatten(), nn.Linear(784, 3)), None),
        (lambda: classifier(3, 32), (2, 3, 32, 32)),
        (lambda: classifier(1, 28), (2, 1, 28, 28)),
        (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 2)), (2, 8)),
        (lambda: nn.LSTM(5, 4), (2, 5, 5)),
    ],
)
def test_example_inputs_are_guessed(build, shape):
    model = build().train()
    given = example_inputs_for(model)
    assert model.training
    assert tuple(given.shape) == shape or shape is None
    model(given)


def test_inputs_that_cannot_be_guessed_are_asked_for():
    model = Function(lambda m, x: m.a(x[:, :, 0, 0, 0, 0]), a=nn.Linear(4, 3))
    with pytest.raises(ValueError, match="pass example_inputs="):
        example_inputs_for(model)


def test_the_table_of_known_architectures_is_that_of_the_stored_run():
    stored = json.loads(models.RESULTS.read_text(encoding="utf-8"))
    assert set(stored["models"]) == set(models.MODELS)
    assert models.TABLE.read_text(encoding="utf-8") == models.table(stored)
    for row in stored["models"].values():
        assert row["proof"] < 1e-10
        assert not row["warnings"]
