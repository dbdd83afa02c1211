import pickle

import pytest
import torch
from lmc_fast import PermutationSpec, SpecMismatchError
from lmc_fast.notation import parse_terms
from torch import nn

MLP = """
    hidden = 6
    0.weight: hidden 4
    0.bias: hidden
    2.weight: 3 hidden
    2.bias: 3
"""

NESTED = """
    heads = 3
    qk = 4 per heads
    v = 2 per heads
    q.weight: (heads qk) 5
    in_proj: (heads qk + heads qk + heads v) 5
    out.weight: 5 (heads v)
    split.weight: heads v 5
"""


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.mark.parametrize("text", [MLP, NESTED])
def test_printed_spec_reads_back_equal(text):
    spec = PermutationSpec.parse(text)
    assert PermutationSpec.parse(str(spec)) == spec
    assert PermutationSpec.from_json(spec.to_json()) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert hash(pickle.loads(pickle.dumps(spec))) == hash(spec)


@pytest.mark.parametrize(
    "line", ["hidden 784", "a (channel 49)", "(a + b + 3) 3 3", "(heads qk + heads v) _", ""]
)
def test_terms_print_as_they_read(line):
    assert " ".join(map(str, parse_terms(line))) == line


@pytest.mark.parametrize("line", ["(a", "a)", "(a + )", "()", "(a (b + c))", "a!"])
def test_malformed_terms_are_refused(line):
    with pytest.raises(ValueError, match="expected"):
        parse_terms(line)


def test_sizes_are_inferred_from_the_model():
    spec = PermutationSpec.parse("0.weight: h 4\n0.bias: h\n2.weight: 3 h", like=mlp())
    assert dict(spec.groups) == {"h": 6}
    assert spec == PermutationSpec.parse(MLP.replace("hidden", "h"))


def test_block_and_concatenation_sizes_are_inferred():
    state = {"conv": torch.zeros(8, 3), "fc": torch.zeros(10, 8 * 49), "cat": torch.zeros(1, 11)}
    spec = PermutationSpec.parse("conv: c 3\nfc: 10 (c 49)\ncat: 1 (c + 3)", like=state)
    assert dict(spec.groups) == {"c": 8}
    assert spec.axis_size(spec.tensors["cat"][1]) == 11


def test_git_re_basin_dicts_are_accepted():
    axes = {"0.weight": ("P_0", None), "0.bias": ("P_0",), "2.weight": (None, "P_0")}
    spec = PermutationSpec.from_axes(axes, like=mlp())
    assert spec.equivalent(PermutationSpec.parse(MLP))


def test_equivalence_ignores_names_only():
    spec = PermutationSpec.parse(MLP)
    assert spec.equivalent(PermutationSpec.parse(MLP.replace("hidden", "other")))
    assert not spec.equivalent(
        PermutationSpec.parse(MLP.replace("2.weight: 3 hidden", "2.weight: 3 6"))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = 3\nb = 2 per c\nw: a", "expected both to be groups"),
        ("a = 3\nb = 2 per a\nw: b", "must appear in the same tensor"),
        ("a = 3\nw: a b", "expected a size for every group"),
        ("a = 0\nw: a", "at least 1"),
        ("a = three\nw: a", "expected 'tensor: terms'"),
        ("a = 3 per\nw: a", "expected 'tensor: terms'"),
        ("a = 3\nb = 2 per a c\nw: (a b)", "expected 'tensor: terms'"),
        ("a = 3\nw: (a a)", "at most once"),
        ("a = 2\nb = 2 per a\nc = 2 per b\nw: (a b c)", "two levels"),
    ],
)
def test_inconsistent_specs_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        PermutationSpec.parse(text)


def test_mismatches_name_up_to_five_offenders():
    spec = PermutationSpec.parse(MLP)
    state = mlp().state_dict()
    with pytest.raises(SpecMismatchError, match=r"2\.bias \(missing\)"):
        spec.check({k: v for k, v in state.items() if k != "2.bias"})
    with pytest.raises(SpecMismatchError, match=r"0\.weight .* got \(7, 4\)"):
        spec.check({**state, "0.weight": torch.zeros(7, 4)})
    with pytest.raises(SpecMismatchError, match="expected 2 axes"):
        spec.check({**state, "0.weight": torch.zeros(6)})
    with pytest.raises(SpecMismatchError, match="and 3 more") as caught:
        spec.check({**state, **{f"extra{i}": torch.zeros(2) for i in range(8)}})
    assert str(caught.value).count("not in the spec") == 5
    spec.check({**state, "counter": torch.tensor(3)})
