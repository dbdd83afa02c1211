"""`CrossMoments` fed by the kernels (on the host, by the SIMT shim) against its own torch path."""

import pytest
import torch
from lmc_fast import CrossMoments, LmcWarning, cross_correlation, statistics
from simt_host import HostLauncher, host_kernels


@pytest.fixture(scope="module")
def library():
    return host_kernels("cross_correlation")


class Counting(HostLauncher):
    launches = 0

    def launch(self, *arguments):
        self.launches += 1
        super().launch(*arguments)


@pytest.fixture
def device(library, monkeypatch):
    """Send CPU tensors down the path that CUDA tensors take."""
    launcher = Counting(library)
    monkeypatch.setattr(statistics, "launcher_of", lambda x: launcher)
    return launcher


def batches(count=3, shape=(50, 6, 3, 3)):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        x = torch.randn(shape, generator=generator) + torch.arange(6.0).view(6, 1, 1)
        x[:, 4] = 2.5
        yield x, (0.7 * x + torch.randn(shape, generator=generator)).relu()


METRICS = ["correlation", "covariance", "gram", "cosine"]


@pytest.mark.parametrize("mode", ["float32", "exact"])
@pytest.mark.parametrize("metric", METRICS)
def test_kernels_and_torch_give_the_same_moments(device, monkeypatch, metric, mode):
    fed, whole = CrossMoments(mode=mode), CrossMoments(mode="exact")
    for x, y in batches():
        fed.update(x, y)
        whole._add(x, y)
    assert fed.count == whole.count == 3 * 50 * 9
    torch.testing.assert_close(
        getattr(fed, metric)().double(), getattr(whole, metric)(), rtol=2e-6, atol=2e-6
    )
    torch.testing.assert_close(fed.mean_x, whole.mean_x, rtol=1e-6, atol=1e-6)
    assert torch.equal(fed.dead_x, whole.dead_x)
    assert fed.dead_x.tolist() == [False] * 4 + [True, False]


def test_updates_go_on_after_reading_and_merging(device):
    fed, other, whole = CrossMoments(), CrossMoments(), CrossMoments(mode="exact")
    for k, (x, y) in enumerate(batches(4)):
        (fed if k % 2 else other).update(x, y)
        whole._add(x, y)
        if k == 1:
            fed.correlation()
    fed.merge(other)
    assert fed.count == whole.count
    torch.testing.assert_close(
        fed.correlation().double(), whole.correlation(), rtol=2e-6, atol=2e-6
    )


def test_all_layers_of_a_batch_share_the_launches(device):
    pairs = list(batches(8, (5, 6, 2, 2)))
    held = [CrossMoments() for _ in pairs]
    statistics.update_moments(held, [x for x, _ in pairs], [y for _, y in pairs])
    assert device.launches == 5  # two descriptions, preparation, products, sums
    assert all(moments.count == 20 for moments in held)


def test_an_accumulator_that_comes_twice_takes_both_batches(device):
    (x, y), (v, w) = batches(2)
    fed, whole = CrossMoments(), CrossMoments(mode="exact")
    statistics.update_moments([fed, fed], [x, v], [y, w])
    for pair in ((x, y), (v, w)):
        whole._add(*pair)
    assert fed.count == whole.count
    torch.testing.assert_close(
        fed.correlation().double(), whole.correlation(), rtol=2e-6, atol=2e-6
    )


def test_exact_mode_takes_small_values_without_a_warning(device):
    x = 1e-3 * torch.randn(40, 3, generator=torch.Generator().manual_seed(3))
    late = torch.cat((torch.zeros(600, 3), 1e-9 * x))
    moments = CrossMoments(mode="exact")
    for part in (late[:600], late[600:]):
        moments.update(part, part)
    torch.testing.assert_close(
        moments.correlation(), cross_correlation(late.double(), late.double())
    )


def spiked():
    x = torch.randn(1200, 3, generator=torch.Generator().manual_seed(1))
    y = x.clone()
    y[1, 1] = 1e7
    return x, y


def test_values_out_of_range_are_an_error_or_computed_exactly(device):
    x, y = spiked()
    moments = CrossMoments()
    moments.update(x, y)
    with pytest.raises(ValueError, match="mode='exact'"):
        moments.correlation()
    expected = cross_correlation(x, y, mode="exact")
    found = cross_correlation(x, y)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)


def test_units_that_come_to_life_too_quietly_are_reported(device):
    x = torch.randn(600, 3, generator=torch.Generator().manual_seed(2))
    silent = x.clone()
    silent[:, 0] = 0
    moments = CrossMoments()
    moments.update(silent, x)
    moments.update(torch.where(torch.arange(3) == 0, 1e-6 * x, x), x)
    with pytest.warns(LmcWarning, match="1 units"):
        moments.correlation()


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'half'"):
        CrossMoments(mode="half")
