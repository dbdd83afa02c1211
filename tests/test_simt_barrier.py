"""The evaluators of CUDA models, on the host: the shim launches, and a capture reruns."""

import copy
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from lmc_fast import LmcWarning, barrier, plane, simplex
from lmc_fast.barrier import engine, fused_head, layered
from lmc_fast.barrier.losses import make_loss
from lmc_fast.barrier.replay import ReplayEvaluator, bytes_per_example
from lmc_fast.nets import MLP
from simt_host import HostLauncher, host_kernels
from torch import nn


@pytest.fixture(scope="module")
def library():
    return host_kernels("interpolation_grid")


def net(seed, make):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 5))


def convnet():
    return nn.Sequential(
        nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5)
    )


def data(count=70):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, 2, 2, generator=generator)
    return x, torch.randint(0, 5, (count,), generator=generator)


class Recording(HostLauncher):
    launched = ()

    def launch(self, kernel, *arguments):
        self.launched = (*self.launched, kernel)
        super().launch(kernel, *arguments)


@pytest.fixture
def fused(library, monkeypatch):
    """Send CPU models down the path of CUDA ones; what was launched."""
    launcher = Recording(library)
    monkeypatch.setattr(fused_head, "launcher_of", lambda weight: launcher)
    monkeypatch.setattr(layered, "relu_network", lambda *_: None)
    return launcher


def test_fused_head_gives_the_cpu_path_s_curve(fused, monkeypatch):
    a, b = net(1, mlp), net(2, mlp)
    found = barrier(a, b, data(), alphas=7)
    assert fused.launched == ("interpolation_grid_2",)
    monkeypatch.setattr(fused_head, "launcher_of", lambda weight: None)
    expected = barrier(a, b, data(), alphas=7)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=2e-6)
    np.testing.assert_array_equal(found.error, expected.error)


def test_fused_head_serves_planes_in_slices(fused, monkeypatch):
    nets = [net(seed, mlp) for seed in (1, 2, 3)]
    found = plane(*nets, data(), max_memory=70 * 16 * 8)
    assert set(fused.launched) == {"interpolation_grid_3"}
    assert len(fused.launched) > 3
    monkeypatch.setattr(fused_head, "launcher_of", lambda weight: None)
    expected = plane(*nets, data())
    np.testing.assert_allclose(found.loss, expected.loss, rtol=5e-6)


def test_few_examples_at_a_time_give_the_same_curve(fused):
    a, b = net(1, mlp), net(2, mlp)
    found = barrier(a, b, data(), alphas=3, max_memory=20_000)
    assert len(fused.launched) > 1
    np.testing.assert_allclose(found.loss, barrier(a, b, data(), alphas=3).loss, rtol=2e-6)


DEEP = {
    "relu": lambda: MLP((12, 20, 16, 14, 5)),
    "layernorm": lambda: MLP((12, 20, 16, 5), norm="layernorm"),
    "batchnorm": lambda: MLP((12, 20, 16, 5), norm="batchnorm"),
    "one logit": lambda: MLP((12, 20, 16, 1), binary=True),
    "gelu": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 8), nn.GELU(), nn.Linear(8, 5)
    ),
}


@pytest.mark.parametrize("norm", ["keep", "repair"])
@pytest.mark.parametrize("kind", DEEP)
def test_the_last_layer_is_fused_whatever_the_depth(fused, monkeypatch, kind, norm):
    a, b = net(1, DEEP[kind]), net(2, DEEP[kind])
    x, y = data()
    measured = partial(barrier, a, b, (x, y % 2), alphas=5, norm=norm, max_memory=400_000)
    found = measured()
    assert set(fused.launched) == {"interpolation_head"}
    monkeypatch.setattr(fused_head, "launcher_of", lambda weight: None)
    expected = measured()
    np.testing.assert_allclose(found.loss, expected.loss, rtol=3e-6)
    np.testing.assert_array_equal(found.error, expected.error)


def test_two_layers_of_many_networks_or_repaired_take_the_fused_last_layer(fused, monkeypatch):
    nets = [net(seed, mlp) for seed in range(5)]
    found = simplex(nets, data(), resolution=2)
    repaired = barrier(*nets[:2], data(), alphas=3, norm="repair")
    assert set(fused.launched) == {"interpolation_head"}
    monkeypatch.setattr(fused_head, "launcher_of", lambda weight: None)
    np.testing.assert_allclose(found.loss, simplex(nets, data(), resolution=2).loss, rtol=3e-6)
    expected = barrier(*nets[:2], data(), alphas=3, norm="repair")
    np.testing.assert_allclose(repaired.loss, expected.loss, rtol=3e-6)


def test_a_network_with_itself_is_flat(fused):
    a = net(1, mlp)
    assert barrier(a, copy.deepcopy(a), data(), alphas=5).loss_barrier() == 0.0


def test_a_target_that_is_no_class_is_an_error(fused):
    x, y = data()
    y[3] = 5
    with pytest.raises(ValueError, match="class target"):
        barrier(net(1, mlp), net(2, mlp), (x, y), alphas=3)


@pytest.mark.parametrize(
    ("loss", "temper", "targets"),
    [
        ("cross_entropy", False, torch.empty(4, dtype=torch.int64)),
        ("cross_entropy", True, torch.empty(4, dtype=torch.int64)),
        ("cross_entropy", False, torch.empty(4, 5)),
        ("token_cross_entropy", False, torch.empty(4, dtype=torch.int32)),
        ("binary_cross_entropy", False, torch.empty(4, 5)),
        ("mse", False, torch.empty(4, 5)),
        ("l1", False, torch.empty(4, 5)),
    ],
)
def test_no_batch_is_waited_for(loss, temper, targets):
    """Meta tensors have no values: whatever would read a device back fails on them."""
    scores = make_loss(loss, calibrate_temperature=temper).score(
        torch.empty(3, 4, 5, device="meta"), targets.to("meta")
    )
    total = engine._Total(3, per_example=False)
    total.add(slice(0, 3), scores)
    total.add(slice(0, 3), scores)
    assert total._loss.dtype == torch.float64
    if not targets.is_floating_point() or loss == "binary_cross_entropy":
        assert total._error.dtype == torch.int64
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        total.result(np.arange(3))


def rerun(forward):
    """A capture for the CPU: replaying runs the forward pass again into the same output."""
    output = forward()
    return lambda: output.copy_(forward()), output


def refuse(forward):
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def with_capture(monkeypatch, capture):
    def make(model, points, corrections, loss, max_memory, batch):
        return ReplayEvaluator(model, points, corrections, loss, max_memory, 0, capture)

    monkeypatch.setattr(engine, "replay_evaluator", make)


@pytest.mark.parametrize("norm", ["keep", "reset", "repair"])
def test_replay_gives_the_functional_path_s_curve(monkeypatch, norm):
    a, b = net(1, convnet), net(2, convnet)
    b[1].running_mean += 1
    run = partial(barrier, a, b, data(), alphas=5, norm=norm)
    if norm == "repair":
        for model in (a, b):
            model[0] = nn.Conv2d(3, 4, 2)
    expected = run()
    with_capture(monkeypatch, rerun)
    found = run(max_memory=70 * 5 * 28 * 4)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    np.testing.assert_array_equal(found.error, expected.error)


def test_shapes_beyond_the_captured_ones_are_evaluated_all_the_same(monkeypatch):
    a, b = net(1, convnet), net(2, convnet)
    x, y = data(60)
    edges = [0, 5, 11, 18, 26, 40, 60]
    batches = [(x[i:j], y[i:j]) for i, j in pairwise(edges)]
    expected = barrier(a, b, (x, y), alphas=3, norm="keep")
    with_capture(monkeypatch, rerun)
    found = barrier(a, b, batches, alphas=3, norm="keep")
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)


def test_a_model_that_cannot_be_captured_says_so_and_works(monkeypatch):
    a, b = net(1, convnet), net(2, convnet)
    expected = barrier(a, b, data(), alphas=3, norm="keep")
    with_capture(monkeypatch, refuse)
    with pytest.warns(LmcWarning, match="cannot be captured"):
        found = barrier(a, b, data(), alphas=3, norm="keep")
    np.testing.assert_array_equal(found.loss, expected.loss)


def test_passes_are_captured_within_the_memory_limit(monkeypatch):
    a, b = net(1, convnet), net(2, convnet)
    expected = barrier(a, b, data(), alphas=3, norm="keep")
    captured = []

    def counted(forward):
        captured.append(1)
        return rerun(forward)

    def make(model, points, corrections, loss, max_memory, batch):
        each = bytes_per_example(model, points, batch)
        assert each > 4 * 4  # at least the output of the convolution
        return ReplayEvaluator(model, points, corrections, loss, max_memory, each, counted)

    monkeypatch.setattr(engine, "replay_evaluator", make)
    for max_memory, captures in ((1 << 20, 1), (9_000, 0)):
        captured.clear()
        found = barrier(a, b, data(), alphas=3, norm="keep", max_memory=max_memory)
        assert len(captured) == captures
        np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
