import lmc_fast
import pytest
import torch
from lmc_fast import PermutationSpec, apply_permutation, random_permutation
from lmc_fast.errors import SpecMismatchError
from lmc_fast.matching import match_sequence, transport_masks
from lmc_fast.nets import MLP

SIZES = (6, 16, 16, 3)
MODEL = MLP(SIZES)
SPEC = PermutationSpec.from_model(MODEL, torch.randn(2, 6))


def states(count: int, seed: int) -> list[dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(seed)
    return [
        {name: torch.randn(t.shape, generator=g) for name, t in MODEL.state_dict().items()}
        for _ in range(count)
    ]


def noisy(state, seed: int, scale: float):
    g = torch.Generator().manual_seed(seed)
    return {n: t + scale * torch.randn(t.shape, generator=g) for n, t in state.items()}


def share_found(matching, permutation) -> float:
    hits = [matching.permutation[g] == permutation[g].argsort() for g in permutation]
    return float(torch.cat(hits).double().mean())


def test_joint_matching_recovers_what_no_single_step_can():
    """The planted permutation drowns in each step's noise, but not in the sum over the steps."""
    a = states(24, 0)
    planted = random_permutation(SPEC, generator=torch.Generator().manual_seed(1))
    b = [apply_permutation(SPEC, planted, noisy(s, 100 + i, 2.5)) for i, s in enumerate(a)]
    joint = match_sequence(a, b, spec=SPEC, restarts=4)
    single = match_sequence(a, b, spec=SPEC, step=0, restarts=4)
    assert share_found(joint, planted) == 1.0
    assert share_found(single, planted) < 0.9
    assert joint.spec == SPEC


def test_the_joint_objective_is_the_sum_of_the_steps():
    a, b = states(3, 0), states(3, 1)
    joint = match_sequence(a, b, spec=SPEC)
    total = sum(
        float((x[name] * moved[name]).sum())
        for x, y in zip(a, b, strict=True)
        for moved in [joint.apply(y)]
        for name in x.keys() - {"head.bias"}  # no group moves it
    )
    assert joint.objective == pytest.approx(total, rel=1e-4)
    assert joint.objective <= joint.bound


def test_one_step_is_match_at_that_step():
    a, b = states(3, 0), states(3, 1)
    for step in (0, -1):
        found = match_sequence(a, b, spec=SPEC, step=step).permutation
        expected = lmc_fast.match(a[step], b[step], spec=SPEC).permutation
        assert all(torch.equal(found[g], expected[g]) for g in expected)
    joint_of_one = match_sequence(a[:1], b[:1], spec=SPEC).permutation
    alone = lmc_fast.match(a[0], b[0], spec=SPEC).permutation
    assert all(torch.equal(joint_of_one[g], alone[g]) for g in alone)


def test_modules_bring_their_own_spec():
    nets = [MLP(SIZES), MLP(SIZES)]
    found = match_sequence(nets, nets[::-1], example_inputs=torch.randn(2, 6))
    assert sorted(found.spec.groups.values()) == [16, 16]
    assert isinstance(found.apply(nets[0]), MLP)


def test_masks_move_with_the_weights():
    (state,) = states(1, 5)
    masks = {name: (t > 0) for name, t in state.items() if t.ndim == 2}
    pruned = {n: t * masks[n] if n in masks else t for n, t in state.items()}
    matching = lmc_fast.match(states(1, 6)[0], pruned, spec=SPEC)
    moved, moved_masks = matching.apply(pruned), transport_masks(matching, masks)
    for name, mask in moved_masks.items():
        assert mask.dtype == torch.bool
        assert torch.equal(moved[name] != 0, mask)
    with pytest.raises(SpecMismatchError):
        transport_masks(matching, {"head.weight": torch.ones(2, 2)})
    with pytest.raises(SpecMismatchError, match=r"no\.such"):
        transport_masks(matching, {"no.such": torch.ones(2, 2)})


def test_bad_sequences_are_refused():
    a = states(2, 0)
    for call, message in (
        (lambda: match_sequence(a, a[:1], spec=SPEC), "2 and 1"),
        (lambda: match_sequence([], [], spec=SPEC), "length >= 1"),
        (lambda: match_sequence(a, a, spec=SPEC, step=2), "one of 2 steps"),
        (lambda: match_sequence(a, a), "expected spec="),
        (lambda: match_sequence(a, a, spec=SPEC, data=torch.randn(4, 6)), "one of weights"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
