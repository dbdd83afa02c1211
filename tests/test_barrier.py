import copy
import warnings

import lmc_fast
import numpy as np
import pytest
import torch
from lmc_fast import BarrierCurve, LmcWarning, PermutationSpec, barrier
from lmc_fast.barrier.losses import make_loss
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset


def mlp(seed, width=16, outputs=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, outputs))


class Residual(nn.Module):
    """A convolution, BatchNorm and a residual branch, with statistics of their own."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
            self.inner_norm = nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 3)
            for norm in (self.norm, self.inner_norm):
                nn.init.uniform_(norm.running_mean, -1, 1)
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.uniform_(norm.weight, 0.5, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + torch.relu(self.inner_norm(self.inner(x)))
        return self.head(x.mean((2, 3)))


def vectors(n=200, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=generator)
    return x, torch.randint(0, classes, (n,), generator=generator)


def images(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 6, 6, generator=generator)
    return x, torch.randint(0, 3, (n,), generator=generator)


def naive_curve(a, b, data, alphas, loss=F.cross_entropy):
    """One float64 network per alpha, loaded and run on all the data."""
    net = copy.deepcopy(a).double().eval()
    x, y = data
    losses, errors = [], []
    for alpha in alphas:
        state = {
            k: (1 - alpha) * v.double() + alpha * b.state_dict()[k].double()
            if v.is_floating_point()
            else v
            for k, v in a.state_dict().items()
        }
        net.load_state_dict(state)
        with torch.no_grad():
            out = net(x.double())
        losses.append(float(loss(out, y)))
        if not y.is_floating_point():
            errors.append(float((out.argmax(1) != y).double().mean()))
    return np.array(losses), np.array(errors)


@pytest.mark.parametrize(
    ("make", "data"), [(mlp, vectors()), (Residual, images())], ids=["mlp", "residual"]
)
def test_values_equal_a_float64_loop(make, data):
    a, b = make(0), make(1)
    curve = barrier(a, b, data, alphas=7, norm="keep")
    loss, error = naive_curve(a, b, data, curve.alphas)
    np.testing.assert_allclose(curve.loss, loss, rtol=1e-5)
    np.testing.assert_allclose(curve.error, error, atol=1e-12)
    assert curve.loss.dtype == curve.error.dtype == np.float64


@pytest.mark.parametrize(
    ("make", "data", "norm"),
    [
        (mlp, vectors(), "keep"),
        (mlp, vectors(), "repair"),
        (Residual, images(), "keep"),
        (Residual, images(), "reset"),
        (Residual, images(), "repair"),
    ],
)
def test_the_barrier_of_a_net_with_itself_is_exactly_zero(make, data, norm):
    net = make(3)
    curve = barrier(net, copy.deepcopy(net), data, alphas=9, norm=norm)
    for kind in ("chord", "mean", "max", "midpoint"):
        assert curve.loss_barrier(kind) == 0.0
        assert curve.error_barrier(kind) == 0.0


def test_endpoints_are_the_networks_themselves():
    a, b = mlp(0), mlp(1)
    x, y = vectors()
    curve = barrier(a, b, (x, y), alphas=5)
    for net, value in ((a, curve.loss[0]), (b, curve.loss[-1])):
        with torch.no_grad():
            assert value == pytest.approx(float(F.cross_entropy(net(x).double(), y)), rel=1e-6)


def test_batching_never_changes_the_curve():
    a, b, (x, y) = mlp(0), mlp(1), vectors()
    whole = barrier(a, b, (x, y), alphas=6)
    for loader in (
        DataLoader(TensorDataset(x, y), batch_size=7),
        DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True),
        iter([(x[:3], y[:3]), (x[3:], y[3:])]),
    ):
        parts = barrier(a, b, loader, alphas=6)
        np.testing.assert_allclose(parts.loss, whole.loss, rtol=1e-6)
        np.testing.assert_allclose(parts.error, whole.error, atol=1e-12)


@pytest.mark.parametrize("make", [mlp, Residual])
def test_memory_limit_never_changes_the_curve(make):
    a, b, data = make(0), make(1), vectors() if make is mlp else images()
    free = barrier(a, b, data, alphas=5, norm="keep")
    held = barrier(a, b, data, alphas=5, norm="keep", max_memory=20_000)
    np.testing.assert_allclose(held.loss, free.loss, rtol=1e-6)


def test_a_permuted_copy_has_no_barrier_once_undone():
    a = mlp(5)
    spec = PermutationSpec.parse(
        "0.weight: hidden 4\n0.bias: hidden\n2.weight: 3 hidden\n2.bias: 3", like=a
    )
    p = lmc_fast.random_permutation(spec, generator=torch.Generator().manual_seed(1))
    moved = lmc_fast.apply_permutation(spec, p, a.state_dict())
    raw = barrier(a, moved, vectors(), alphas=5)
    undone = barrier(a, moved, vectors(), alphas=5, permutation=lmc_fast.invert(p), spec=spec)
    assert raw.loss[2] != raw.loss[0]
    assert undone.loss_barrier() == 0.0
    assert undone.loss[-1] == undone.loss[0]


def test_models_stay_untouched_and_need_no_gradient():
    a, b = Residual(0).train(), Residual(1).train()
    a.inner_norm.eval()
    before = copy.deepcopy((a.state_dict(), b.state_dict()))
    modes = [module.training for module in a.modules()]
    curve = barrier(a, b, images(), alphas=3, norm="reset")
    assert [module.training for module in a.modules()] == modes
    assert all(b.training for b in b.modules())
    for net, state in zip((a, b), before, strict=True):
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in a.parameters())
    assert curve.loss.shape == (3,)


def test_an_interruption_leaves_the_model_as_it_was():
    a, b = Residual(0).train(), Residual(1)
    weight = a.stem.weight

    def interrupted():
        yield images()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        barrier(a, b, interrupted(), alphas=3, norm="keep")
    assert a.training
    assert a.stem.weight is weight
    assert not a.stem._forward_hooks
    assert barrier(a, b, images(), alphas=3, norm="keep").loss.shape == (3,)


@pytest.mark.parametrize("max_memory", [1 << 30, 20_000])
def test_reset_gives_the_statistics_of_one_large_training_batch(max_memory):
    a, b = Residual(0), Residual(1)
    x, y = images()
    curve = barrier(
        a, b, [(x[:24], y[:24]), (x[24:], y[24:])], alphas=3, norm="reset", max_memory=max_memory
    )
    net = copy.deepcopy(a).train()
    for alpha, found in zip(curve.alphas, curve.loss, strict=True):
        with torch.no_grad():
            for p, pa, pb in zip(net.parameters(), a.parameters(), b.parameters(), strict=True):
                p.copy_(pa + alpha * (pb - pa))
            assert found == pytest.approx(float(F.cross_entropy(net(x), y)), rel=1e-5)


@pytest.mark.parametrize("max_memory", [1 << 30, 8000])
def test_repair_gives_units_the_interpolated_statistics(max_memory):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = (
            nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
            for _ in range(2)
        )
    x, y = vectors(64)
    data = [(x[:40], y[:40]), (x[40:], y[40:])]
    curve = barrier(a, b, data, alphas=3, norm="repair", max_memory=max_memory)

    def moments(z):
        return z.mean(0), z.std(0, correction=0)

    with torch.no_grad():
        layers = []
        for first, second in ((a[0], b[0]), (a[2], b[2])):
            layers.append((first.weight + second.weight) / 2)
            layers.append((first.bias + second.bias) / 2)
        z = x
        za, zb = a[0](x), b[0](x)
        for depth in range(2):
            raw = z @ layers[2 * depth].T + layers[2 * depth + 1]
            (ma, sa), (mb, sb), (m, s) = moments(za), moments(zb), moments(raw)
            z = torch.relu((raw - m) / s * (sa + sb) / 2 + (ma + mb) / 2)
            if depth == 0:
                za, zb = a[2](torch.relu(za)), b[2](torch.relu(zb))
        out = z @ ((a[4].weight + b[4].weight) / 2).T + (a[4].bias + b[4].bias) / 2
        assert curve.loss[1] == pytest.approx(float(F.cross_entropy(out, y)), rel=1e-5)
    keep = barrier(a, b, data, alphas=3)
    np.testing.assert_allclose(curve.loss[[0, 2]], keep.loss[[0, 2]], rtol=1e-6)
    assert curve.loss[1] != pytest.approx(keep.loss[1], rel=1e-4)


def test_normalisation_asks_for_what_it_needs():
    with pytest.raises(ValueError, match="no layer to normalise"):
        barrier(mlp(0), mlp(1), vectors(), norm="reset")
    with pytest.raises(ValueError, match="one-shot"):
        barrier(Residual(0), Residual(1), iter([images()]), norm="reset")
    once = barrier(Residual(0), Residual(1), iter([images()]), calibration=images(), norm="reset")
    again = barrier(Residual(0), Residual(1), images(), norm="reset")
    assert once.loss.tolist() == again.loss.tolist()


def test_interpolated_batch_norm_statistics_warn_unless_chosen():
    with pytest.warns(LmcWarning, match="reset"):
        barrier(Residual(0), Residual(1), images(), alphas=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        barrier(Residual(0), Residual(1), images(), alphas=2, norm="keep")
        barrier(mlp(0), mlp(1), vectors(), alphas=2)


def test_a_loss_that_is_not_finite_is_kept_and_warned_about():
    a, b = mlp(0), mlp(1)
    with torch.no_grad():
        b[0].weight[0, 0] = float("nan")
    with pytest.warns(LmcWarning, match="not finite at 2 of 3"):
        curve = barrier(a, b, vectors(), alphas=3)
    assert np.isfinite(curve.loss[0])
    assert np.isnan(curve.loss[1:]).all()
    assert np.isnan(curve.loss_barrier())
    back = BarrierCurve.from_json(curve.to_json())
    np.testing.assert_array_equal(back.loss, curve.loss)


def test_state_dicts_need_a_module_and_non_float_entries_pass_through():
    a, b = Residual(0), Residual(1)
    b.norm.num_batches_tracked.fill_(7)
    direct = barrier(a, b, images(), alphas=3, norm="keep")
    for curve in (
        barrier(a, b.state_dict(), images(), alphas=3, norm="keep"),
        barrier(a.state_dict(), b.state_dict(), images(), model=a, alphas=3, norm="keep"),
    ):
        assert curve.loss.tolist() == direct.loss.tolist()
    with pytest.raises(TypeError, match="module"):
        barrier(a.state_dict(), b.state_dict(), images())


def test_networks_that_do_not_fit_are_listed():
    a = mlp(0)
    with pytest.raises(ValueError, match=r"0\.weight has shape"):
        barrier(a, mlp(0, width=5), vectors())
    state = a.state_dict()
    state["9.weight"] = state.pop("2.weight")
    with pytest.raises(ValueError, match=r"2\.weight is missing; 9\.weight is not in"):
        barrier(a, state, vectors())
    with pytest.raises(ValueError, match="dtype"):
        barrier(a, mlp(1).double(), vectors())


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"alphas": 1}, ValueError, "at least 2"),
        ({"alphas": [0.0, float("nan")]}, ValueError, "finite"),
        ({"loss": "crossentropy"}, ValueError, "loss must be"),
        ({"norm": "batch"}, ValueError, "norm must be"),
        ({"permutation": {}}, ValueError, "needs spec="),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        barrier(mlp(0), mlp(1), vectors(), **arguments)


def test_bad_data_is_named():
    x, y = vectors()
    with pytest.raises(ValueError, match="empty"):
        barrier(mlp(0), mlp(1), [])
    with pytest.raises(ValueError, match="inputs alone"):
        barrier(mlp(0), mlp(1), x)
    with pytest.raises(ValueError, match=r"0\.\.2"):
        barrier(mlp(0), mlp(1), (x, y + 3))


def test_definitions_on_a_known_curve():
    curve = BarrierCurve(
        alphas=np.array([0.0, 0.25, 0.5, 1.0]), loss=np.array([1.0, 5.0, 4.0, 3.0])
    )
    assert curve.loss_barrier("chord") == 5.0 - 1.5
    assert curve.loss_barrier("mean") == 5.0 - 2.0
    assert curve.loss_barrier("max") == 5.0 - 3.0
    assert curve.loss_barrier("midpoint") == 4.0 - 2.0
    assert curve.argmax_alpha() == 0.25
    assert curve.area() == pytest.approx((3.5 / 2 + (3.5 + 2) / 2) / 4 + 2 / 2 / 2)
    with pytest.raises(ValueError, match="kind must be"):
        curve.loss_barrier("midpint")
    with pytest.raises(ValueError, match="no error"):
        curve.error_barrier()
    with pytest.raises(ValueError, match=r"alpha=0\.5"):
        BarrierCurve(np.array([0.0, 1.0]), np.array([1.0, 2.0])).loss_barrier("midpoint")


def test_json_keeps_the_curve():
    curve = barrier(mlp(0), mlp(1), vectors(), alphas=4)
    back = BarrierCurve.from_json(curve.to_json())
    assert back.loss.tolist() == curve.loss.tolist()
    assert back.error.tolist() == curve.error.tolist()
    assert dict(back.settings) == dict(curve.settings)
    with pytest.raises(ValueError, match="JSON text of a BarrierCurve"):
        BarrierCurve.from_json("[1]")


def test_plot_returns_its_axes():
    curve = barrier(mlp(0), mlp(1), vectors(), alphas=4)
    ax = curve.plot(label="raw")
    assert ax.lines[0].get_xydata().shape == (4, 2)
    assert curve.plot(ax, metric="error") is ax


LOSSES = {
    "mse": (torch.randn(200, 3), F.mse_loss, "mse"),
    "l1": (torch.randn(200, 3), F.l1_loss, "l1"),
    "callable": (vectors()[1], F.cross_entropy, F.cross_entropy),
    "per example": (
        vectors()[1],
        F.cross_entropy,
        lambda out, y: F.cross_entropy(out, y, reduction="none"),
    ),
    "probabilities": (torch.rand(200, 3), F.cross_entropy, "cross_entropy"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_torch(name):
    targets, reference, loss = LOSSES[name]
    a, b, (x, _) = mlp(0), mlp(1), vectors()
    curve = barrier(a, b, (x, targets), alphas=3, loss=loss)
    wanted, _ = naive_curve(
        a,
        b,
        (x, targets.double() if targets.is_floating_point() else targets),
        curve.alphas,
        reference,
    )
    np.testing.assert_allclose(curve.loss, wanted, rtol=1e-5)
    assert curve.error is None


def test_binary_targets_have_an_error():
    a, b, (x, _) = mlp(0, outputs=1), mlp(1, outputs=1), vectors()
    y = (x[:, 0] > 0).float()
    curve = barrier(a, b, (x, y), alphas=3, loss="binary_cross_entropy")
    with torch.no_grad():
        z = a(x)[:, 0]
    assert curve.loss[0] == pytest.approx(float(F.binary_cross_entropy_with_logits(z, y)), rel=1e-5)
    assert curve.error[0] == pytest.approx(float(((z > 0) != (y > 0.5)).double().mean()))


class Tokens(nn.Module):
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(11, 6)
            self.head = nn.Linear(6, 11)

    def forward(self, tokens):
        return self.head(torch.relu(self.embedding(tokens)))


def test_token_losses_leave_out_ignored_targets():
    a, b = Tokens(0), Tokens(1)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 11, (12, 5), generator=generator)
    targets = torch.randint(0, 11, (12, 5), generator=generator)
    targets[3:, 2:] = -100
    targets[7] = -100
    curve = barrier(
        a,
        b,
        DataLoader(TensorDataset(tokens, targets), batch_size=5),
        alphas=3,
        loss="token_cross_entropy",
    )
    with torch.no_grad():
        out = a(tokens)
    assert curve.loss[0] == pytest.approx(float(F.cross_entropy(out.mT, targets)), rel=1e-5)
    kept = targets != -100
    wrong = (out.argmax(-1) != targets)[kept].double().mean()
    assert curve.error[0] == pytest.approx(float(wrong))


def test_half_precision_points_are_formed_in_float32():
    a, b = mlp(0).bfloat16(), mlp(1).bfloat16()
    x, y = vectors()
    curve = barrier(a, b, (x.bfloat16(), y), alphas=3)
    net = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(net.parameters(), b.parameters(), strict=True):
            p.copy_((p.float() + q.float()) / 2)
        wanted = float(F.cross_entropy(net(x.bfloat16()).double(), y))
    assert curve.loss[1] == pytest.approx(wanted, rel=1e-9)


def test_tied_weights_stay_tied():
    a, b = Tokens(0), Tokens(1)
    for net in (a, b):
        net.head.weight = net.embedding.weight
    tokens = torch.arange(11)[:, None].repeat(1, 2)
    curve = barrier(a, b, (tokens, tokens), alphas=3, loss="token_cross_entropy")
    net = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(net.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
        wanted = float(F.cross_entropy(net(tokens).mT, tokens))
    assert curve.loss[1] == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 3, 10, 17])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_compiled_cross_entropy_is_accurate_also_where_losses_are_small(classes, scale):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(4, 261, classes, generator=generator) * scale
    labels = logits[0].argmax(1)
    labels[:20] = torch.randint(0, classes, (20,), generator=generator)
    labels[::50] = -100
    scores = make_loss("cross_entropy").score(logits, labels)
    for k in range(4):
        wanted = F.cross_entropy(logits[k].double(), labels, reduction="none").numpy()
        np.testing.assert_allclose(scores.loss[k], wanted, rtol=3e-6, atol=1e-13)
        wrong = (logits[k].argmax(1) != labels) & (labels != -100)
        assert torch.equal(scores.error[k].bool(), wrong)
        loss, error = scores.totals()
        assert float(loss[k]) == pytest.approx(wanted.sum(), rel=1e-6, abs=1e-30)
        assert float(error[k]) == float(wrong.sum())
    assert float(scores.weight.sum()) == float((labels != -100).sum())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_compiled_cross_entropy_hides_no_bad_logit(value):
    for place in range(3):
        logits = torch.zeros(1, 4, 3)
        logits[0, 1, place] = value
        loss = make_loss("cross_entropy").score(logits, torch.tensor([0, 1, 2, 0])).loss
        assert not torch.isfinite(loss[0, 1]) or (value > 0 and place == 1)
        assert torch.isfinite(loss[0, [0, 2, 3]]).all()
