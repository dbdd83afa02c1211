import pytest
import torch
from lmc_fast.reduction import HiddenLayer, reduce_units


def layer(width: int, seed: int = 0) -> HiddenLayer:
    g = torch.Generator().manual_seed(seed)
    return HiddenLayer(
        torch.randn(width, 3, generator=g, dtype=torch.float64),
        torch.randn(width, generator=g, dtype=torch.float64),
        torch.randn(2, width, generator=g, dtype=torch.float64),
        torch.randn(2, generator=g, dtype=torch.float64),
    )


def output(net: HiddenLayer, x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x @ net.w_in.T + net.bias) @ net.w_out.T + net.bias_out


X = torch.randn(200, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def test_exact_multiples_are_merged_without_changing_the_function():
    net = layer(6)
    scale = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)
    copies = HiddenLayer(
        torch.cat([net.w_in, net.w_in[:3] * scale[:, None]]),
        torch.cat([net.bias, net.bias[:3] * scale]),
        torch.cat([net.w_out, net.w_out[:, 3:]], dim=1),
        net.bias_out,
    )
    reduced, units = reduce_units(copies, X)
    assert reduced.width == 6
    assert len(units.unique()) == 6
    torch.testing.assert_close(output(reduced, X), output(copies, X))


def test_opposite_units_are_not_merged():
    net = layer(1)
    pair = HiddenLayer(
        torch.cat([net.w_in, -net.w_in]),
        torch.cat([net.bias, -net.bias]),
        net.w_out.repeat(1, 2),
        net.bias_out,
    )
    assert reduce_units(pair, X)[0].width == 2


def test_dead_units_go_without_changing_the_function():
    net = layer(5)
    net.bias[2] = -100
    reduced, units = reduce_units(net, X)
    assert units.tolist() == [0, 1, 3, 4]
    torch.testing.assert_close(output(reduced, X), output(net, X))


def test_reduction_is_idempotent_and_leaves_its_input_alone():
    net = layer(200)
    before = net.w_out.clone()
    once, _ = reduce_units(net, X, min_cosine=0.9)
    twice, _ = reduce_units(once, X, min_cosine=0.9)
    assert torch.equal(net.w_out, before)
    assert once.width == twice.width < 200


def test_padding_keeps_the_function_and_refuses_to_shrink():
    net = layer(4)
    torch.testing.assert_close(output(net.padded(9), X), output(net, X))
    with pytest.raises(ValueError, match="at least 4"):
        net.padded(3)


def test_a_layer_of_dead_units_becomes_empty():
    net = layer(3)
    net.bias.fill_(-100)
    reduced, _ = reduce_units(net, X)
    assert reduced.width == 0
    torch.testing.assert_close(output(reduced, X), net.bias_out.expand(200, 2))


def test_the_early_stop_leaves_about_half_of_many_copies():
    net = layer(4)
    copies = HiddenLayer(
        net.w_in.repeat(16, 1), net.bias.repeat(16), net.w_out.repeat(1, 16), net.bias_out
    )
    exhausted, _ = reduce_units(copies)
    early, _ = reduce_units(copies, stop="half seen")
    assert exhausted.width == 4
    assert 4 < early.width <= 36
    torch.testing.assert_close(output(early, X), output(copies, X))
    with pytest.raises(ValueError, match="half seen"):
        reduce_units(net, stop="early")
