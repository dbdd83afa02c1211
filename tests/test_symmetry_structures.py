"""Structured symmetries: what rivals get wrong, attention, recurrence, and what stays fixed."""

from pathlib import Path

import pytest
import torch
from lmc_fast import LmcWarning, PermutationSpec, register_rule
from lmc_fast.nets import MLP, VGG16, resnet20
from lmc_fast.symmetry import derive, prove_spec
from lmc_fast.symmetry.rules import registry
from symmetry_nets import Function, randn
from torch import nn
from torch.nn import functional as F

GOLDEN = Path(__file__).parent / "golden"


def derived(model, inputs):
    spec = PermutationSpec.from_model(model, inputs)
    assert prove_spec(spec, model, inputs).change < 1e-12
    return spec


def assert_spec(spec, model, text):
    assert spec.equivalent(PermutationSpec.parse(text, like=model)), f"\n{spec}"


@pytest.mark.parametrize(
    ("name", "build", "shape"),
    [
        ("mlp", lambda: MLP((784, 512, 512, 512, 10)), (2, 784)),
        ("vgg16", lambda: VGG16(norm="layernorm"), (1, 3, 32, 32)),
        ("resnet20", lambda: resnet20(64), (1, 3, 32, 32)),
    ],
)
def test_hand_specs_of_git_re_basin_are_found(name, build, shape):
    model = build()
    text = (GOLDEN / f"{name}.spec").read_text()
    assert_spec(derive.derive_unproven(model, randn(*shape)), model, text)


def attention(m, x):
    """Multi-head attention with 3 heads of 4 channels, written out; the output is averaged."""
    h = m.embed(x)
    q, k, v = (layer(h).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (m.q, m.k, m.v))
    weights = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    return m.head((h + m.o((weights @ v).transpose(1, 2).flatten(-2))).mean(1))


def fused_attention(m, x):
    h = m.embed(x)
    q, k, v = m.qkv(h).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    return m.head((h + m.o(out)).mean(1))


SEQUENCE = randn(2, 5, 3)


def test_heads_and_their_channels_move():
    layers = {name: nn.Linear(7, 12) for name in "qkv"}
    model = Function(
        attention, embed=nn.Linear(3, 7), o=nn.Linear(12, 7), head=nn.Linear(7, 2), **layers
    )
    assert_spec(
        derived(model, SEQUENCE),
        model,
        """
        r = 7
        h = 3
        qk = 4 per h
        v = 4 per h
        embed.weight: r 3
        embed.bias: r
        q.weight: (h qk) r
        q.bias: (h qk)
        k.weight: (h qk) r
        k.bias: (h qk)
        v.weight: (h v) r
        v.bias: (h v)
        o.weight: r (h v)
        o.bias: r
        head.weight: 2 r
        """,
    )


def test_fused_projections_fall_into_queries_keys_and_values():
    model = Function(
        fused_attention,
        embed=nn.Linear(3, 7),
        qkv=nn.Linear(7, 36),
        o=nn.Linear(12, 7),
        head=nn.Linear(7, 2),
    )
    spec = derived(model, SEQUENCE)
    assert_spec(
        spec,
        model,
        """
        r = 7
        h = 3
        qk = 4 per h
        v = 4 per h
        embed.weight: r 3
        embed.bias: r
        qkv.weight: (h qk + h qk + h v) r
        qkv.bias: (h qk + h qk + h v)
        o.weight: r (h v)
        o.bias: r
        head.weight: 2 r
        """,
    )
    assert set(spec.groups) == {"embed", "heads", "qk", "v"}


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def grouped_queries(m, x):
    h = m.embed(x)
    q = m.q(h).unflatten(-1, (4, 6)).transpose(1, 2)
    k, v = (layer(h).unflatten(-1, (2, 6)).transpose(1, 2) for layer in (m.k, m.v))
    if m.rotary:
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.5, 0.1]).repeat(2)
        q, k = rotate(q, angles.cos(), angles.sin()), rotate(k, angles.cos(), angles.sin())
    if m.repeated:
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=not m.repeated)
    return m.head((h + m.o(out.transpose(1, 2).flatten(-2))).mean(1))


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_query_heads_move_within_their_key_value_group(rotary, repeated):
    model = Function(
        grouped_queries,
        embed=nn.Linear(3, 7),
        q=nn.Linear(7, 24, bias=False),
        k=nn.Linear(7, 12, bias=False),
        v=nn.Linear(7, 12, bias=False),
        o=nn.Linear(24, 7, bias=False),
        head=nn.Linear(7, 2),
    )
    model.rotary, model.repeated = rotary, repeated
    spec = derived(model, SEQUENCE)
    channels = "6" if rotary else "d"
    assert_spec(
        spec,
        model,
        ("" if rotary else "d = 6 per kv\n")
        + f"""
        r = 7
        kv = 2
        queries = 2 per kv
        v = 6 per kv
        embed.weight: r 3
        embed.bias: r
        q.weight: (kv queries {channels}) r
        k.weight: (kv {channels}) r
        v.weight: (kv v) r
        o.weight: r (kv queries v)
        head.weight: 2 r
        """,
    )
    assert bool(spec.pinned) == rotary
    if rotary:
        assert spec.pinned[0].axis == "q.weight[0]"
        assert "rotary" in spec.pinned[0].reason
        assert "symmetry_nets.py:" in spec.pinned[0].source


def swiglu(m, x):
    h = m.embed(x)
    gate, up = m.up(h).chunk(2, -1)
    return m.head(h + m.down(F.silu(gate) * up))


def squeeze_excite(m, x):
    h = m.conv(x)
    gate = torch.sigmoid(m.expand(m.squeeze(h.mean((2, 3), keepdim=True)).relu()))
    return m.head((h * gate).mean((2, 3)))


def experts(m, x):
    h = m.embed(x)
    hidden = torch.einsum("bi,eio->beo", h, m.first).relu()
    out = torch.einsum("beo,eoi->bei", hidden, m.second)
    return m.head(h + (m.router(h).softmax(-1)[..., None] * out).sum(1))


def mixture():
    model = Function(experts, embed=nn.Linear(4, 5), router=nn.Linear(5, 3), head=nn.Linear(5, 2))
    model.first = nn.Parameter(randn(3, 5, 6))
    model.second = nn.Parameter(randn(3, 6, 5))
    return model


STRUCTURES = {
    "swiglu": (
        lambda: Function(
            swiglu,
            embed=nn.Linear(4, 5),
            up=nn.Linear(5, 12),
            down=nn.Linear(6, 5),
            head=nn.Linear(5, 2),
        ),
        randn(3, 4),
        """
        r = 5
        m = 6
        embed.weight: r 4
        embed.bias: r
        up.weight: (m + m) r
        up.bias: (m + m)
        down.weight: r m
        down.bias: r
        head.weight: 2 r
        """,
    ),
    "squeeze and excite": (
        lambda: Function(
            squeeze_excite,
            conv=nn.Conv2d(3, 6, 3),
            squeeze=nn.Conv2d(6, 4, 1),
            expand=nn.Conv2d(4, 6, 1),
            head=nn.Linear(6, 2),
        ),
        randn(2, 3, 8, 8),
        """
        c = 6
        s = 4
        conv.weight: c 3 3 3
        conv.bias: c
        squeeze.weight: s c 1 1
        squeeze.bias: s
        expand.weight: c s 1 1
        expand.bias: c
        head.weight: 2 c
        """,
    ),
    "mixture of experts": (
        mixture,
        randn(3, 4),
        """
        r = 5
        e = 3
        f = 6 per e
        embed.weight: r 4
        embed.bias: r
        router.weight: e r
        router.bias: e
        first: e r f
        second: e f r
        head.weight: 2 r
        """,
    ),
    "transposed convolution": (
        lambda: nn.Sequential(
            nn.ConvTranspose2d(3, 6, 2),
            nn.ConvTranspose2d(6, 8, 2, groups=2),
            nn.ConvTranspose2d(8, 2, 1),
        ),
        randn(2, 3, 4, 4),
        """
        g = 2
        i = 3 per g
        o = 4 per g
        0.weight: 3 (g i) 2 2
        0.bias: (g i)
        1.weight: (g i) o 2 2
        1.bias: (g o)
        2.weight: (g o) 2 1 1
        """,
    ),
    "weight norm": (
        lambda: nn.Sequential(
            torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)
        ),
        randn(3, 4),
        """
        h = 6
        0.bias: h
        0.parametrizations.weight.original0: h 1
        0.parametrizations.weight.original1: h 4
        1.weight: 2 h
        """,
    ),
    "stacked branches": (
        lambda: Function(
            lambda m, x: m.head(torch.stack([m.a(x), m.b(x)], 1).flatten(1)),
            a=nn.Linear(4, 3),
            b=nn.Linear(4, 3),
            head=nn.Linear(6, 2),
        ),
        randn(3, 4),
        "a.weight: a 4\na.bias: a\nb.weight: b 4\nb.bias: b\nhead.weight: 2 (a + b)",
    ),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures_are_found(name):
    build, inputs, text = STRUCTURES[name]
    model = build()
    spec = derived(model, inputs)
    assert_spec(spec, model, text)
    assert not spec.pinned


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_hidden_units_of_recurrent_layers_move(kind, bidirectional):
    cells = getattr(nn, kind)(5, 4, 2, batch_first=True, bidirectional=bidirectional)
    model = Function(
        lambda m, x: m.head(m.cells(m.embed(x))[0][:, -1]),
        embed=nn.Linear(3, 5),
        cells=cells,
        head=nn.Linear(8 if bidirectional else 4, 2),
    )
    spec = derived(model, SEQUENCE)
    assert list(spec.groups.values()) == [5, *[4] * (4 if bidirectional else 2)]
    assert not spec.pinned


def test_final_states_carry_the_units_of_every_layer():
    model = Function(
        lambda m, x: m.head(torch.cat([*m.cells(x)[1][0]], -1)),
        cells=nn.LSTM(3, 4, 2, batch_first=True, proj_size=3),
        head=nn.Linear(6, 2),
    )
    spec = derived(model, SEQUENCE)
    assert sorted(spec.groups.values()) == [3, 3, 4, 4]
    (first, second) = spec.tensors["head.weight"][1].segments
    assert first != second


def test_a_network_without_freedom_has_no_groups():
    model = Function(
        lambda m, x: m.a(x).sort(-1).values @ torch.arange(6.0)[:, None], a=nn.Linear(4, 6)
    )
    spec = PermutationSpec.from_model(model, randn(3, 4))
    assert dict(spec.groups) == {}
    assert spec.pinned[0].operation == "aten.sort"


def test_an_operation_without_a_rule_pins_with_its_name_and_line():
    model = Function(
        lambda m, x: m.b(m.a(m.c(x)).cummax(-1).values),
        c=nn.Linear(4, 5),
        a=nn.Linear(5, 6),
        b=nn.Linear(6, 2),
    )
    spec = derived(model, randn(3, 4))
    assert dict(spec.groups) == {"c": 5}
    (pin,) = spec.pinned[:1]
    assert (pin.axis, pin.operation) == ("a.weight[0]", "aten.cummax")
    assert "no rule" in pin.reason
    assert "symmetry_nets.py:" in pin.source
    assert "# pinned: a.weight[0] by aten.cummax" in str(spec)
    assert PermutationSpec.from_json(spec.to_json()).pinned == spec.pinned


def test_a_registered_rule_is_used(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", registry.registered_rules())
    model = Function(
        lambda m, x: m.b(m.a(x).renorm(2, 0, 1.0)), a=nn.Linear(4, 6), b=nn.Linear(6, 2)
    )
    before = derived(model, randn(3, 4))
    assert not before.groups
    assert {pin.operation for pin in before.pinned} == {"aten.renorm"}

    @register_rule("aten.renorm")
    def renorm(op):
        op.reduce(op["self"], [1])
        return op["self"]

    assert dict(derived(model, randn(3, 4)).groups) == {"a": 6}


def flatten_channels_last(op):
    """A rule that mislabels which factor of a flattened axis is the outer one."""
    right = registry.registered_rules()["aten.view"](op)
    return type(right)((*right.axes[:-1], tuple(reversed(right.axes[-1]))))


def image_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 6),
        nn.LayerNorm(6),
        nn.Linear(6, 2),
    )


def ungrouped(op):
    """Group normalisation taken for batch normalisation."""
    for name in ("weight", "bias"):
        op.unify(op["input"].axes[1], op[name].axes[0])
    return op["input"]


@pytest.mark.parametrize(
    ("operation", "mutant"),
    [
        ("aten.batch_norm", lambda op: op["input"]),
        ("aten.group_norm", ungrouped),
        ("aten.layer_norm", lambda op: op["input"]),
        ("aten.linear", lambda op: type(op["input"])((op["input"].axes[0], op["weight"].axes[0]))),
        ("aten.flatten", flatten_channels_last),
    ],
)
def test_a_mutated_rule_is_caught_by_the_proof(monkeypatch, operation, mutant):
    monkeypatch.setattr(registry, "_RULES", {**registry.registered_rules(), operation: mutant})
    model, inputs = image_net(), randn(2, 3, 6, 6)
    assert not prove_spec(derive.derive_unproven(model, inputs), model, inputs).passed
    with pytest.warns(LmcWarning, match="stay fixed"):
        spec = PermutationSpec.from_model(model, inputs)
    assert prove_spec(spec, model, inputs).passed
    assert any(pin.operation == "proof" for pin in spec.pinned)


@pytest.mark.parametrize("operation", sorted({"aten.batch_norm", "aten.layer_norm", "aten.linear"}))
def test_a_removed_rule_pins_and_stays_proven(monkeypatch, operation):
    rules = registry.registered_rules()
    del rules[operation]
    monkeypatch.setattr(registry, "_RULES", rules)
    model, inputs = image_net(), randn(2, 3, 6, 6)
    spec = derived(model, inputs)
    assert any(pin.operation == operation for pin in spec.pinned)
