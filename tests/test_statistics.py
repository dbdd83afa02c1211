import lmc_fast
import pytest
import torch
from lmc_fast import CrossMoments, cross_correlation

MODES = {
    "correlation": (True, True),
    "covariance": (True, False),
    "cosine": (False, True),
    "gram": (False, False),
}


def reference(x, y, centered, normalized):
    x, y = x.double(), y.double()
    n = len(x)
    if centered:
        x, y = x - x.mean(0), y - y.mean(0)
    product = x.T @ y
    if normalized:
        norm = x.norm(dim=0)[:, None] * y.norm(dim=0)
        return torch.where(norm > 0, product / norm, 0.0)
    return product / n if centered else product


def draw(seed, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_mode_equals_its_definition(mode, dtype):
    x = (draw(0, 300, 7) * 2 + 1).to(dtype)
    y = (draw(1, 300, 5) + x[:, :5].float()).to(dtype)
    result = cross_correlation(x, y, centered=MODES[mode][0], normalized=MODES[mode][1])
    expected = reference(x, y, *MODES[mode])
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(
        result.double(), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item()
    )


def test_large_mean_beside_small_variance():
    x = (1e3 + 1e-3 * draw(0, 20_000, 6, dtype=torch.float64)).float()
    y = (1e3 + 1e-3 * draw(1, 20_000, 6, dtype=torch.float64)).float() + (x - 1e3)
    torch.testing.assert_close(
        cross_correlation(x, y).double(), reference(x, y, True, True), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("mode", MODES)
def test_chunks_batches_and_merges_do_not_matter(mode):
    x, y = draw(0, 20_000, 6) + 3, draw(1, 20_000, 4).exp()
    whole, parts, other = CrossMoments(), CrossMoments(), CrossMoments()
    whole.update(x, y)
    for start in range(0, 12_000, 1500):
        parts.update(x[start : start + 1500], y[start : start + 1500])
    other.update(x[12_000:], y[12_000:])
    parts.merge(other)
    parts.merge(CrossMoments())
    assert parts.count == whole.count == 20_000
    expected = getattr(whole, mode)()
    torch.testing.assert_close(getattr(parts, mode)(), expected, rtol=1e-6, atol=1e-6)


def test_spatial_positions_are_samples():
    x, y = draw(0, 10, 4, 3, 5), draw(1, 10, 6, 3, 5)
    rows = [t.permute(0, 2, 3, 1).reshape(-1, t.shape[1]) for t in (x, y)]
    torch.testing.assert_close(cross_correlation(x, y), cross_correlation(*rows))


def test_dead_units_have_correlation_zero_and_are_counted():
    x = draw(0, 100, 4)
    x[:, 1] = 0
    x[:, 2] = 1234.567
    moments = CrossMoments()
    moments.update(x, x)
    assert moments.dead_x.tolist() == [False, True, True, False]
    correlation = moments.correlation()
    assert torch.equal(correlation[1:3], torch.zeros(2, 4))
    assert correlation.isfinite().all()
    assert correlation.diagonal()[[0, 3]].tolist() == pytest.approx([1, 1], abs=1e-6)


def test_inputs_are_detached_and_unchanged():
    x = draw(0, 10, 3).requires_grad_()
    before = x.detach().clone()
    assert not cross_correlation(x, x).requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(3), torch.zeros(3), ValueError, "same samples"),
        (torch.zeros(3, 2), torch.zeros(4, 2), ValueError, "same samples"),
        (torch.zeros(3, 2, 4), torch.zeros(3, 2, 5), ValueError, "same samples"),
        (torch.zeros(3, 2).long(), torch.zeros(3, 2), TypeError, "float dtype"),
        ([[1.0]], torch.zeros(1, 1), TypeError, "got list"),
        (torch.zeros(0, 2), torch.zeros(0, 2), ValueError, "at least one sample"),
    ],
)
def test_bad_input_is_named(x, y, error, message):
    with pytest.raises(error, match=message):
        cross_correlation(x, y)


def test_changed_unit_counts_are_refused():
    moments = CrossMoments()
    moments.update(draw(0, 5, 3), draw(1, 5, 2))
    with pytest.raises(ValueError, match="as before"):
        moments.update(draw(0, 5, 4), draw(1, 5, 2))
    other = CrossMoments()
    other.update(draw(0, 5, 4), draw(1, 5, 2))
    with pytest.raises(ValueError, match="expected a"):
        moments.merge(other)


def test_public_names():
    assert lmc_fast.CrossMoments is CrossMoments


@pytest.mark.parametrize("kind", [torch.relu, lambda z: torch.where(z > 2.5, z, 0.0), torch.exp])
def test_skewed_activations_keep_their_accuracy_over_long_runs(kind):
    z = draw(0, 65_536, 8)
    x, y = kind(z), kind(0.95 * z + 0.3 * draw(1, 65_536, 8))
    error = cross_correlation(x, y).double() - reference(x, y, True, True)
    assert error.abs().max().item() < 2e-6
