import json
import os
import subprocess
import sys

import pytest
import torch
from lmc_fast import Matching, apply_permutation, invert, random_permutation
from lmc_fast.checkpoints import load_state_dict, save_state_dict
from lmc_fast.cli import main
from lmc_fast.nets import MLP
from lmc_fast.spec import PermutationSpec

MODEL = ["--model", "lmc_fast.nets:MLP", "--model-args", '{"sizes": [64, 24, 10]}']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two checkpoints, B a permuted copy of A, and a data file."""
    monkeypatch.chdir(tmp_path)
    a = MLP((64, 24, 10))
    spec = PermutationSpec.from_model(a, torch.zeros(2, 64))
    p = random_permutation(spec, generator=torch.Generator().manual_seed(0))
    save_state_dict(a.state_dict(), "a.safetensors")
    save_state_dict(apply_permutation(spec, invert(p), a.state_dict()), "b.pt")
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(1))
    save_state_dict({"inputs": x, "targets": torch.arange(50) % 10}, "data.safetensors")
    return tmp_path


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return code, (json.loads(out) if out else None), err


@pytest.mark.parametrize("extra", [[], ["--data", "data.safetensors"]])
def test_match_apply_barrier(folder, capsys, extra):
    code, result, err = run(
        capsys, "match", "a.safetensors", "b.pt", *MODEL, *extra, "--out", "p.safetensors"
    )
    assert code == 0
    assert result["converged"]
    assert result["method"] == ("activations" if extra else "weights")
    assert "proven" in err
    assert Matching.load("p.safetensors").objective == result["objective"]

    code, _, _ = run(capsys, "apply", "p.safetensors", "b.pt", "--out", "aligned.safetensors")
    assert code == 0
    a, aligned = load_state_dict("a.safetensors"), load_state_dict("aligned.safetensors")
    assert all(torch.equal(a[n], aligned[n]) for n in a)

    for permutation in ([], ["--permutation", "p.safetensors"]):
        code, curve, _ = run(
            capsys, "barrier", "a.safetensors", "b.pt", *MODEL, "--data", "data.safetensors",
            "--alphas", 5, *permutation,
        )  # fmt: skip
        assert code == 0
        assert set(curve["loss_barrier"]) == {"chord", "mean", "max", "midpoint"}
        losses = curve["curve"]["loss"]
        assert (max(losses) - min(losses) < 1e-6) == bool(permutation)


def test_verify_prints_the_spec_and_the_verdict(folder, capsys):
    code, verdict, err = run(capsys, "verify", *MODEL, "--input-shape", "2,64")
    assert code == 0
    assert verdict["passed"]
    assert "head.weight:" in err
    assert "# proof: 1 random permutation" in err
    assert "# nothing is pinned" in err
    assert verdict["change"] < verdict["tolerance"] == 1e-10
    (folder / "wrong.txt").write_text("h = 24\nlinears.0.weight: h 64\nhead.weight: 10 h")
    code, verdict, _ = run(capsys, "verify", *MODEL, "--spec", "wrong.txt")
    assert code == 1
    assert not verdict["passed"]
    assert verdict["failed"] == ["h"]


def test_hand_written_spec_serves_without_a_model(folder, capsys):
    (folder / "spec.txt").write_text("linears.0.weight: h 64\nlinears.0.bias: h\nhead.weight: 10 h")
    code, result, _ = run(
        capsys, "match", "a.safetensors", "b.pt", "--spec", "spec.txt", "--out", "p.safetensors"
    )
    assert code == 0
    assert result["proof"].startswith("given; not proven")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["match", "absent.pt", "b.pt", *MODEL, "--out", "p"], "found nothing"),
        (["match", "a.safetensors", "b.pt", "--out", "p"], "expected --model or --spec"),
        (["match", "a.safetensors", "b.pt", *MODEL, "--out", "a.safetensors"], "another file"),
        (["match", "a.safetensors", "b.pt", *MODEL, "--out", "no/p"], "existing folder"),
        (["match", "a.safetensors", "b.pt", *MODEL, "--out", "data.safetensors"], "--force"),
        (
            ["match", "a.safetensors", "b.pt", "--model", "nonsense", "--out", "p"],
            "package.module:factory",
        ),
        (
            ["match", "a.safetensors", "b.pt", "--model", "no.such:thing", "--out", "p"],
            "No module named",
        ),
        (
            ["match", "data.safetensors", "b.pt", *MODEL, "--out", "p"],
            "expected a checkpoint of lmc_fast.nets:MLP",
        ),
        (["apply", "a.safetensors", "b.pt", "--out", "q.pt"], "saved by Matching.save"),
        (
            ["barrier", "a.safetensors", "b.pt", *MODEL, "--data", "a.safetensors"],
            "expected tensors 'inputs' and 'targets'",
        ),
        (["barrier", "a.safetensors", "b.pt", *MODEL, "--data", "mnist"], "data directory"),
        (["verify", *MODEL, "--input-shape", "2,x"], "--input-shape: expected integers"),
        (["verify", *MODEL[:2], "--model-args", "[1]"], "expected a JSON object"),
        (["demo", "--width", "0"], "--width: expected at least 1"),
        (["demo", "--data", "mnist"], "data directory"),
    ],
)
def test_refused_input_is_one_line_on_stderr_and_writes_nothing(folder, capsys, argv, message):
    before = sorted(os.listdir(folder))
    code, result, err = run(capsys, *argv)
    assert code == 1
    assert result is None
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(folder)) == before


def test_force_overwrites(folder, capsys):
    arguments = ["match", "a.safetensors", "b.pt", *MODEL, "--out", "p.safetensors"]
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments)[0] == 1
    assert run(capsys, *arguments, "--force")[0] == 0


def test_a_misunderstood_command_line_exits_with_2():
    with pytest.raises(SystemExit) as caught:
        main(["match"])
    assert caught.value.code == 2


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "lmc_fast.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "align" in done.stdout.lower()


def test_demo_writes_everything(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--width", "16", "--out", str(out)]) == 0
    table, _ = capsys.readouterr()
    for word in ("unaligned", "weights", "activations", "MLP", "ResNet", "objective", "bound"):
        assert word in table
    assert {p.name for p in out.iterdir()} == {
        "mlp-weights.safetensors",
        "mlp-activations.safetensors",
        "resnet-weights.safetensors",
        "resnet-activations.safetensors",
        "curves.json",
        "barrier.png",
    }
    rows = json.loads((out / "curves.json").read_text())["rows"]
    assert len(rows) == 6
    assert main(["demo", "--out", str(out)]) == 1
