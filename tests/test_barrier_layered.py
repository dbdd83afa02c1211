import copy

import numpy as np
import pytest
import torch
from lmc_fast import barrier, barrier_matrix
from lmc_fast.barrier import engine, layered
from lmc_fast.barrier.chain import chain_of
from lmc_fast.nets import MLP
from test_barrier import images, vectors
from torch import nn


class Written(nn.Module):
    """A perceptron the way people write it, with the layers out of order."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(5, 3)
        self.second = nn.Linear(9, 5, bias=False)
        self.first = nn.Linear(4, 9)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = x.view(x.shape[0], -1)
        x = torch.relu(self.first(x))
        x = self.drop(torch.nn.functional.gelu(self.second(x), approximate="tanh"))
        return self.out(x)


def batch_norm():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 6, bias=False),
        nn.BatchNorm1d(6), nn.Tanh(), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 3),
    )  # fmt: skip
    for module in net:
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
    return net


CHAINS = {
    "one hidden layer": lambda: MLP((4, 37, 3)),
    "wide head": lambda: nn.Sequential(nn.Linear(4, 70), nn.ReLU(), nn.Linear(70, 13)),
    "deep": lambda: MLP((4, 33, 17, 9, 3)),
    "deep tanh": lambda: nn.Sequential(
        nn.Linear(4, 33), nn.ReLU(), nn.Linear(33, 17), nn.Tanh(), nn.Linear(17, 3)
    ),
    "layer norm": lambda: MLP((4, 12, 9, 3), norm="layernorm"),
    "binary": lambda: MLP((4, 12, 1), binary=True),
    "written": Written,
    "batch norm": batch_norm,
    "double": lambda: MLP((4, 12, 9, 3)).double(),
    "no bias": lambda: nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)
    ),
    "tanh first": lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)),
}


def pair(name, count=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = [CHAINS[name]().eval() for _ in range(count)]
    x, y = vectors(150)
    x = x.to(next(nets[0].parameters()).dtype)
    return nets, (x, y % 2 if name == "binary" else y)


def functional(monkeypatch):
    monkeypatch.setattr(engine, "layered_evaluator", lambda *args: None)


@pytest.mark.parametrize(
    ("name", "norm"),
    [(name, "keep") for name in CHAINS]
    + [(name, "repair") for name in CHAINS if name not in ("written", "no bias")],
)
def test_layers_give_what_calls_of_the_module_give(name, norm, monkeypatch):
    nets, data = pair(name)
    assert chain_of(nets[0]) is not None
    used = []
    scores = layered.LayeredEvaluator.scores
    monkeypatch.setattr(
        layered.LayeredEvaluator, "scores", lambda *args: used.append(1) or scores(*args)
    )
    fused = barrier(*nets, data, alphas=7, norm=norm)
    assert used
    functional(monkeypatch)
    plain = barrier(*nets, data, alphas=7, norm=norm)
    np.testing.assert_allclose(fused.loss, plain.loss, rtol=1e-5)
    np.testing.assert_allclose(fused.error, plain.error, atol=1e-12)


@pytest.mark.parametrize("name", ["one hidden layer", "deep", "deep tanh", "batch norm"])
@pytest.mark.parametrize("max_memory", [15_000, 40_000, 200_000])
def test_chunking_never_changes_results(name, max_memory):
    nets, data = pair(name, count=4)
    free = barrier_matrix(nets, data, alphas=5, norm="keep")
    held = barrier_matrix(nets, data, alphas=5, norm="keep", max_memory=max_memory)
    np.testing.assert_allclose(held.loss, free.loss, rtol=1e-6)
    np.testing.assert_array_equal(held.error, free.error)


@pytest.mark.parametrize("examples", [1, 7, 127, 128, 129, 300])
def test_the_kernel_takes_any_number_of_examples(examples, monkeypatch):
    nets, _ = pair("one hidden layer", count=3)
    data = vectors(examples)
    fused = barrier_matrix(nets, data, alphas=4)
    functional(monkeypatch)
    np.testing.assert_allclose(fused.loss, barrier_matrix(nets, data, alphas=4).loss, rtol=1e-5)


def test_thread_counts_give_the_same_bits():
    nets, data = pair("one hidden layer", count=3)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(barrier(*nets[:2], data, alphas=9).loss)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(results[0], results[1], rtol=1e-7)
    np.testing.assert_allclose(results[0], results[2], rtol=1e-7)


def hooked():
    net = MLP((4, 5, 3))
    net.head.register_forward_hook(lambda module, args, output: output * 2)
    return net


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(x + torch.relu(self.first(x)))


class Branching(Skipping):
    def forward(self, x):
        return self.second(torch.relu(self.first(x))) if x.sum() > 0 else self.second(x)


class Scaled(Skipping):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.scale * self.second(torch.relu(self.first(x)))


class Dependent(Skipping):
    def forward(self, x):
        return self.second(torch.relu(self.first(x))) / (1 + x.square().mean())


class Across(Skipping):
    """Examples of a batch depend on each other after the last layer."""

    def forward(self, x):
        x = self.second(torch.relu(self.first(x)))
        return x - x.mean(0)


class Before(Skipping):
    """Examples of a batch depend on each other before the first layer."""

    def forward(self, x):
        return self.second(torch.relu(self.first(x - x.mean(0))))


@pytest.mark.parametrize(
    "make",
    [hooked, Skipping, Branching, Scaled, Dependent, lambda: nn.Linear(4, 3), Across, Before,
     lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(72, 5), nn.Linear(5, 3))],
)  # fmt: skip
def test_what_is_no_chain_is_called_as_it_is(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        a, b = make().eval(), make().eval()
    data = images() if isinstance(a, nn.Sequential) else vectors(64)
    x, y = data
    curve = barrier(a, b, data, alphas=3, norm="keep")
    net = copy.deepcopy(a)
    with torch.no_grad():
        for p, q in zip(net.parameters(), b.parameters(), strict=True):
            p.copy_((p + q) / 2)
        wanted = float(nn.functional.cross_entropy(net(x), y))
    assert curve.loss[1] == pytest.approx(wanted, rel=1e-5)


def test_not_a_number_in_one_network_stays_there():
    nets, data = pair("one hidden layer", count=3)
    with torch.no_grad():
        nets[0].linears[0].weight[0, 0] = float("nan")
    with pytest.warns(UserWarning, match="not finite"):
        matrix = barrier_matrix(nets, data, alphas=3)
    assert np.isnan(matrix.loss[0, 1, :2]).all()
    assert np.isfinite(matrix.loss[0, 1, 2])
    assert np.isfinite(matrix.loss[1, 2]).all()


def test_memory_is_held_by_making_weights_anew():
    nets, data = pair("deep tanh")
    seen = []
    evaluator = layered.LayeredEvaluator._linear

    def counting(self, position, part):
        seen.append(self._keep_weights)
        return evaluator(self, position, part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layered.LayeredEvaluator, "_linear", counting)
        barrier(*nets, data, alphas=5, max_memory=1 << 30)
        assert all(seen)
        seen.clear()
        barrier(*nets, data, alphas=5, max_memory=20_000)
        assert seen
        assert not any(seen)
