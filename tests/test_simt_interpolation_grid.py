"""The interpolation grid's kernel, run on the host by the SIMT shim, against float64."""

import pytest
import torch
from lmc_fast._cuda.interpolation_grid import head_cross_entropy, mixed_cross_entropy
from simt_host import HostLauncher, compile_kernels, host_kernels
from torch.nn import functional as F


@pytest.fixture(scope="module")
def library():
    return host_kernels("interpolation_grid")


def problem(anchors, points, samples, hidden, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    shares = torch.rand(points, anchors, generator=generator)
    shares[0] = torch.eye(anchors)[0]
    return (
        [normal(samples, hidden) for _ in range(anchors)],
        [normal(classes, hidden) / hidden**0.5 for _ in range(anchors)],
        [normal(classes) for _ in range(anchors)],
        shares / shares.sum(1, keepdim=True),
        torch.randint(0, classes, (samples,), generator=generator),
    )


def reference(preactivations, weights, biases, shares, targets):
    def mixed(tensors):
        return torch.einsum("ka,a...->k...", shares.double(), torch.stack(tensors).double())

    hidden = mixed(preactivations).relu()
    logits = torch.einsum("knh,kch->knc", hidden, mixed(weights)) + mixed(biases)[:, None]
    flat = logits.flatten(0, 1)
    loss = F.cross_entropy(flat, targets.repeat(len(shares)), reduction="none")
    kept = targets != -100
    wrong = (logits.argmax(2) != targets) & kept
    return loss.view(len(shares), -1), wrong.to(torch.uint8)


def run(library, inputs, seed=0):
    status = torch.zeros(1, dtype=torch.int32)
    launcher = HostLauncher(library, seed)
    return *mixed_cross_entropy(*inputs, status, launcher=launcher), status.item()


SHAPES = [
    (2, 1, 1, 1, 2),
    (2, 9, 130, 16, 10),
    (2, 3, 140, 33, 3),
    (2, 5, 20, 24, 11),
    (2, 2, 7, 20, 100),
    (3, 17, 129, 20, 10),
    (3, 4, 5, 7, 23),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_error_match_float64_on_ragged_shapes(library, shape):
    inputs = problem(*shape)
    loss, wrong, status = run(library, inputs)
    expected, expected_wrong = reference(*inputs)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(wrong, expected_wrong)
    assert status == 0


def test_views_that_start_off_the_16_byte_grid(library):
    inputs = problem(2, 3, 40, 12, 5)
    inputs = (
        [torch.cat((t.flatten()[:1], t.flatten()))[1:].view(40, 12) for t in inputs[0]],
        *inputs[1:],
    )
    loss, _, _ = run(library, inputs)
    torch.testing.assert_close(loss, reference(*inputs)[0], rtol=2e-6, atol=2e-6)


def test_samples_left_out_count_nothing(library):
    inputs = problem(2, 3, 40, 12, 5)
    inputs[4][::3] = -100
    loss, wrong, status = run(library, inputs)
    expected, expected_wrong = reference(*inputs)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(wrong, expected_wrong)
    assert status == 0


@pytest.mark.parametrize("bad", [5, -1, 1 << 40])
def test_targets_that_are_no_class_set_the_status(library, bad):
    inputs = problem(2, 3, 40, 12, 5)
    inputs[4][7] = bad
    assert run(library, inputs)[2] == 1


def test_a_confident_prediction_keeps_the_digits_of_its_loss(library):
    inputs = problem(2, 1, 4, 4, 3)
    for bias in inputs[2]:
        bias.copy_(torch.tensor([14.0, 0.0, 0.0]))
    inputs[4].zero_()
    loss, wrong, _ = run(library, inputs)
    torch.testing.assert_close(loss, reference(*inputs)[0], rtol=1e-5, atol=0)
    assert not wrong.any()


def test_nan_reaches_the_loss(library):
    inputs = problem(2, 2, 4, 8, 3)
    inputs[0][0][2, 5] = torch.nan
    loss, _, _ = run(library, inputs)
    assert loss[:, 2].isnan().all()
    assert not loss[:, [0, 1, 3]].isnan().any()


def test_any_schedule_gives_the_same_bits(library):
    inputs = problem(2, 9, 50, 40, 10)
    assert torch.equal(run(library, inputs, 1)[0], run(library, inputs, 2)[0])


def head_problem(points, samples, hidden, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(points, hidden, samples, generator=generator),
        torch.randn(points, classes, hidden, generator=generator) / hidden**0.5,
        torch.randn(points, classes, generator=generator),
        torch.randint(0, classes, (samples,), generator=generator),
    )


def head_reference(activations, weights, biases, targets, rectify):
    wide = activations.double()
    wide = wide.relu() if rectify else wide
    logits = torch.baddbmm(biases.double()[..., None], weights.double(), wide).transpose(1, 2)
    flat = logits.flatten(0, 1)
    loss = F.cross_entropy(flat, targets.repeat(len(biases)), reduction="none")
    wrong = (logits.argmax(2) != targets) & (targets != -100)
    return loss.view(len(biases), -1), wrong.to(torch.uint8)


def run_head(library, inputs, seed=0, *, rectify=True):
    status = torch.zeros(1, dtype=torch.int32)
    launcher = HostLauncher(library, seed)
    found = head_cross_entropy(*inputs, status, rectify=rectify, launcher=launcher)
    return *found, status.item()


@pytest.mark.parametrize("rectify", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 300, 70, 10), (2, 7, 9, 23), (5, 30, 128, 3)])
def test_a_head_over_given_activations_matches_float64(library, shape, rectify):
    inputs = head_problem(*shape)
    inputs[3][::4] = -100
    loss, wrong, status = run_head(library, inputs, rectify=rectify)
    expected, expected_wrong = head_reference(*inputs, rectify)
    torch.testing.assert_close(loss, expected, rtol=2e-6, atol=2e-6)
    assert torch.equal(wrong, expected_wrong)
    assert status == 0


def test_a_head_reports_targets_that_are_no_class_and_keeps_nan(library):
    inputs = head_problem(2, 12, 8, 3)
    inputs[0][1, 4, 6] = torch.nan
    inputs[3][2] = 3
    loss, _, status = run_head(library, inputs)
    assert status == 1
    assert loss.isnan().nonzero().tolist() == [[1, 6]]


MUTANTS = {
    "missing wait": (
        "        wait_copies<0>();\n        barrier();\n        if (stage + 1 < stages) {",
        "        barrier();\n        if (stage + 1 < stages) {",
    ),
    "missing barrier": (
        "        wait_copies<0>();\n        barrier();\n        if (stage + 1 < stages) {",
        "        wait_copies<0>();\n        if (stage + 1 < stages) {",
    ),
    "wrong row": ("(lane + 32 * s) * pitch + unit", "(lane + 31 * s) * pitch + unit"),
    "stale weights": ("mix_weights(stage + 1, origin)", "mix_weights(stage, origin)"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_planted_faults_are_caught(mutant, tmp_path):
    library = compile_kernels("interpolation_grid", tmp_path, replacements=(MUTANTS[mutant],))
    inputs = problem(2, 9, 70, 40, 10)
    loss, _, _ = run(library, inputs)
    assert not torch.allclose(loss, reference(*inputs)[0], rtol=2e-6, atol=2e-6)


HEAD_MUTANTS = {
    "missing barrier": (
        "        barrier();\n        if (stage + 1 < stages)\n",
        "        if (stage + 1 < stages)\n",
    ),
    "ragged edge": ("value[s][k] = first + k < left && sample", "value[s][k] = sample"),
}


@pytest.mark.parametrize("mutant", HEAD_MUTANTS)
def test_planted_faults_of_a_head_are_caught(mutant, tmp_path):
    fault = HEAD_MUTANTS[mutant]
    library = compile_kernels("interpolation_grid", tmp_path, replacements=(fault,))
    activations, weights, biases, targets = head_problem(3, 70, 130, 10)
    activations[:, 129:] = torch.nan  # what lies beyond the part that is given
    inputs = activations[:1, :129], weights[:1, :, :129], biases[:1], targets
    loss, _, _ = run_head(library, inputs)
    assert not torch.allclose(loss, head_reference(*inputs, True)[0], rtol=2e-6, atol=2e-6)
