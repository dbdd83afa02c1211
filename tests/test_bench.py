"""The benchmarks still fit the package: each says its options, and one that looks inside runs."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from lmc_fast.nets import MLP

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.__main__ import NAMES  # noqa: E402
from bench.assignment_warm import measure  # noqa: E402


@pytest.mark.parametrize("name", NAMES)
def test_every_command_tells_its_options(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(f"bench.{name}").main(["--help"])
    assert stopped.value.code == 0
    assert f"bench {name}" in capsys.readouterr().out


def test_assignments_with_duals_are_timed_both_ways_inside_match():
    nets = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        nets.append(MLP((20, 48, 48, 48, 10)))
    sweeps, solves = measure(*nets, torch.zeros(2, 20))
    assert 0 < len(solves) <= 3 * sweeps
    assert all(solve["cold"] > 0 and solve["warm"] > 0 for solve in solves)
