import pytest
import torch
from lmc_fast import PermutationSpec, apply_permutation, compose, match, random_permutation
from lmc_fast.errors import SpecMismatchError
from lmc_fast.matching import disagreement, match_many, mean_state
from lmc_fast.matching.many import METHODS
from lmc_fast.nets import MLP

MODEL = MLP((6, 12, 12, 3))
SPEC = PermutationSpec.from_model(MODEL, torch.randn(2, 6))


def family(count: int, noise: float):
    """One network, permuted at random and disturbed `count` times."""
    g = torch.Generator().manual_seed(0)
    base = {n: torch.randn(t.shape, generator=g) for n, t in MODEL.state_dict().items()}
    return [
        apply_permutation(
            SPEC,
            random_permutation(SPEC, generator=g),
            {n: t + noise * torch.randn(t.shape, generator=g) for n, t in base.items()},
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_planted_permutations_are_undone(method: str):
    states = family(4, 0.05)
    found = match_many(states, method=method, spec=SPEC)
    aligned = found.apply(states)
    for other in aligned[1:]:
        for name, tensor in other.items():
            assert float((tensor - aligned[0][name]).abs().max()) < 0.5
    merged = found.merge(states)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, mean_state(aligned)[name])
    assert found.converged


@pytest.mark.parametrize("method", METHODS)
def test_pairwise_permutations_are_cycle_consistent(method: str):
    states = [
        {n: torch.randn(t.shape, generator=g) for n, t in MODEL.state_dict().items()}
        for g in [torch.Generator().manual_seed(7)]
        for _ in range(4)
    ]
    found = match_many(states, method=method, spec=SPEC)
    around = compose(compose(found.between(0, 1), found.between(1, 2)), found.between(2, 0))
    assert all(torch.equal(p, torch.arange(len(p))) for p in around.values())
    assert all(
        v == 0
        for v in disagreement(
            found.between(0, 2),
            around | {g: compose(found.between(0, 1), found.between(1, 2))[g] for g in around},
        ).values()
    )


def test_the_sum_over_pairs_never_falls_and_joint_methods_beat_the_reference():
    states = family(5, 1.5)
    found = {m: match_many(states, method=m, spec=SPEC) for m in METHODS}
    for matching in found.values():
        for before, after in zip(matching.history, matching.history[1:], strict=False):
            assert after >= before - 1e-4 * abs(before)
    assert found["merge_many"].objective >= found["reference"].objective
    pairs = found["universe"]
    aligned = pairs.apply(states)
    total = sum(
        float((aligned[i][n] * aligned[j][n]).sum())
        for i in range(5)
        for j in range(i)
        for n in aligned[0].keys() - {"head.bias"}  # no group moves it
    )
    assert pairs.objective == pytest.approx(total, rel=1e-4)


def test_two_networks_reduce_to_match():
    states = family(2, 0.3)
    direct = match(states[0], states[1], spec=SPEC).permutation
    found = match_many(states, method="reference", spec=SPEC).between(0, 1)
    assert all(torch.equal(found[g], direct[g]) for g in direct)


def test_disagreement_counts_units():
    a = {"g": torch.tensor([0, 1, 2, 3])}
    assert disagreement(a, {"g": torch.tensor([1, 0, 2, 3])}) == {"g": 0.5}
    with pytest.raises(SpecMismatchError, match="same groups"):
        disagreement(a, {"h": torch.tensor([0, 1, 2, 3])})


def test_bad_families_are_refused():
    states = family(2, 0.1)
    for call, message in (
        (lambda: match_many(states[:1], spec=SPEC), "at least two"),
        (lambda: match_many(states, spec=SPEC, method="x"), "expected one of"),
        (lambda: match_many(states, spec=SPEC, reference=2), "0 to 1"),
        (lambda: match_many(states), "spec="),
        (lambda: match_many(states, spec=SPEC).merge(states[:1]), "2 networks, got 1"),
        (lambda: mean_state([]), "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_integer_buffers_are_kept():
    mean = mean_state([{"n": torch.tensor(3)}, {"n": torch.tensor(4)}])
    assert mean["n"].dtype == torch.int64
    assert int(mean["n"]) == 3
