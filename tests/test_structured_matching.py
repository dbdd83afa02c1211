"""Planted permutations of heads, per-head channels and grouped channels come back exactly."""

import copy
import itertools
import math

import pytest
import torch
from lmc_fast import (
    PermutationSpec,
    SpecMismatchError,
    apply_permutation,
    barrier,
    invert,
    linear_sum_assignment,
    match,
    prove_spec,
    random_permutation,
)
from lmc_fast.matching import Matching
from lmc_fast.matching.structured import Piece, solve_structured
from symmetry_nets import randn
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Pre-norm attention with grouped queries, rotary positions by option, and a gated MLP."""

    def __init__(self, width, heads, groups, channels, *, rotary):
        super().__init__()
        self.shape, self.rotary = (heads, groups, channels), rotary
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q = nn.Linear(width, heads * channels, bias=False)
        self.k = nn.Linear(width, groups * channels, bias=False)
        self.v = nn.Linear(width, groups * channels, bias=False)
        self.o = nn.Linear(heads * channels, width, bias=False)
        self.gate, self.up = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x):
        heads, groups, channels = self.shape
        h = self.norm1(x)
        q = self.q(h).unflatten(-1, (heads, channels)).transpose(1, 2)
        k, v = (
            layer(h).unflatten(-1, (groups, channels)).transpose(1, 2) for layer in (self.k, self.v)
        )
        if self.rotary:
            frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01])[: channels // 2].repeat(2)
            angles = torch.arange(x.shape[1])[:, None] * frequencies
            q, k = (
                t * angles.cos()
                + torch.cat([-t[..., channels // 2 :], t[..., : channels // 2]], -1) * angles.sin()
                for t in (q, k)
            )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.o(out.transpose(1, 2).flatten(-2))
        h = self.norm2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Transformer(nn.Module):
    def __init__(self, *, heads=4, groups=4, rotary=False):
        super().__init__()
        self.embed = nn.Linear(6, 24)
        self.blocks = nn.Sequential(*(Block(24, heads, groups, 6, rotary=rotary) for _ in range(2)))
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)).mean(1))


class Gpt(nn.Module):
    """Fused projections and a position table, as in GPT-2."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(11, 24), nn.Parameter(randn(5, 24))
        self.attn, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places
        q, k, v = (
            t.unflatten(-1, (4, 6)).transpose(1, 2) for t in self.attn(self.norm(x)).chunk(3, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(out.transpose(1, 2).flatten(-2))
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return x[:, -1] @ self.tokens.weight.T


class Encoder(nn.Module):
    """torch's own encoder layers, whose fused attention calls none of its layers."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        layer = nn.TransformerEncoderLayer(24, 4, 48, 0.0, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


class CrossAttention(nn.Module):
    """Queries from one sequence, keys and values of other widths from another."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 24)
        self.attention = nn.MultiheadAttention(24, 4, kdim=6, vdim=6, batch_first=True, bias=False)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        h = self.embed(x)
        return self.head(h + self.attention(query=h, key=x, value=x, need_weights=False)[0])


class Functional(nn.Module):
    """Attention over the weights of layers that are never called, as in torchvision's Swin."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 24), nn.Linear(24, 3)
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        h = self.embed(x)
        qkv = F.linear(h, self.qkv.weight, self.qkv.bias)
        q, k, v = (t.unflatten(-1, (4, 6)).transpose(1, 2) for t in qkv.chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
        return self.head(h + F.linear(out, self.proj.weight, self.proj.bias)).mean(1)


class Grouped(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(3, 12, 3),
            nn.GroupNorm(3, 12),
            nn.ReLU(),
            nn.Conv2d(12, 18, 3, groups=3),
            nn.ReLU(),
            nn.Conv2d(18, 2, 1),
        )


SEQUENCE = randn(2, 5, 6)
MODELS = {
    "vit": (Transformer, SEQUENCE),
    "llama": (lambda: Transformer(groups=2, rotary=True), SEQUENCE),
    "grouped queries": (lambda: Transformer(groups=2), SEQUENCE),
    "gpt": (Gpt, torch.randint(11, (2, 5))),
    "torch's encoder": (Encoder, SEQUENCE),
    "cross attention": (CrossAttention, SEQUENCE),
    "functional attention": (Functional, SEQUENCE),
    "grouped convolution": (Grouped, randn(2, 3, 8, 8)),
}


def planted(name):
    torch.random.manual_seed(0)
    build, inputs = MODELS[name]
    a = build()
    spec = PermutationSpec.from_model(a, inputs)
    assert spec.parents
    p = random_permutation(spec, generator=torch.Generator().manual_seed(1))
    b = copy.deepcopy(a)
    b.load_state_dict(apply_permutation(spec, p, a.state_dict()))
    return a, b, spec, p, inputs


@pytest.fixture(autouse=True)
def _keep_the_seed():
    with torch.random.fork_rng():
        yield


@pytest.mark.parametrize("name", MODELS)
def test_planted_permutations_are_recovered_from_weights(name):
    a, b, spec, p, inputs = planted(name)
    result = match(a, b, example_inputs=inputs, restarts=8)
    expected = invert(p, spec)
    assert all(torch.equal(result.permutation[g], expected[g]) for g in spec.groups)
    assert result.converged
    assert result.objective == pytest.approx(result.bound, rel=1e-4)
    assert list(result.history) == sorted(result.history)


@pytest.mark.parametrize("name", [n for n in MODELS if n != "gpt"])
def test_planted_permutations_are_recovered_from_activations(name):
    a, b, spec, p, inputs = planted(name)
    data = torch.cat([randn(16, *inputs.shape[1:], seed=s) for s in range(4)])
    result = match(a, b, data=data)
    expected = invert(p, spec)
    assert all(torch.equal(result.permutation[g], expected[g]) for g in spec.groups)
    assert result.history[1] >= result.history[0]
    torch.testing.assert_close(result.apply(b)(inputs), a(inputs))


def per_unit(spec, statistics):
    return {g: s.matched * math.prod(spec.permutation_shape(g)) for g, s in statistics.items()}


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_inner_groups_have_statistics(by):
    a, b, spec, _, inputs = planted("vit")
    data = torch.cat([randn(16, *inputs.shape[1:], seed=s) for s in range(4)])
    result = match(a, b, data=data, method=by, restarts=8, regrets=True)
    assert set(result.statistics) == set(spec.groups)
    total = per_unit(spec, result.statistics)
    for outer in set(spec.parents.values()):
        inner = [g for g, parent in spec.parents.items() if parent == outer]
        # Attention falls into shares of the queries and keys and of the values: nothing is left.
        assert total[outer] == pytest.approx(sum(total[g] for g in inner), rel=1e-4)
        for g in inner:
            found = result.statistics[g]
            assert found.size == spec.groups[g] == 6
            assert found.gap == pytest.approx(0, abs=1e-4)
            assert found.regret > 0.1 * found.matched
            assert found.undetermined == 0
            assert found.identity < 0.6 * found.matched
            if by == "activations":
                taps = 2 if g.endswith("qk") else 1
                assert found.matched == pytest.approx(taps, rel=1e-4)
    assert "6 units in each of 4" in str(result)


@pytest.mark.parametrize("name", ["vit", "gpt", "llama"])
def test_match_save_load_apply_verify_barrier(tmp_path, name):
    a, b, spec, _, inputs = planted(name)
    match(a, b, example_inputs=inputs, restarts=8).save(tmp_path / "m.safetensors")
    loaded = Matching.load(tmp_path / "m.safetensors")
    assert loaded.spec == spec
    assert loaded.spec.parents == spec.parents
    assert prove_spec(loaded.spec, a, inputs).passed
    torch.testing.assert_close(loaded.apply(b)(inputs), a(inputs))
    data = torch.randint(11, (16, 5)) if name == "gpt" else randn(16, 5, 6)
    targets = a(data).argmax(-1).detach()
    apart = barrier(a, b, (data, targets), alphas=5)
    aligned = barrier(a, b, (data, targets), permutation=loaded, alphas=5)
    assert apart.loss_barrier() > 1e-3
    assert aligned.loss_barrier() == pytest.approx(0, abs=1e-5)
    assert aligned.error_barrier() == 0
    assert aligned.loss == pytest.approx(apart.loss[:1].repeat(5), abs=1e-5)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(6, 12, 2, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0].mean(1))


def test_hidden_states_that_no_layer_shows_are_matched_by_weights():
    a = Recurrent()
    spec = PermutationSpec.from_model(a, SEQUENCE)
    p = random_permutation(spec, generator=torch.Generator().manual_seed(1))
    b = copy.deepcopy(a)
    b.load_state_dict(apply_permutation(spec, p, a.state_dict()))
    found = match(a, b, example_inputs=SEQUENCE, restarts=4)
    assert all(torch.equal(found.permutation[g], i) for g, i in invert(p, spec).items())
    with pytest.raises(SpecMismatchError, match=r"saw none of \['cells'\]: match these by weights"):
        match(a, b, data=SEQUENCE)


def test_two_levels_are_solved_exactly():
    similarity = randn(3, 4, 3, 4, seed=3)
    found = solve_structured({"h": 3, "c": 4}, "h", [Piece(("c",), similarity)])
    best = max(
        sum(
            similarity[i, :, j][linear_sum_assignment(similarity[i, :, j], True)].sum()
            for i, j in enumerate(outer)
        )
        for outer in itertools.permutations(range(3))
    )
    assert found.matched * 3 == pytest.approx(float(best), rel=1e-6)


def test_shared_axes_never_lose_value():
    for seed in range(5):
        pieces = [
            Piece(("q", "d"), randn(2, 3, 4, 2, 3, 4, seed=seed)),
            Piece(("d",), randn(2, 4, 2, 4, seed=seed + 9)),
            Piece((), randn(2, 2, seed=seed + 19)),
        ]
        found = solve_structured({"h": 2, "q": 3, "d": 4}, "h", pieces)
        assert found.gain >= 0
