import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from lmc_fast import PermutationSpec, SpecMismatchError, match

SPEC = "h = 6\nw: h 4\nv: 3 h"


def state(seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return {
        "w": torch.randn(6, 4, generator=g).to(dtype),
        "v": torch.randn(3, 6, generator=g).to(dtype),
    }


def moved(change):
    return {name: change(tensor) for name, tensor in state().items()}


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (moved(lambda w: w.to_sparse()), "expected a dense tensor"),
        (moved(lambda w: w.to("meta")), "values in memory, got a meta tensor"),
        (moved(lambda w: w.numpy()), "expected a tensor, got ndarray"),
        ({"w": 1, "v": 2}, "expected a tensor, got int"),
    ],
)
def test_tensors_that_cannot_be_read_are_named(a, message):
    with pytest.raises(TypeError, match=message):
        match(a, a, spec=SPEC)


def test_complex_weights_are_refused():
    a = moved(lambda w: w.to(torch.complex64))
    with pytest.raises(SpecMismatchError, match="expected real weights"):
        match(a, a, spec=SPEC)


def test_fake_tensors_are_named():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = {"w": torch.empty(6, 4), "v": torch.empty(3, 6)}
    with pytest.raises(TypeError, match="values in memory"):
        match(fake, fake, spec=SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spec": 3}, "spec: expected a PermutationSpec"),
        ({"initial": 3}, "initial: expected a dict"),
        ({"generator": 0}, "generator: expected a torch.Generator"),
    ],
)
def test_arguments_of_the_wrong_type_are_named(change, message):
    with pytest.raises(TypeError, match=message):
        match(state(), state(), **{"spec": SPEC, **change})


@pytest.mark.cuda
def test_two_devices_are_named():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    with pytest.raises(SpecMismatchError, match="device cpu in A, cuda:0 in B"):
        match(state(), moved(lambda w: w.to("cuda")), spec=SPEC)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_give_the_same_match(dtype):
    expected = match(state(), state(1), spec=SPEC)
    found = match(state(dtype=dtype), state(1, dtype), spec=SPEC)
    assert torch.equal(found.permutation["h"], expected.permutation["h"])


def test_transposed_and_expanded_views_match_as_their_copies():
    a, b = state(), state(1)
    views = {"w": b["w"].T.contiguous().T, "v": b["v"].flip(0).flip(0)}
    expanded = {"w": torch.randn(1, 4).expand(6, 4), "v": b["v"]}
    assert torch.equal(
        match(a, views, spec=SPEC).permutation["h"], match(a, b, spec=SPEC).permutation["h"]
    )
    copied = {name: tensor.clone() for name, tensor in expanded.items()}
    assert torch.equal(
        match(a, expanded, spec=SPEC).permutation["h"],
        match(a, copied, spec=SPEC).permutation["h"],
    )


def test_a_is_b_gives_the_identity_and_equal_units_stay():
    a = state()
    a["w"][3] = a["w"][2]
    a["v"][:, 3] = a["v"][:, 2]
    assert torch.equal(match(a, a, spec=SPEC).permutation["h"], torch.arange(6))
    dead = {"w": torch.zeros(6, 4), "v": torch.zeros(3, 6)}
    assert torch.equal(match(dead, dead, spec=SPEC).permutation["h"], torch.arange(6))


def test_a_spec_without_groups_matches_nothing():
    spec = PermutationSpec.parse("w: 6 4\nv: 3 6")
    result = match(state(), state(1), spec=spec)
    assert result.permutation == {}
    assert result.objective == 0


INTERRUPTED = """
import signal, sys, time, torch, lmc_fast
spec = lmc_fast.PermutationSpec.parse("h = 3000\\nw: h 64")
g = torch.Generator().manual_seed(0)
a, b = ({"w": torch.randn(3000, 64, generator=g)} for _ in range(2))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
print("ready", flush=True)
try:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lmc_fast.match(a, b, spec=spec, restarts=3)
except KeyboardInterrupt:
    start = time.perf_counter()
    small = lmc_fast.PermutationSpec.parse("h = 3\\nw: h 2")
    lmc_fast.match({"w": a["w"][:3, :2]}, {"w": b["w"][:3, :2]}, spec=small)
    print("interrupted", flush=True)
"""


def test_interrupt_stops_a_match_and_the_next_call_works():
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "ready"
        time.sleep(1.0)
        start = time.perf_counter()
        os.kill(process.pid, signal.SIGINT)
        assert process.stdout.readline().strip() == "interrupted"
        assert time.perf_counter() - start < 2.0
        assert process.wait(30) == 0


def _in_child(queue):
    queue.put(match(state(), state(1), spec=SPEC).permutation["h"].tolist())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_match():
    expected = match(state(), state(1), spec=SPEC).permutation["h"].tolist()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(30)
    assert child.exitcode == 0
