import threading

import pytest
import torch
from lmc_fast import (
    PermutationSpec,
    SpecMismatchError,
    apply_permutation,
    invert,
    match,
    random_permutation,
)
from lmc_fast.checkpoints import save_state_dict
from lmc_fast.nets import MLP, VGG16, digits_resnet, resnet20
from torch import nn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(net, seed=0):
    """Give every tensor of a network, statistics included, values of a trained one's size."""
    g = generator(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=g)
        elif tensor.is_floating_point():
            scale = max(1, tensor[0].numel()) ** -0.5 if tensor.ndim > 1 else 0.3
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            tensor.copy_(offset + scale * torch.randn(tensor.shape, generator=g))
    return net.eval()


NETS = {
    "mlp": (lambda: MLP((20, 32, 24, 5)), (20,)),
    "mlp with layernorm": (lambda: MLP((20, 32, 24, 5), norm="layernorm"), (20,)),
    "vgg": (lambda: VGG16(4, norm="batchnorm"), (3, 32, 32)),
    "resnet": (lambda: resnet20(4), (3, 32, 32)),
    "flatten": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 4)
        ),
        (1, 8, 8),
    ),
}


@pytest.fixture(params=NETS)
def planted(request):
    make, shape = NETS[request.param]
    a = randomised(make())
    x = torch.randn(64, *shape, generator=generator(1))
    spec = PermutationSpec.from_model(a, x[:2])
    p = random_permutation(spec, generator=generator(2))
    b = make().eval()
    b.load_state_dict(apply_permutation(spec, invert(p), a.state_dict()))
    return a, b, x, p


@pytest.mark.parametrize("noise", [0, 1e-3])
def test_weights_recover_a_planted_permutation(planted, noise):
    a, b, x, p = planted
    with torch.no_grad():
        for w in b.parameters():
            w.add_(noise * torch.randn(w.shape, generator=generator(3)))
    result = match(a, b, example_inputs=x[:2], restarts=4)
    assert all(torch.equal(result.permutation[n], p[n]) for n in p)
    assert "proven" in result.proof


def test_activations_recover_a_planted_permutation(planted):
    a, b, x, p = planted
    result = match(a, b, data=x)
    assert result.method == "activations"
    for n, index in result.permutation.items():
        dead = result.statistics[n].dead_a
        assert int((index != p[n]).sum()) <= max(0, 2 * dead)
    torch.testing.assert_close(result.apply(b)(x), a(x), rtol=1e-4, atol=1e-4)
    assert result.objective == pytest.approx(result.bound, rel=1e-6)


def test_aligned_module_computes_what_b_computes(planted):
    a, b, x, _ = planted
    other = randomised(b, seed=9)
    result = match(a, other, example_inputs=x[:2])
    aligned = result.apply(other)
    assert aligned is not other
    torch.testing.assert_close(aligned(x), other(x), rtol=1e-4, atol=1e-4)


def test_shuffled_loader_shows_both_models_the_same_batch():
    a = randomised(MLP((20, 32, 5)))
    spec = PermutationSpec.from_model(a, torch.zeros(2, 20))
    p = random_permutation(spec, generator=generator(2))
    b = MLP((20, 32, 5))
    b.load_state_dict(apply_permutation(spec, invert(p), a.state_dict()))
    x = torch.randn(256, 20, generator=generator(1))
    data = torch.utils.data.TensorDataset(x, torch.zeros(256).long())
    loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    state = torch.random.get_rng_state()
    try:
        result = match(a, b, data=loader)
    finally:
        torch.random.set_rng_state(state)
    assert all(torch.equal(result.permutation[n], p[n]) for n in p)


@pytest.mark.parametrize("metric", ["correlation", "covariance", "gram", "cosine"])
def test_every_metric_matches(metric):
    a, b = randomised(MLP((20, 16, 5))), randomised(MLP((20, 16, 5)), 1)
    x = torch.randn(100, 20, generator=generator(1))
    result = match(a, b, data=x, metric=metric)
    hidden = [torch.relu(net.linears[0](x)).detach().double() for net in (a, b)]
    if metric in ("correlation", "covariance"):
        hidden = [h - h.mean(0) for h in hidden]
    if metric in ("correlation", "cosine"):
        hidden = [h / h.norm(dim=0).clamp_min(1e-30) for h in hidden]
    paired = hidden[0].T @ hidden[1]
    if metric == "covariance":
        paired /= 100
    (index,) = result.permutation.values()
    assert paired.gather(1, index[:, None]).sum().item() == pytest.approx(
        result.objective, rel=1e-5
    )


def test_one_shot_iterators_and_targets_are_accepted():
    a, b = randomised(MLP((20, 16, 5))), randomised(MLP((20, 16, 5)), 1)
    x = torch.randn(100, 20, generator=generator(1))
    whole = match(a, b, data=x)
    chunks = match(a, b, data=((x[i : i + 10], torch.zeros(10).long()) for i in range(0, 100, 10)))
    for name in whole.permutation:
        assert torch.equal(whole.permutation[name], chunks.permutation[name])


def test_modes_and_states_are_left_alone():
    a, b = digits_resnet(4).train(), digits_resnet(4)
    b.blocks[0].eval()
    modes = [m.training for net in (a, b) for m in net.modules()]
    states = [{n: t.clone() for n, t in net.state_dict().items()} for net in (a, b)]
    match(a, b, data=torch.randn(16, 1, 8, 8, generator=generator()))
    match(a, b, example_inputs=torch.randn(2, 1, 8, 8, generator=generator()))
    assert modes == [m.training for net in (a, b) for m in net.modules()]
    for net, state in zip((a, b), states, strict=True):
        assert all(torch.equal(t, state[n]) for n, t in net.state_dict().items())
        assert not net._forward_hooks
        assert all(not m._forward_pre_hooks for m in net.modules())


def test_dead_units_are_counted_and_kept_in_place():
    a = randomised(MLP((20, 16, 5)))
    with torch.no_grad():
        a.linears[0].bias[:5] = -100
    result = match(a, a, data=torch.randn(100, 20, generator=generator()))
    (statistics,) = result.statistics.values()
    assert statistics.dead_a == statistics.dead_b == 5
    (index,) = result.permutation.values()
    assert torch.equal(index, torch.arange(16))


@pytest.mark.parametrize("by", ["weights", "activations"])
def test_regrets_tell_partners_that_are_there_from_those_that_are_not(by):
    a, other = (randomised(MLP((20, 64, 5)), seed) for seed in (0, 1))
    x = torch.randn(256, 20, generator=generator(2))
    spec = PermutationSpec.from_model(a, x[:2])
    b = MLP((20, 64, 5)).eval()
    moved = apply_permutation(
        spec, random_permutation(spec, generator=generator(3)), a.state_dict()
    )
    b.load_state_dict(moved)
    copy, stranger = (
        match(a, net, data=x, method=by, spec=spec, regrets=True) for net in (b, other)
    )
    assert next(iter(copy.statistics.values())).undetermined == 0
    found = next(iter(stranger.statistics.values()))
    assert found.undetermined > 0.25 * found.size
    assert found.regret < 0.1 * next(iter(copy.statistics.values())).regret
    assert f"undetermined {found.undetermined}" in str(stranger)
    silent = match(a, other, data=x, method=by, spec=spec)
    for group, columns in silent.permutation.items():
        assert torch.equal(columns, stranger.permutation[group])
    assert next(iter(silent.statistics.values())).regret is None
    assert "undetermined" not in str(silent)


def test_a_wrong_spec_fails_its_proof():
    a = MLP((20, 16, 12, 5))
    wrong = PermutationSpec.parse(
        "h = 16\nlinears.0.weight: h 20\nlinears.0.bias: 16\nlinears.1.weight: 12 h", like=a
    )
    with pytest.raises(SpecMismatchError, match="fails its proof"):
        match(a, a, spec=wrong)


def test_a_given_spec_is_proven_and_says_so():
    a = MLP((20, 16, 5))
    axes = {
        "linears.0.weight": ("P_0", None),
        "linears.0.bias": ("P_0",),
        "head.weight": (None, "P_0"),
    }
    result = match(a, MLP((20, 16, 5)), spec=axes)
    assert "proven on the model" in result.proof
    states = match(a.state_dict(), MLP((20, 16, 5)).state_dict(), spec=axes)
    assert "not proven" in states.proof


def test_paths_are_read(tmp_path):
    a, b = MLP((20, 16, 5)), MLP((20, 16, 5))
    save_state_dict(a.state_dict(), tmp_path / "a.safetensors")
    save_state_dict(b.state_dict(), tmp_path / "b.pt")
    spec = PermutationSpec.from_model(a, torch.zeros(2, 20))
    by_path = match(tmp_path / "a.safetensors", str(tmp_path / "b.pt"), spec=spec)
    by_module = match(a, b)
    assert by_path.objective == by_module.objective


def test_activation_matching_needs_modules():
    a = MLP((20, 16, 5))
    with pytest.raises(ValueError, match="expected two modules and data="):
        match(a, a.state_dict(), data=torch.zeros(4, 20))


def test_empty_data_is_refused():
    a = MLP((20, 16, 5))
    with pytest.raises(ValueError, match="expected at least one"):
        match(a, a, data=torch.zeros(0, 20))


def test_many_threads_give_the_same_answer():
    a, b = randomised(MLP((20, 48, 5))), randomised(MLP((20, 48, 5)), 1)
    expected = match(a, b)
    results = [None] * 6

    def work(i):
        results[i] = match(a, b)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert all(torch.equal(result.permutation[n], p) for n, p in expected.permutation.items())


def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(6, 9, bias=False)
            self.head = nn.Linear(6, 9, bias=False)
            self.mix = nn.Linear(9, 6)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.relu(self.mix(torch.relu(self.embed(x)))))

    a, b = Tied(), Tied()
    result = match(a, b, example_inputs=torch.randn(2, 6))
    aligned = result.apply(b)
    assert aligned.head.weight is aligned.embed.weight
    x = torch.randn(5, 6)
    torch.testing.assert_close(aligned(x), b(x))
