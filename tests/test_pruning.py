from itertools import pairwise

import pytest
import torch
from lmc_fast.datasets import make_moons
from lmc_fast.nets import MLP
from lmc_fast.pruning import iterative_magnitude_pruning, prune_smallest
from lmc_fast.recipe import Recipe
from lmc_fast.training import train

MOONS = make_moons(200)


def test_the_smallest_of_the_remaining_weights_go():
    state = {"a": torch.tensor([[1.0, -5.0], [0.5, 3.0]]), "b": torch.tensor([[-2.0, 0.1]])}
    masks = {name: torch.ones_like(value) for name, value in state.items()}
    once = prune_smallest(state, masks, 0.5)
    assert once["a"].tolist() == [[0, 1], [0, 1]]
    assert once["b"].tolist() == [[1, 0]]
    twice = prune_smallest(state, once, 1 / 3)
    assert twice["a"].tolist() == [[0, 1], [0, 1]]
    assert twice["b"].tolist() == [[0, 0]]
    assert sum(m.sum() for m in prune_smallest(state, twice, 1.0).values()) == 0
    with pytest.raises(ValueError, match="0 to 1"):
        prune_smallest(state, masks, 1.5)


def test_levels_are_nested_and_the_masked_weights_are_zero():
    recipe = Recipe("sgd", lr=0.1, epochs=3, batch_size=50)
    model = MLP((2, 16, 1), binary=True)
    levels = iterative_magnitude_pruning(
        model, MOONS, recipe, seed=0, levels=3, share=0.25, rewind_epoch=1
    )
    assert len(levels) == 4
    for before, after in pairwise(levels):
        assert after.density == pytest.approx(0.75 * before.density, abs=0.02)
        for name, mask in after.masks.items():
            assert (mask <= before.masks[name]).all()
            assert (after.state[name][mask == 0] == 0).all()
    dense = train(model, MOONS, recipe, seed=0).state_dict()
    assert all(torch.equal(dense[name], levels[0].state[name]) for name in dense)


def test_without_pruning_every_level_is_the_dense_network():
    recipe = Recipe("sgd", lr=0.1, epochs=2, batch_size=50)
    dense, again = iterative_magnitude_pruning(
        MLP((2, 8, 1), binary=True), MOONS, recipe, seed=3, levels=1, share=0.0, rewind_epoch=1
    )
    assert all(torch.equal(dense.state[name], again.state[name]) for name in dense.state)
    with pytest.raises(ValueError, match="rewind_epoch"):
        iterative_magnitude_pruning(
            MLP((2, 1), binary=True), MOONS, recipe, seed=0, levels=1, rewind_epoch=9
        )
