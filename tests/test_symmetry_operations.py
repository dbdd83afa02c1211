"""Every rule, one network each: the spec is the expected one, and the proof catches mutants."""

import pytest
import torch
from lmc_fast import PermutationSpec
from lmc_fast.shapes import shapes_of
from lmc_fast.symmetry import prove_spec
from lmc_fast.symmetry.propagate import propagate
from lmc_fast.symmetry.rules import registry
from lmc_fast.symmetry.spell import settle, spell
from lmc_fast.symmetry.trace import trace
from symmetry_nets import Function, randn
from torch import nn
from torch.nn import functional as F

VECTORS, SEQUENCES, IMAGES = randn(3, 4), randn(2, 5, 4), randn(2, 3, 6, 6)
PLACES = torch.tensor([4, 0, 2])
THROUGH = "a.weight: h 4\na.bias: h\nb.weight: 2 h"
CHANNELS = "a.weight: h 3 1 1\na.bias: h\nb.weight: 2 h"


def between(function, inputs=VECTORS, **parts):
    """Six units that a function carries from one layer to another."""
    return (
        lambda: Function(
            lambda m, x: m.b(function(m, m.a(x))), a=nn.Linear(4, 6), b=nn.Linear(6, 2), **parts
        ),
        inputs,
    )


def channels(function, last=6, inputs=IMAGES, conv=nn.Conv2d, **parts):
    """Six channels that a function carries from a convolution to a layer on the last axis."""
    return (
        lambda: Function(
            lambda m, x: m.b(function(m, m.a(x))),
            a=conv(inputs.shape[1], 6, 1),
            b=nn.Linear(last, 2),
            **parts,
        ),
        inputs,
    )


def pooled(operation, rank):
    """Six channels through an operation on the places behind them."""
    inputs = randn(2, 3, *[4] * rank)
    case = channels(
        lambda m, h: operation(h).flatten(2).mean(2),
        inputs=inputs,
        conv=getattr(nn, f"Conv{rank}d"),
    )
    ones = " 1" * rank
    return (*case, f"a.weight: h 3{ones}\na.bias: h\nb.weight: 2 h")


def parameter(*shape):
    return nn.Parameter(randn(*shape, seed=7))


def recurrent(kind):
    return (
        lambda: Function(
            lambda m, x: m.b(m.a(x)[0][:, -1]), a=kind(4, 5, batch_first=True), b=nn.Linear(5, 2)
        ),
        SEQUENCES,
    )


def gates(count):
    rows = "(" + " + ".join(["h"] * count) + ")" if count > 1 else "h"
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return (
        "\n".join(
            f"a.{name}: {rows}{' 4' if '_ih' in name else ' h'}"
            if "weight" in name
            else f"a.{name}: {rows}"
            for name in names
        )
        + "\nb.weight: 2 h"
    )


CASES = {
    "aten.view": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).view(3, 2, 3).sum(1)), a=nn.Linear(4, 6), b=nn.Linear(3, 2)
        ),
        VECTORS,
        "u = 2\na.weight: (u c) 4\na.bias: (u c)\nb.weight: 2 c",
    ),
    "aten.reshape": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).reshape(2, -1)), a=nn.Linear(4, 6), b=nn.Linear(30, 2)
        ),
        SEQUENCES,
        "a.weight: h 4\na.bias: h\nb.weight: 2 (5 h)",
    ),
    "aten.flatten": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).flatten(1)), a=nn.Conv2d(3, 6, 5), b=nn.Linear(24, 2)
        ),
        IMAGES,
        "a.weight: h 3 5 5\na.bias: h\nb.weight: 2 (h 4)",
    ),
    "aten.permute": (*channels(lambda m, h: h.permute(0, 2, 3, 1)), CHANNELS),
    "aten.transpose": (*channels(lambda m, h: h.transpose(1, 3)), CHANNELS),
    "aten.movedim": (*channels(lambda m, h: h.movedim(1, -1)), CHANNELS),
    "aten.t": (
        lambda: Function(lambda m, x: m.w @ m.a(x).t(), a=nn.Linear(4, 6), w=parameter(2, 6)),
        VECTORS,
        "a.weight: h 4\na.bias: h\nw: 2 h",
    ),
    "aten.expand": (
        *between(lambda m, h: h * m.s.expand(3, 6), s=parameter(6)),
        THROUGH + "\ns: h",
    ),
    "aten.repeat": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).repeat(1, 2)), a=nn.Linear(4, 6), b=nn.Linear(12, 2)
        ),
        VECTORS,
        "r = 2\nh = 6\na.weight: h 4\na.bias: h\nb.weight: 2 (r h)",
    ),
    "aten.repeat_interleave": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).repeat_interleave(2, 1)), a=nn.Linear(4, 6), b=nn.Linear(12, 2)
        ),
        VECTORS,
        "r = 2 per h\nh = 6\na.weight: h 4\na.bias: h\nb.weight: 2 (h r)",
    ),
    "aten.cat": (
        lambda: Function(
            lambda m, x: m.b(torch.cat([m.a(x), m.c(x)], 1)),
            a=nn.Linear(4, 6),
            c=nn.Linear(4, 5),
            b=nn.Linear(11, 2),
        ),
        VECTORS,
        "a.weight: h 4\na.bias: h\nc.weight: k 4\nc.bias: k\nb.weight: 2 (h + k)",
    ),
    "aten.stack": (
        lambda: Function(
            lambda m, x: m.b(torch.stack([m.a(x), m.c(x)], 2).flatten(1)),
            a=nn.Linear(4, 6),
            c=nn.Linear(4, 6),
            b=nn.Linear(12, 2),
        ),
        VECTORS,
        "a.weight: h 4\na.bias: h\nc.weight: h 4\nc.bias: h\nb.weight: 2 (h 2)",
    ),
    "aten.chunk": (
        lambda: Function(
            lambda m, x: m.b(torch.mul(*m.a(x).chunk(2, 1))), a=nn.Linear(4, 12), b=nn.Linear(6, 2)
        ),
        VECTORS,
        "a.weight: (h + h) 4\na.bias: (h + h)\nb.weight: 2 h",
    ),
    "aten.split_with_sizes": (
        lambda: Function(
            lambda m, x: m.b(torch.cat(m.a(x).split([4, 2], 1)[::-1], 1)),
            a=nn.Linear(4, 6),
            b=nn.Linear(6, 2),
        ),
        VECTORS,
        "p = 4\nq = 2\na.weight: (p + q) 4\na.bias: (p + q)\nb.weight: 2 (q + p)",
    ),
    "aten.slice": (
        lambda: Function(lambda m, x: m.b(m.a(x)[:, 1:5]), a=nn.Linear(4, 6), b=nn.Linear(4, 2)),
        VECTORS,
        "p = 4\na.weight: (1 + p + 1) 4\na.bias: (1 + p + 1)\nb.weight: 2 p",
    ),
    "aten.select": (
        lambda: Function(
            lambda m, x: m.b(m.a(x).unflatten(1, (2, 3))[:, 1]),
            a=nn.Linear(4, 6),
            b=nn.Linear(3, 2),
        ),
        VECTORS,
        "q = 3\np = 3\na.weight: (q + p) 4\na.bias: (q + p)\nb.weight: 2 p",
    ),
    "aten.unbind": (
        lambda: Function(
            lambda m, x: m.b(torch.cat(m.a(x).unflatten(1, (2, 3)).unbind(1)[::-1], 1)),
            a=nn.Linear(4, 6),
            b=nn.Linear(6, 2),
        ),
        VECTORS,
        "q = 3\np = 3\na.weight: (q + p) 4\na.bias: (q + p)\nb.weight: 2 (p + q)",
    ),
    "aten.roll": (*between(lambda m, h: h.roll(2, 1), SEQUENCES), THROUGH),
    "aten.pad": (*channels(lambda m, h: F.pad(h, (1, 2, 0, 1)).mean((2, 3))), CHANNELS),
    "aten.mul": (*between(lambda m, h: h * m.s, s=parameter(6)), THROUGH + "\ns: h"),
    "aten.copy": (*between(lambda m, h: torch.empty_like(h).copy_(h)), THROUGH),
    "aten.ones_like": (*between(lambda m, h: h + torch.ones_like(h)), THROUGH),
    "aten.prelu": (*between(lambda m, h: m.p(h), p=nn.PReLU(6)), THROUGH + "\np.weight: h"),
    "aten.linear": (*between(lambda m, h: m.c(h), c=nn.Linear(6, 6)), None),
    "aten.matmul": (
        lambda: Function(lambda m, x: x @ m.v @ m.w, v=parameter(4, 6), w=parameter(6, 2)),
        SEQUENCES,
        "v: 4 h\nw: h 2",
    ),
    "aten.addmm": (
        lambda: Function(
            lambda m, x: m.b(torch.addmm(m.c, x, m.v)),
            c=parameter(6),
            v=parameter(4, 6),
            b=nn.Linear(6, 2),
        ),
        VECTORS,
        "c: h\nv: 4 h\nb.weight: 2 h",
    ),
    "aten.einsum": (
        lambda: Function(
            lambda m, x: torch.einsum("bnh,ho->bno", m.a(x), m.w),
            a=nn.Linear(4, 6),
            w=parameter(6, 2),
        ),
        SEQUENCES,
        "a.weight: h 4\na.bias: h\nw: h 2",
    ),
    "aten.outer": (
        lambda: Function(
            lambda m, x: m.b(torch.outer(m.a(x), m.c(x)).flatten()),
            a=nn.Linear(4, 6),
            c=nn.Linear(4, 5),
            b=nn.Linear(30, 2),
        ),
        randn(4),
        "a.weight: h 4\na.bias: h\nc.weight: k 4\nc.bias: k\nb.weight: 2 (h k)",
    ),
    "aten.batch_norm": (
        *channels(lambda m, h: m.n(h).mean((2, 3)), n=nn.BatchNorm2d(6)),
        CHANNELS
        + "".join(f"\nn.{t}: h" for t in ("weight", "bias", "running_mean", "running_var")),
    ),
    "aten.instance_norm": (
        *channels(lambda m, h: m.n(h).relu().mean((2, 3)), n=nn.InstanceNorm2d(6, affine=True)),
        CHANNELS + "\nn.weight: h\nn.bias: h",
    ),
    "aten.layer_norm": (
        *between(lambda m, h: m.n(h), n=nn.LayerNorm(6)),
        THROUGH + "\nn.weight: h\nn.bias: h",
    ),
    "aten.rms_norm": (*between(lambda m, h: m.n(h), n=nn.RMSNorm(6)), THROUGH + "\nn.weight: h"),
    "aten.group_norm": (
        *channels(lambda m, h: m.n(h).relu().mean((2, 3)), n=nn.GroupNorm(2, 6)),
        "g = 2\nc = 3 per g\n"
        + (CHANNELS + "\nn.weight: h\nn.bias: h").replace("h ", "(g c) ").replace(" h", " (g c)"),
    ),
    "aten._weight_norm": (
        lambda: nn.Sequential(
            torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 2)
        ),
        VECTORS,
        "0.bias: h\n0.parametrizations.weight.original0: h 1\n"
        "0.parametrizations.weight.original1: h 4\n1.weight: 2 h",
    ),
    "aten.lstm": (*recurrent(nn.LSTM), gates(4)),
    "aten.gru": (*recurrent(nn.GRU), gates(3)),
    "aten.rnn_tanh": (*recurrent(nn.RNN), gates(1)),
    "aten.conv1d": (
        *channels(
            lambda m, h: m.c(h).mean(2), inputs=randn(2, 3, 6), conv=nn.Conv1d, c=nn.Conv1d(6, 6, 3)
        ),
        "a.weight: h 3 1\na.bias: h\nc.weight: k h 3\nc.bias: k\nb.weight: 2 k",
    ),
    "aten.conv2d": (
        *channels(lambda m, h: m.c(h).mean((2, 3)), c=nn.Conv2d(6, 6, 3, groups=6)),
        CHANNELS + "\nc.weight: h 1 3 3\nc.bias: h",
    ),
    "aten.conv3d": (
        *channels(
            lambda m, h: m.c(h).mean((2, 3, 4)),
            inputs=randn(2, 3, 4, 4, 4),
            conv=nn.Conv3d,
            c=nn.Conv3d(6, 6, 3, groups=2),
        ),
        "g = 2\ni = 3 per g\no = 3 per g\na.weight: (g i) 3 1 1 1\na.bias: (g i)\n"
        "c.weight: (g o) i 3 3 3\nc.bias: (g o)\nb.weight: 2 (g o)",
    ),
    "aten.conv_transpose2d": (
        *channels(lambda m, h: m.c(h).mean((2, 3)), c=nn.ConvTranspose2d(6, 6, 3, groups=2)),
        "g = 2\ni = 3 per g\no = 3 per g\na.weight: (g i) 3 1 1\na.bias: (g i)\n"
        "c.weight: (g i) o 3 3\nc.bias: (g o)\nb.weight: 2 (g o)",
    ),
    "aten.max_pool1d": pooled(lambda h: F.max_pool1d(h, 2), 1),
    "aten.avg_pool2d": pooled(lambda h: F.avg_pool2d(h, 2), 2),
    "aten.adaptive_avg_pool3d": pooled(lambda h: F.adaptive_avg_pool3d(h, 2), 3),
    "aten.upsample_nearest1d": pooled(lambda h: F.interpolate(h, scale_factor=2), 1),
    "aten.upsample_linear1d": pooled(lambda h: F.interpolate(h, 7, mode="linear"), 1),
    "aten.upsample_bilinear2d": pooled(lambda h: F.interpolate(h, 7, mode="bilinear"), 2),
    "aten.upsample_bicubic2d": pooled(lambda h: F.interpolate(h, 7, mode="bicubic"), 2),
    "aten.upsample_trilinear3d": pooled(lambda h: F.interpolate(h, 7, mode="trilinear"), 3),
    "aten.scaled_dot_product_attention": (
        lambda: Function(
            lambda m, x: m.b(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x))),
            q=nn.Linear(4, 3),
            k=nn.Linear(4, 3),
            v=nn.Linear(4, 5),
            b=nn.Linear(5, 2),
        ),
        SEQUENCES,
        "q.weight: d 4\nq.bias: d\nk.weight: d 4\nk.bias: d\n"
        "v.weight: e 4\nv.bias: e\nb.weight: 2 e",
    ),
    "aten.embedding": (
        lambda: Function(lambda m, x: m.b(m.a(x)), a=nn.Embedding(7, 6), b=nn.Linear(6, 2)),
        torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(0)),
        "a.weight: 7 h\nb.weight: 2 h",
    ),
    "aten.index_select": (
        *between(lambda m, h: h.index_select(1, m.places), SEQUENCES, places=PLACES),
        THROUGH,
    ),
    "aten.index": (*between(lambda m, h: h[:, m.places], SEQUENCES, places=PLACES), THROUGH),
    "aten.gather": (
        *between(
            lambda m, h: h.gather(1, m.places[None, :, None].expand(2, 3, 6)),
            SEQUENCES,
            places=PLACES,
        ),
        THROUGH,
    ),
    "aten.sum": (*between(lambda m, h: h.sum(1), SEQUENCES), THROUGH),
    "aten.var_mean": (*between(lambda m, h: torch.mul(*torch.var_mean(h, 1)), SEQUENCES), THROUGH),
    "aten.softmax": (*between(lambda m, h: h.softmax(1), SEQUENCES), THROUGH),
    "aten.log_softmax": (*between(lambda m, h: h.log_softmax(-1), SEQUENCES), THROUGH),
    "aten.glu": (
        lambda: Function(lambda m, x: m.b(F.glu(m.a(x))), a=nn.Linear(4, 12), b=nn.Linear(6, 2)),
        VECTORS,
        "a.weight: (h + h) 4\na.bias: (h + h)\nb.weight: 2 h",
    ),
    "aten.sort": (*between(lambda m, h: h.sort(1).values, SEQUENCES), THROUGH),
}
CASES["aten.linear"] = (
    *CASES["aten.linear"][:2],
    "a.weight: h 4\na.bias: h\nc.weight: k h\nc.bias: k\nb.weight: 2 k",
)


def forgetful(op):
    """A rule that leaves its result unrelated to its arguments."""
    values = [op.free_value(shape) for shape in op.shapes]
    return values[0] if len(values) == 1 else values


def rigid(op):
    """A rule that fixes its result and leaves its arguments as they are."""
    values = [op.fixed_value(shape) for shape in op.shapes]
    return values[0] if len(values) == 1 else values


def derived(traced, model):
    found = propagate(traced, model)
    settle(found)
    return spell(found, shapes_of(model))


@pytest.mark.parametrize("operation", CASES)
def test_an_operation_carries_groups_and_the_proof_catches_its_mutants(monkeypatch, operation):
    build, inputs, text = CASES[operation]
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        model = build()
    traced = trace(model, inputs)
    spec = derived(traced, model)
    expected = PermutationSpec.parse(text, like=model)
    assert spec.equivalent(expected), f"\n{spec}"
    assert prove_spec(spec, model, inputs).change < 1e-12
    for mutant in (forgetful, rigid):
        rules = {**registry.registered_rules(), operation: mutant}
        monkeypatch.setattr(registry, "_RULES", rules)
        wrong = derived(traced, model)
        if operation != "aten.ones_like":
            assert not prove_spec(wrong, model, inputs).passed
        else:  # where all entries are equal, knowing nothing of them is right
            assert wrong.equivalent(expected) == (mutant is forgetful)


# Taken before any test or example in a docstring registers one of its own.
SHIPPED_RULES = dict(registry.registered_rules())


def test_every_rule_has_a_case():
    rules = SHIPPED_RULES
    covered = {rules[operation.removesuffix("_")] for operation in CASES if operation in rules}
    # Entry-wise operations without a rule of their own follow this one.
    covered.add(rules["aten.where"])
    missing = {name for name, rule in rules.items() if rule not in covered}
    assert not missing
