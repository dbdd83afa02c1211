import numpy as np
import pytest
import torch
from lmc_fast.data import batches, count_batches
from torch.utils.data import DataLoader, TensorDataset

X = torch.arange(10.0).reshape(5, 2)
Y = torch.arange(5)


@pytest.mark.parametrize(
    "data",
    [
        (X, Y),
        (X.numpy(), Y.numpy()),
        [(X[:2], Y[:2]), (X[2:], Y[2:])],
        DataLoader(TensorDataset(X, Y), batch_size=3),
        iter([(X[:4], Y[:4]), (X[4:], Y[4:])]),
    ],
    ids=["tensors", "arrays", "list", "loader", "iterator"],
)
def test_every_kind_of_data_yields_the_same_examples(data):
    parts = list(batches(data, batch_size=2))
    assert torch.equal(torch.cat([part.inputs for part in parts]), X)
    assert torch.equal(torch.cat([part.targets for part in parts]), Y)


def test_inputs_alone_have_no_targets():
    for data in (X, [X[:3], X[3:]]):
        parts = list(batches(data))
        assert torch.equal(torch.cat([part.inputs for part in parts]), X)
        assert all(part.targets is None for part in parts)


def test_inputs_may_be_tuples_and_mappings():
    (part,) = batches([((X, X), Y)])
    assert part.inputs[1] is X
    (part,) = batches([({"x": X}, Y)])
    assert part.inputs["x"] is X


@pytest.mark.parametrize("data", [[], (X[:0], Y[:0]), iter(()), [(X[:0], Y[:0])]])
def test_empty_data_is_refused(data):
    with pytest.raises(ValueError, match="empty"):
        list(batches(data))


@pytest.mark.parametrize("data", [None, 3, "abc", {"x": X}])
def test_unknown_kinds_are_refused(data):
    with pytest.raises(TypeError, match="data must be"):
        batches(data)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="equal length"):
        batches((X, Y[:3]))
    with pytest.raises(ValueError, match="5 inputs but targets"):
        list(batches([(X, Y[:3])]))


def test_a_one_shot_iterator_serves_one_pass_and_says_so():
    with pytest.raises(ValueError, match="one-shot"):
        batches(iter([(X, Y)]), passes=2)


def test_batches_are_counted_where_they_can_be():
    assert count_batches((X, Y), batch_size=2) == 3
    assert count_batches(np.zeros((4, 1)), batch_size=2) == 2
    assert count_batches([(X, Y)]) == 1
    assert count_batches(iter([(X, Y)])) is None
