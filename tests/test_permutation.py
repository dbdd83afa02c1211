import copy

import pytest
import torch
from lmc_fast import (
    PermutationSpec,
    SpecMismatchError,
    apply_permutation,
    compose,
    identity_permutation,
    invert,
    random_permutation,
)
from lmc_fast.permutation import load_permutation, save_permutation
from torch import nn

SPECS = {
    "flat": "a = 5\nb = 4\nw1: a 3\nb1: a\nw2: b a 2\nw3: 7 b",
    "flatten": "c = 4\nconv: c 3 3 3\nfc: 2 (c 6)",
    "concatenated": "a = 3\nb = 5\nwa: a 2\nwb: b 2\nwc: 4 (a + b + 2) 3",
    "twice": "a = 6\nw: a a\nb: a",
    "nested": "h = 3\nd = 4 per h\nw: (h d) 5\nwo: 5 (h d)\nqkv: (h d + h d) 2\nwi: (d h) 2",
    "nested across axes": "h = 3\nd = 4 per h\nw: h d 5\nv: 2 d h",
    "nested across a product": "g = 2\no = 3 per g\ni = 4 per g\nw: (g o) i\nb: (g o)\nx: (g i) 2",
    "grouped queries": "g = 2\nq = 3 per g\nd = 4 per g\nwq: (g q d) 5\nwk: (g d) 5\nwo: 5 (g q d)",
}


@pytest.fixture(params=SPECS)
def spec(request):
    return PermutationSpec.parse(SPECS[request.param])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_state(spec, seed=0):
    g = generator(seed)
    return {
        name: torch.randn([spec.axis_size(t) for t in terms], generator=g)
        for name, terms in spec.tensors.items()
    }


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_identity_moves_nothing(spec):
    state = random_state(spec)
    assert equal(apply_permutation(spec, identity_permutation(spec), state), state)


def test_inverse_undoes(spec):
    state = random_state(spec)
    p = random_permutation(spec, generator=generator(1))
    moved = apply_permutation(spec, p, state)
    assert not equal(moved, state)
    assert equal(apply_permutation(spec, invert(p, spec), moved), state)
    assert equal(compose(p, invert(p, spec), spec), identity_permutation(spec))


def test_composition_is_application_in_turn(spec):
    state = random_state(spec)
    p = random_permutation(spec, generator=generator(1))
    q = random_permutation(spec, generator=generator(2))
    in_turn = apply_permutation(spec, p, apply_permutation(spec, q, state))
    assert equal(apply_permutation(spec, compose(p, q, spec), state), in_turn)


def test_convention_is_gather():
    spec = PermutationSpec.parse(SPECS["flatten"])
    state = random_state(spec)
    p = {"c": torch.tensor([2, 0, 3, 1])}
    moved = apply_permutation(spec, p, state)
    assert torch.equal(moved["conv"], state["conv"].index_select(0, p["c"]))
    blocks = state["fc"].reshape(2, 4, 6).index_select(1, p["c"]).reshape(2, 24)
    assert torch.equal(moved["fc"], blocks)


def test_nested_rows_belong_to_the_outer_unit():
    spec = PermutationSpec.parse("h = 2\nd = 3 per h\nw: (h d)")
    p = {"h": torch.tensor([1, 0]), "d": torch.tensor([[0, 1, 2], [2, 0, 1]])}
    moved = apply_permutation(spec, p, {"w": torch.arange(6)})
    assert moved["w"].tolist() == [3, 4, 5, 2, 0, 1]


def test_attention_like_function_is_preserved():
    spec = PermutationSpec.parse(SPECS["nested across axes"])
    state = random_state(spec)
    moved = apply_permutation(spec, random_permutation(spec, generator=generator(3)), state)
    contracted = torch.einsum("hdi,odh->oi", state["w"], state["v"])
    torch.testing.assert_close(torch.einsum("hdi,odh->oi", moved["w"], moved["v"]), contracted)


def test_inputs_dtypes_and_ties_are_kept():
    spec = PermutationSpec.parse("a = 4\nw: a 3\nalias: a 3\ncount: 2")
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    state = {
        "w": weight,
        "alias": weight.detach(),
        "count": torch.tensor([1, 2]),
        "steps": torch.tensor(7),
    }
    before = copy.deepcopy({k: v.detach().clone() for k, v in state.items()})
    moved = apply_permutation(spec, random_permutation(spec, generator=generator()), state)
    assert moved["w"] is moved["alias"]
    assert moved["count"].dtype == torch.int64
    assert moved["count"].data_ptr() != state["count"].data_ptr()
    assert moved["steps"] == 7
    assert equal({k: v.detach() for k, v in state.items()}, before)
    moved["w"].sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 3, dtype=torch.float64))


@pytest.mark.parametrize(
    "index",
    [
        torch.tensor([0, 1, 2, 3, 3]),
        torch.tensor([0, 1, 2, 3]),
        torch.tensor([-1, 0, 1, 2, 3]),
        torch.tensor([0.0, 1, 2, 3, 4]),
        torch.arange(5, dtype=torch.int32),
        [0, 1, 2, 3, 4],
    ],
)
def test_a_permutation_that_is_none_is_refused_before_any_gather(index):
    spec = PermutationSpec.parse("a = 5\nw: a")
    with pytest.raises(ValueError, match="permutation of 'a': expected"):
        apply_permutation(spec, {"a": index}, {"w": torch.randn(5)})


def test_missing_and_unknown_groups_are_refused():
    spec = PermutationSpec.parse("a = 5\nw: a")
    with pytest.raises(SpecMismatchError, match=r"missing \['a'\], unknown \['b'\]"):
        apply_permutation(spec, {"b": torch.arange(5)}, {"w": torch.randn(5)})


def test_nested_inverse_needs_the_spec():
    spec = PermutationSpec.parse(SPECS["nested"])
    with pytest.raises(ValueError, match="pass spec="):
        invert(identity_permutation(spec))


def test_random_permutation_leaves_the_global_seed_alone():
    spec = PermutationSpec.parse(SPECS["flat"])
    state = torch.random.get_rng_state()
    first = random_permutation(spec, generator=generator(5))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert equal(first, random_permutation(spec, generator=generator(5)))


def test_saved_permutation_reads_back(tmp_path, spec):
    p = random_permutation(spec, generator=generator(1))
    save_permutation(p, tmp_path / "p.safetensors", {"note": "x"})
    loaded, metadata = load_permutation(tmp_path / "p.safetensors")
    assert equal(loaded, p)
    assert metadata["note"] == "x"
    assert [f.name for f in tmp_path.iterdir()] == ["p.safetensors"]


def test_unreadable_permutation_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="found nothing"):
        load_permutation(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="got the directory"):
        load_permutation(tmp_path)
    (tmp_path / "torn").write_bytes(b"\x10")
    with pytest.raises(ValueError, match="expected a safetensors file"):
        load_permutation(tmp_path / "torn")


def test_permuted_network_computes_the_same_function():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    net[1].running_mean.normal_(generator=generator())
    net[1].running_var.uniform_(0.5, 2, generator=generator())
    lines = "0.weight: h 4\n0.bias: h\n3.weight: 3 h\n" + "\n".join(
        f"1.{n}: h" for n in ("weight", "bias", "running_mean", "running_var")
    )
    spec = PermutationSpec.parse(lines, like=net)
    x = torch.randn(8, 4, generator=generator(1))
    expected = net(x)
    p = random_permutation(spec, generator=generator(2))
    net.load_state_dict(apply_permutation(spec, p, net.state_dict()))
    torch.testing.assert_close(net(x), expected)
